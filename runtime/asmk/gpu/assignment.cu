/* The nearest words of descriptors on a GPU, with the distances of runtime/native/assignment.c, to the bit.

   The m nearest words lie in those m groups of words whose nearest word is nearest. `group_minima` finds every group's
   with float products; `nearest_words` computes all distances in the nearest groups anew, as the CPU does. It looks at
   more groups than m, so that the rounding of products decides nothing.

   The host defines DIMENSIONS, a multiple of STEP: rows are padded with zeros, which change no distance. */

#if !defined(DIMENSIONS) || !defined(GROUP) || !defined(ROWS) || !defined(MAX_GROUPS)
#error "DIMENSIONS, GROUP, ROWS and MAX_GROUPS must be defined"
#endif

#ifndef INFINITY
#define INFINITY __int_as_float(0x7f800000)
#endif

typedef unsigned int uint32;

enum {
    STEP = 16,  /* dimensions that are in shared memory at a time, and lanes that share a distance */
    LANES = 16, /* threads that share a row of products: each has GROUP / LANES words */
    THREADS = 256,
    OWN_ROWS = ROWS * LANES / THREADS,
    OWN_WORDS = GROUP / LANES,
    QUARTER = STEP / 4 /* of a row's dimensions, which are loaded four at a time */
};
static_assert(DIMENSIONS % STEP == 0 && ROWS * QUARTER == THREADS, "the tile does not fit the block");

static __device__ float smallest_of_lanes(float value)
{
    for (int distance = LANES / 2; distance > 0; distance /= 2)
        value = fminf(value, __shfl_xor_sync(0xffffffffu, value, distance));
    return value;
}

static __device__ float sum_of_lanes(float value)
{
    for (int distance = LANES / 2; distance > 0; distance /= 2) /* the order of _mm512_reduce_add_ps */
        value += __shfl_xor_sync(0xffffffffu, value, distance);
    return value;
}

/* Block (x, y): min over the words c of group x of ½‖c‖² − x·c, which orders words as ‖x − c‖² does, for ROWS
   descriptors [n, DIMENSIONS] from ROWS·y on. Writes [n, groups]. Padding words have infinite ½‖c‖². */
extern "C" __global__ void group_minima(const float *descriptors, const float *words, const float *half_squared_norms,
                                        uint32 n, float *minima)
{
    __shared__ float row_part[STEP][ROWS + 4], word_part[STEP][GROUP + 4];
    const uint32 thread = threadIdx.x, lane = thread % LANES, first = thread / LANES * OWN_ROWS;
    const uint32 group = blockIdx.x, begin = blockIdx.y * ROWS;
    float sums[OWN_ROWS][OWN_WORDS] = {};

    for (uint32 start = 0; start < DIMENSIONS; start += STEP) {
        const uint32 line = thread / QUARTER, column = thread % QUARTER * 4;
        for (uint32 part = 0; part < GROUP + ROWS; part += ROWS) { /* the words, then the descriptors */
            const bool is_word = part < GROUP;
            const uint32 row = is_word ? group * GROUP + part + line : begin + line;
            const float *source = (is_word ? words : descriptors) + (unsigned long long)row * DIMENSIONS;
            float four[4] = {};
            if (is_word || row < n)
                for (int i = 0; i < 4; i++)
                    four[i] = source[start + column + i];
            for (int i = 0; i < 4; i++)
                (is_word ? &word_part[column + i][part] : &row_part[column + i][0])[line] = four[i];
        }
        __syncthreads();
#pragma unroll
        for (int k = 0; k < STEP; k++) {
            float own_words[OWN_WORDS];
#pragma unroll
            for (int j = 0; j < OWN_WORDS; j++)
                own_words[j] = word_part[k][lane + LANES * j];
#pragma unroll
            for (int i = 0; i < OWN_ROWS; i++)
#pragma unroll
                for (int j = 0; j < OWN_WORDS; j++)
                    sums[i][j] = fmaf(row_part[k][first + i], own_words[j], sums[i][j]);
        }
        __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < OWN_ROWS; i++) {
        float least = INFINITY;
#pragma unroll
        for (int j = 0; j < OWN_WORDS; j++)
            least = fminf(least, half_squared_norms[group * GROUP + lane + LANES * j] - sums[i][j]);
        least = smallest_of_lanes(least);
        if (lane == 0 && begin + first + i < n)
            minima[(unsigned long long)(begin + first + i) * gridDim.x + group] = least;
    }
}

