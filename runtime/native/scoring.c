/* ASMK scores: every entry of the query's words adds what its code is worth to its image. */

#include <stdint.h>
#include <string.h>

#include "cpu.h"

enum {
    SURVIVORS = 2048,
    AHEAD = 2048, /* bytes of codes that are fetched before they are needed; lists lie anywhere in a large file */
};

/* One list of the inverted file against one code of the query. */
struct list {
    const uint16_t *images;
    const uint64_t *codes;
    int64_t entries;
    const uint64_t *query;
};

static inline void prefetch(const void *start, int64_t bytes)
{
    for (int64_t byte = 0; byte < bytes; byte += 64)
        __builtin_prefetch((const char *)start + byte);
}

static inline int64_t hamming(const uint64_t *a, const uint64_t *b, int64_t length)
{
    int64_t different = 0;
    for (int64_t i = 0; i < length; i++)
        different += __builtin_popcountll(a[i] ^ b[i]);
    return different;
}

static void score_list(struct list list, int64_t code_length, const int64_t *worth, int64_t *totals)
{
    for (int64_t entry = 0; entry < list.entries; entry++)
        totals[list.images[entry]] += worth[hamming(list.codes + entry * code_length, list.query, code_length)];
}

#if defined(__x86_64__)

/* Sums of neighbours: 0 + 1 of a, 0 + 1 of b, 2 + 3 of a, and so on. */
AVX512 static inline __m512i add_pairs(__m512i a, __m512i b)
{
    return _mm512_add_epi64(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b));
}

/* The same for 128 bits, sixteen entries at a time; distances from `worthless` on are worth nothing. Entries nearer
   than that are kept, as distance << 16 | image, and added afterwards: no branch is mispredicted, and about half of
   the scattered additions are saved. */
AVX512 static void score_list_128(struct list list, const int64_t *worth, int64_t worthless, int64_t *totals)
{
    const __m512i query = _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)list.query));
    const __m512i in_order = _mm512_setr_epi32(0, 4, 8, 12, 2, 6, 10, 14, 16, 20, 24, 28, 18, 22, 26, 30);
    const __m512i limit = _mm512_set1_epi32((int)(worthless << 16));
    uint32_t kept[SURVIVORS + 16];
    int64_t count = 0;
    for (int64_t entry = 0; entry < list.entries; entry += 16) {
        int64_t left = list.entries - entry;
        prefetch((const char *)(list.codes + 2 * entry) + AHEAD, 16 * 16);
        prefetch((const char *)(list.images + entry) + AHEAD / 8, 16 * 2);
        __mmask16 valid = left >= 16 ? 0xffff : (__mmask16)((1u << left) - 1);
        __m512i bits[4];
        for (int part = 0; part < 4; part++) { /* four entries each */
            int64_t words = 2 * left - 8 * part;
            __mmask8 there = words >= 8 ? 0xff : words <= 0 ? 0 : (__mmask8)((1u << words) - 1);
            __m512i codes = _mm512_maskz_loadu_epi64(there, list.codes + 2 * entry + 8 * part);
            bits[part] = _mm512_popcnt_epi64(_mm512_xor_si512(codes, query));
        }
        __m512i distances = _mm512_permutex2var_epi32(add_pairs(bits[0], bits[1]), in_order, add_pairs(bits[2], bits[3]));
        __m512i images = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(valid, list.images + entry));
        __m512i both = _mm512_or_si512(_mm512_slli_epi32(distances, 16), images);
        __mmask16 counts = _mm512_mask_cmplt_epu32_mask(valid, both, limit);
        _mm512_storeu_si512(kept + count, _mm512_maskz_compress_epi32(counts, both));
        count += __builtin_popcount(counts);
        if (count >= SURVIVORS || left <= 16) {
            for (int64_t i = 0; i < count; i++)
                totals[kept[i] & 0xffff] += worth[kept[i] >> 16];
            count = 0;
        }
    }
}

#endif

/* The first row of ascending `words` from `row` on that is not below `word`: by doubling steps, for it is near. */
static int64_t row_of(const uint32_t *words, int64_t rows, int64_t row, uint32_t word)
{
    int64_t step = 1, below = row;
    while (row + step < rows && words[row + step] < word)
        below = row + step, step *= 2;
    int64_t above = row + step < rows ? row + step : rows;
    while (below < above) {
        int64_t middle = (below + above) / 2;
        if (words[middle] < word)
            below = middle + 1;
        else
            above = middle;
    }
    return below;
}

static void prefetch_list(struct list list, int64_t code_length)
{
    int64_t bytes = list.entries * code_length * 8;
    prefetch(list.codes, bytes < AHEAD ? bytes : AHEAD);
    prefetch(list.images, (bytes < AHEAD ? bytes : AHEAD) / (4 * code_length));
}

static void score(struct list list, int64_t code_length, const int64_t *worth, int64_t worthless, int64_t *totals)
{
    (void)worthless; /* where there is no AVX-512 */
#if defined(__x86_64__)
    if (code_length == 2 && has_avx512()) {
        score_list_128(list, worth, worthless, totals);
        return;
    }
#endif
    score_list(list, code_length, worth, totals);
}

/* The inverted file, `words` ascending, as of InvertedFile; a query, its words ascending; `worth` int64
   [64 · code_length + 1] by Hamming distance. Adds to `totals` int64 [65536]: uint16 cannot name an image beyond. */
void howl_score(const uint32_t *words, const int64_t *offsets, int64_t rows, const uint16_t *images,
                const uint64_t *codes, int64_t code_length, const uint32_t *query_words, const uint64_t *query_codes,
                int64_t query_rows, const int64_t *worth, int64_t *totals)
{
    int64_t worthless = 64 * code_length + 1;
    while (worthless > 0 && worth[worthless - 1] == 0)
        worthless--;
    struct list list = {0};
    int64_t row = 0;
    for (int64_t i = 0; i < query_rows && row < rows; i++) {
        row = row_of(words, rows, row, query_words[i]);
        if (row == rows || words[row] != query_words[i])
            continue;
        int64_t begin = offsets[row];
        struct list next = {images + begin, codes + begin * code_length, offsets[row + 1] - begin,
                            query_codes + i * code_length};
        prefetch_list(next, code_length); /* while the one before is scored */
        if (list.entries)
            score(list, code_length, worth, worthless, totals);
        list = next;
    }
    if (list.entries)
        score(list, code_length, worth, worthless, totals);
}
