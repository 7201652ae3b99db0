/* As much of CUDA C++ as the kernels use, for an ordinary C++ compiler: one thread after the other. */

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

static bool misaligned; /* a GPU would stop */

template <class T> static T read(const T *address)
{
    misaligned = misaligned || (uintptr_t)address % sizeof(T);
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

static int __popcll(unsigned long long bits)
{
    return __builtin_popcountll(bits);
}

static long long __double_as_longlong(double value)
{
    long long bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

template <size_t... I> struct numbers {};

template <size_t N, size_t... I> struct below : below<N - 1, N - 1, I...> {};

template <size_t... I> struct below<0, I...> {
    typedef numbers<I...> type;
};

template <class... T, size_t... I> static void call(void (*kernel)(T...), void **arguments, numbers<I...>)
{
    kernel(*(T *)arguments[I]...);
}

/* Runs the threads of all blocks in the given order, of the numbers from 0 on. Returns what is wrong, or null. */
template <class... T>
static const char *run(void (*kernel)(T...), void **arguments, const size_t *sizes, size_t count, const unsigned *shape,
                       const unsigned *order)
{
    const size_t expected[] = {sizeof(T)...};
    if (count != sizeof...(T) || memcmp(sizes, expected, sizeof expected))
        return "arguments of other sizes than the kernel declares";
    gridDim = {shape[0], shape[1], 1};
    blockDim = {shape[2], 1, 1};
    misaligned = false;
    for (size_t i = 0; i < (size_t)shape[0] * shape[1] * shape[2]; i++) {
        const unsigned thread = order[i], block = thread / shape[2];
        threadIdx = {thread % shape[2], 0, 0};
        blockIdx = {block % shape[0], block / shape[0], 0};
        call(kernel, arguments, typename below<sizeof...(T)>::type());
    }
    return misaligned ? "misaligned address" : nullptr;
}

#define KERNEL(name)                                                                                       \
    extern "C" const char *run_##name(void **arguments, const size_t *sizes, size_t count,                 \
                                      const unsigned *shape, const unsigned *order)                        \
    {                                                                                                      \
        return run(name, arguments, sizes, count, shape, order);                                           \
    }