/* A value and where it is; of equal values the first comes first. What is no number, and −∞, count as ∞. */
struct entry {
    float value;
    uint32 place;
};

static __device__ struct entry entry_of(float value, uint32 place)
{
    return {value > -INFINITY ? value : INFINITY, place};
}

static __device__ bool precedes(struct entry a, struct entry b)
{
    return a.value < b.value || (a.value == b.value && a.place < b.place);
}

/* The first of all threads' entries, for all of them. */
static __device__ struct entry first_of_block(struct entry own)
{
    __shared__ struct entry entries[THREADS];
    entries[threadIdx.x] = own;
    __syncthreads();
    for (uint32 half = THREADS / 2; half > 0; half /= 2) {
        if (threadIdx.x < half && precedes(entries[threadIdx.x + half], entries[threadIdx.x]))
            entries[threadIdx.x] = entries[threadIdx.x + half];
        __syncthreads();
    }
    const struct entry first = entries[0];
    __syncthreads();
    return first;
}

/* Block x: the `nearest` words of descriptor x, nearest first, and of equally near ones the lowest first, from the
   `candidates` groups with the least minima. Writes [n, nearest]. */
extern "C" __global__ void nearest_words(const float *descriptors, const float *words, const float *minima, uint32 size,
                                         uint32 groups, uint32 candidates, uint32 nearest, uint32 *assigned)
{
    __shared__ uint32 chosen[MAX_GROUPS];
    __shared__ float distances[MAX_GROUPS * GROUP];
    const uint32 thread = threadIdx.x, lane = thread % LANES;
    const struct entry none = {INFINITY, 0xffffffffu};
    const float *descriptor = descriptors + (unsigned long long)blockIdx.x * DIMENSIONS;

    struct entry last = {-INFINITY, 0};
    for (uint32 i = 0; i < candidates; i++) {
        struct entry own = none;
        for (uint32 group = thread; group < groups; group += THREADS) {
            const struct entry other = entry_of(minima[(unsigned long long)blockIdx.x * groups + group], group);
            if (precedes(last, other) && precedes(other, own))
                own = other;
        }
        last = first_of_block(own);
        if (thread == 0)
            chosen[i] = last.place;
    }
    __syncthreads();
    for (uint32 i = thread / LANES; i < candidates * GROUP; i += THREADS / LANES) {
        const float *word = words + (unsigned long long)(chosen[i / GROUP] * GROUP + i % GROUP) * DIMENSIONS;
        float sum = 0;
        for (uint32 k = lane; k < DIMENSIONS; k += LANES) {
            const float difference = descriptor[k] - word[k];
            sum = fmaf(difference, difference, sum);
        }
        sum = sum_of_lanes(sum);
        if (lane == 0)
            distances[i] = sum;
    }
    __syncthreads();
    last = {-INFINITY, 0};
    for (uint32 i = 0; i < nearest; i++) {
        struct entry own = none;
        for (uint32 j = thread; j < candidates * GROUP; j += THREADS) {
            const struct entry other = entry_of(distances[j], chosen[j / GROUP] * GROUP + j % GROUP);
            if (other.place < size && precedes(last, other) && precedes(other, own))
                own = other;
        }
        last = first_of_block(own);
        if (thread == 0)
            assigned[(unsigned long long)blockIdx.x * nearest + i] = last.place;
    }
}
