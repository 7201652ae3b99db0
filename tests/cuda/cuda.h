/* As much of CUDA C++ as the kernels use, for an ordinary C++ compiler: one thread after the other.

   With COOPERATIVE, the threads of a block run in turns: each until it waits for the others. */

#include <math.h>
#include <stdint.h>
#include <string.h>

#define __global__
#define __device__

struct index3 {
    unsigned x, y, z;
};
static index3 threadIdx, blockIdx, blockDim, gridDim;

struct ulonglong2 {
    unsigned long long x, y;
};

static const char *wrong; /* why a GPU would stop, or give something else each time; null if nothing is wrong */

template <class T> static T read(const T *address)
{
    if ((uintptr_t)address % sizeof(T))
        wrong = "misaligned address";
    return *address;
}

template <class T> static T __ldcs(const T *address)
{
    return read(address);
}

template <class T> static T __ldg(const T *address)
{
    return read(address);
}

template <class T> static T atomicAdd(T *address, T value)
{
    const T before = read(address);
    *address = before + value;
    return before;
}

template <class T> static T min(T a, T b)
{
    return b < a ? b : a;
}

template <class T> static T max(T a, T b)
{
    return a < b ? b : a;
}

static inline int __popcll(unsigned long long bits)
{
    return __builtin_popcountll(bits);
}

static inline long long __double_as_longlong(double value)
{
    long long bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

#ifdef COOPERATIVE
#include <setjmp.h>
#include <ucontext.h>

#define __shared__ static __attribute__((section("shared")))

/* ELF's linker gives where the section begins and ends. */
extern char shared_begin[] __asm__("__start_shared") __attribute__((visibility("hidden")));
extern char shared_end[] __asm__("__stop_shared") __attribute__((visibility("hidden")));

namespace turns {

enum { MOST = 1024, WARP = 32, STACK = 1 << 15 };
enum state { RUNS, AT_BARRIER, AT_SHUFFLE, ENDED };

static char stacks[MOST][STACK] __attribute__((aligned(16)));
static jmp_buf places[MOST], host; /* contexts only begin threads: to switch them takes two system calls */
static ucontext_t begin;
static state states[MOST];
static unsigned rounds; /* every thread waits once a round, or none does */
static void (*block)();

/* Lets the other threads go on until they wait or end, too. */
__attribute__((noinline)) static void wait(state as)
{
    states[threadIdx.x] = as;
    if (!_setjmp(places[threadIdx.x]))
        _longjmp(host, 1);
}

static void thread()
{
    block();
    states[threadIdx.x] = ENDED;
    _longjmp(host, 1);
}

/* Lets a thread run until it waits or ends. */
__attribute__((noinline)) static void go_on(unsigned number)
{
    threadIdx = {number, 0, 0};
    if (_setjmp(host))
        return;
    if (states[number] != RUNS)
        _longjmp(places[number], 1);
    getcontext(&begin);
    begin.uc_stack.ss_sp = stacks[number];
    begin.uc_stack.ss_size = STACK;
    makecontext(&begin, thread, 0);
    setcontext(&begin);
}

/* Runs the threads of a block, in each round in the given order. */
static void run_block(void (*body)(), const unsigned *order)
{
    block = body;
    memset(shared_begin, 0xA5, (size_t)(shared_end - shared_begin)); /* a GPU does not clear it either */
    for (unsigned i = 0; i < blockDim.x; i++)
        states[i] = RUNS;
    do {
        for (unsigned i = 0; i < blockDim.x; i++)
            go_on(order[i] % blockDim.x);
        rounds++;
        for (unsigned i = 1; i < blockDim.x; i++)
            if (states[i] != states[0]) {
                wrong = "threads of a block wait for different things, or some have ended";
                return;
            }
    } while (states[0] != ENDED);
}

} // namespace turns

static inline void __syncthreads()
{
    turns::wait(turns::AT_BARRIER);
}

template <class T> static T __shfl_xor_sync(unsigned mask, T value, unsigned lanes)
{
    static T values[2][turns::MOST]; /* by turns: a round later, others may not have read theirs */
    T *own = values[turns::rounds % 2];
    const unsigned partner = threadIdx.x ^ lanes;
    if (mask != 0xffffffffu || blockDim.x % turns::WARP || lanes >= turns::WARP)
        wrong = "a shuffle among lanes that do not all exist";
    own[threadIdx.x] = value;
    turns::wait(turns::AT_SHUFFLE);
    return own[partner % turns::MOST];
}
#endif

template <size_t... I> struct numbers {};

template <size_t N, size_t... I> struct below : below<N - 1, N - 1, I...> {};

template <size_t... I> struct below<0, I...> {
    typedef numbers<I...> type;
};

template <class... T, size_t... I> static void call(void (*kernel)(T...), void **arguments, numbers<I...>)
{
    kernel(*(T *)arguments[I]...);
}

template <class... T> static void call(void (*kernel)(T...), void **arguments)
{
    call(kernel, arguments, typename below<sizeof...(T)>::type());
}

/* Writes the size of every argument. Returns their number. */
template <class... T> static size_t sizes_of(void (*)(T...), size_t *sizes)
{
    const size_t declared[] = {sizeof(T)...};
    memcpy(sizes, declared, sizeof declared);
    return sizeof...(T);
}

/* Runs the threads of all blocks in the given order, of the numbers from 0 on; with COOPERATIVE, those of a block
   follow each other there. Returns what is wrong, or null. */
static const char *run(void (*body)(), const unsigned *shape, const unsigned *order)
{
    gridDim = {shape[0], shape[1], 1};
    blockDim = {shape[2], 1, 1};
    wrong = nullptr;
    const size_t threads = (size_t)shape[0] * shape[1] * shape[2];
#ifdef COOPERATIVE
    const size_t step = shape[2];
#else
    const size_t step = 1;
#endif
    for (size_t i = 0; i < threads && !wrong; i += step) {
        const unsigned number = order[i] / shape[2];
        blockIdx = {number % shape[0], number / shape[0], 0};
#ifdef COOPERATIVE
        turns::run_block(body, order + i);
#else
        threadIdx = {order[i] % shape[2], 0, 0};
        body();
#endif
    }
    return wrong;
}

#ifdef COOPERATIVE
extern "C" {
extern const int threads_cooperate;
const int threads_cooperate = 1;
}
#endif

static void **arguments_of_kernel;

#define KERNEL(name)                                                                                       \
    static void body_of_##name()                                                                           \
    {                                                                                                      \
        call(name, arguments_of_kernel);                                                                   \
    }                                                                                                      \
    extern "C" size_t sizes_##name(size_t *sizes)                                                          \
    {                                                                                                      \
        return sizes_of(name, sizes);                                                                      \
    }                                                                                                      \
    extern "C" const char *run_##name(void **arguments, const unsigned *shape, const unsigned *order)      \
    {                                                                                                      \
        arguments_of_kernel = arguments;                                                                   \
        return run(body_of_##name, shape, order);                                                          \
    }
