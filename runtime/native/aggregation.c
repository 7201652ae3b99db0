/* Aggregation: the signs of the summed residuals of an image's descriptors, word by word. */

#include <stdint.h>
#include <string.h>

#include "cpu.h"

enum { DIGIT = 8, DIGITS = 1 << DIGIT };

/* Sorts by the upper 32 bits, keeping the order of equal ones: by digits, from the lowest. Returns where the result is:
   `keys` or `spare`. */
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

#else

#define pack_signs_by_16 pack_signs

#endif

/* `words` int64 [n, assignments] below `size`, the rows of `centroids`; `keys` and `spare` have room for all of them,
   as have the outputs. Returns the number of distinct words, or −1 where a word is out of range. */
int64_t howl_aggregate(const float *descriptors, const int64_t *words, int64_t n, int64_t assignments,
                       const float *centroids, int64_t size, int64_t dimensions, uint64_t *keys, uint64_t *spare,
                       uint32_t *distinct, uint64_t *codes)
{
    int64_t pairs = n * assignments, found = 0, code_length = (dimensions + 63) / 64;
    for (int64_t i = 0; i < pairs; i++) {
        if (words[i] < 0 || words[i] >= size)
            return -1;
        keys[i] = (uint64_t)words[i] << 32 | (uint64_t)(i / assignments);
    }
    if (pairs == 0)
        return 0;
    keys = sort_by_word(keys, spare, pairs);
    float sums[dimensions];
    for (int64_t i = 0; i < pairs; found++) {
        int64_t word = (int64_t)(keys[i] >> 32);
        const float *centroid = centroids + word * dimensions;
        memset(sums, 0, sizeof sums);
        for (; i < pairs && (int64_t)(keys[i] >> 32) == word; i++) {
            const float *descriptor = descriptors + (int64_t)(uint32_t)keys[i] * dimensions;
            for (int64_t j = 0; j < dimensions; j++)
                sums[j] += descriptor[j] - centroid[j];
        }
        distinct[found] = (uint32_t)word;
        (has_avx512() ? pack_signs_by_16 : pack_signs)(sums, dimensions, codes + found * code_length);
    }
    return found;
}
