/* Aggregation: the signs of the summed residuals of an image's descriptors, word by word. */

#include <stdint.h>
#include <string.h>

#include "cpu.h"

enum {
    DIGIT = 8,
    DIGITS = 1 << DIGIT,
    AHEAD = 8, /* how many descriptors ahead centroids are fetched: they lie anywhere in the codebook */
};

/* Radix sort by the upper 32 bits; equal ones keep their order. Returns the array that has the result: `keys` or
   `spare`. */
static uint64_t *sort_by_word(uint64_t *keys, uint64_t *spare, int64_t n)
{
    for (int shift = 32; shift < 64; shift += DIGIT) {
        int64_t starts[DIGITS + 1] = {0};
        for (int64_t i = 0; i < n; i++)
            starts[1 + ((keys[i] >> shift) & (DIGITS - 1))]++;
        if (starts[1 + ((keys[0] >> shift) & (DIGITS - 1))] == n)
            continue; /* all have the same digit */
        for (int digit = 0; digit < DIGITS; digit++)
            starts[digit + 1] += starts[digit];
        for (int64_t i = 0; i < n; i++)
            spare[starts[(keys[i] >> shift) & (DIGITS - 1)]++] = keys[i];
        uint64_t *swap = keys;
        keys = spare, spare = swap;
    }
    return keys;
}

static void pack_signs(const float *sums, int64_t dimensions, uint64_t *code)
{
    for (int64_t start = 0; start < dimensions; start += 64) {
        int64_t end = start + 64 < dimensions ? start + 64 : dimensions;
        uint64_t bits = 0;
        for (int64_t i = start; i < end; i++)
            bits |= (uint64_t)(sums[i] > 0) << (i - start);
        *code++ = bits;
    }
}

static inline void fetch(const float *vector, int64_t dimensions)
{
    for (int64_t i = 0; i < dimensions; i += 16)
        __builtin_prefetch(vector + i);
}

/* Descriptors and their words' centroids, float [·, dimensions]. */
struct space {
    const float *descriptors, *centroids;
    int64_t dimensions;
};

/* Turns sorted keys, word << 32 | descriptor, into distinct words and their codes, and returns how many. It is compiled
   once for each kind of processor, with the `pack` of that kind. */
static inline __attribute__((always_inline)) int64_t encode(const uint64_t *keys, int64_t n, struct space space,
                                                            uint32_t *distinct, uint64_t *codes,
                                                            void (*pack)(const float *, int64_t, uint64_t *))
{
    int64_t found = 0, dimensions = space.dimensions, code_length = (dimensions + 63) / 64;
    float sums[dimensions];
    for (int64_t i = 0; i < n; found++) {
        uint64_t word = keys[i] >> 32;
        const float *centroid = space.centroids + word * dimensions;
        memset(sums, 0, sizeof sums);
        for (; i < n && keys[i] >> 32 == word; i++) {
            if (i + AHEAD < n)
                fetch(space.centroids + (keys[i + AHEAD] >> 32) * dimensions, dimensions);
            const float *descriptor = space.descriptors + (uint32_t)keys[i] * dimensions;
            for (int64_t j = 0; j < dimensions; j++)
                sums[j] += descriptor[j] - centroid[j];
        }
        distinct[found] = (uint32_t)word;
        pack(sums, dimensions, codes + found * code_length);
    }
    return found;
}

#if defined(__x86_64__)

AVX512 static void pack_signs_by_16(const float *sums, int64_t dimensions, uint64_t *code)
{
    memset(code, 0, (size_t)((dimensions + 63) / 64 * 8));
    for (int64_t i = 0; i < dimensions; i += 16) {
        __mmask16 there = dimensions - i >= 16 ? 0xffff : (__mmask16)((1u << (dimensions - i)) - 1);
        __m512 values = _mm512_maskz_loadu_ps(there, sums + i);
        uint64_t bits = _mm512_cmp_ps_mask(values, _mm512_setzero_ps(), _CMP_GT_OQ);
        code[i / 64] |= bits << (i % 64);
    }
}

AVX512 static int64_t encode_avx512(const uint64_t *keys, int64_t n, struct space space, uint32_t *distinct,
                                    uint64_t *codes)
{
    return encode(keys, n, space, distinct, codes, pack_signs_by_16);
}

#endif

/* `words` int64 [n, assignments] below `size`, the rows of `centroids`; `keys`, `spare` and the outputs have room for
   all of them. Returns the number of distinct words, or −1 if a word is out of range. */
int64_t howl_aggregate(const float *descriptors, const int64_t *words, int64_t n, int64_t assignments,
                       const float *centroids, int64_t size, int64_t dimensions, uint64_t *keys, uint64_t *spare,
                       uint32_t *distinct, uint64_t *codes)
{
    const struct space space = {descriptors, centroids, dimensions};
    int64_t pairs = 0;
    for (int64_t descriptor = 0; descriptor < n; descriptor++) {
        for (int64_t i = 0; i < assignments; i++, pairs++) {
            if (words[pairs] < 0 || words[pairs] >= size)
                return -1;
            keys[pairs] = (uint64_t)words[pairs] << 32 | (uint64_t)descriptor;
        }
    }
    if (pairs == 0)
        return 0;
    keys = sort_by_word(keys, spare, pairs);
#if defined(__x86_64__)
    if (has_avx512())
        return encode_avx512(keys, pairs, space, distinct, codes);
#endif
    return encode(keys, pairs, space, distinct, codes, pack_signs);
}
