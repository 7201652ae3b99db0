/* ASMK scores: every entry of the query's words adds the weight of its match to its image. */

#include <stdint.h>
#include <string.h>

#include "cpu.h"
#include "guard.h"
#include "inverted_file.h"

enum {
    STEP = 16,        /* entries that are compared at a time */
    SURVIVORS = 1024, /* entries whose weight is not 0, collected before they are added */
    AHEAD = 64,       /* how many steps ahead entries are fetched: lists lie anywhere in a large file */
    LISTS = 512,      /* lists that are looked up at a time */
    SOON = 16,        /* how many words of the query ahead their rows are fetched */
};

/* The sums of all images: int64 [IMAGES] or, if they are known to fit, uint32 [IMAGES] in units of 2^shift. That halves
   the memory that additions are scattered over. The other pointer is NULL. */
struct sums {
    int64_t *wide;
    uint32_t *narrow;
    int shift;
};

/* One list of the inverted file, and the query's code that it is compared with. */
struct list {
    const uint16_t *images;
    const uint64_t *codes;
    int64_t entries;
    const uint64_t *query;
};

/* Adds the weights of entries, each given as distance << 16 | image. */
static inline void add(const uint32_t *kept, int64_t count, const int64_t *weights, struct sums sums)
{
    if (sums.narrow)
        for (int64_t i = 0; i < count; i++)
            sums.narrow[kept[i] & 0xffff] += (uint32_t)(weights[kept[i] >> 16] >> sums.shift);
    else
        for (int64_t i = 0; i < count; i++)
            sums.wide[kept[i] & 0xffff] += weights[kept[i] >> 16];
}

static void score_lists(const struct list *lists, int64_t n, int64_t code_length, const int64_t *weights,
                        struct sums sums)
{
    for (const struct list *list = lists; list < lists + n; list++)
        for (int64_t entry = 0; entry < list->entries; entry++) {
            uint32_t distance = (uint32_t)hamming(list->codes + entry * code_length, list->query, code_length);
            uint32_t kept = distance << 16 | list->images[entry];
            add(&kept, 1, weights, sums);
        }
}

#if defined(__x86_64__)

/* Where entries are fetched: AHEAD steps before they are needed, across the end of a list. Lists are short: stopping at
   the end of each would mean waiting for the memory at the start of the next. */
struct fetching {
    const struct list *list, *end;
    int64_t entry;
};

static inline void fetch_step(struct fetching *at)
{
    if (at->list == at->end)
        return;
    const char *codes = (const char *)(at->list->codes + 2 * at->entry);
    for (int64_t byte = 0; byte < 16 * STEP; byte += 64)
        __builtin_prefetch(codes + byte);
    __builtin_prefetch(at->list->images + at->entry);
    at->entry += STEP;
    if (at->entry >= at->list->entries)
        at->list++, at->entry = 0;
}

/* Sums of neighbours: 0 + 1 of a, 0 + 1 of b, 2 + 3 of a, and so on. */
AVX512 static inline __m512i add_pairs(__m512i a, __m512i b)
{
    return _mm512_add_epi64(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b));
}

/* The distance << 16 | image of each of up to STEP entries. */
AVX512 static inline __m512i compare_step(const uint16_t *images, const uint64_t *codes, int64_t entries, __m512i query)
{
    const __m512i in_order = _mm512_setr_epi32(0, 4, 8, 12, 2, 6, 10, 14, 16, 20, 24, 28, 18, 22, 26, 30);
    __m512i bits[4];
    for (int part = 0; part < 4; part++) { /* four entries each */
        int64_t words = 2 * entries - 8 * part;
        __mmask8 there = words >= 8 ? 0xff : words <= 0 ? 0 : (__mmask8)((1u << words) - 1);
        bits[part] = _mm512_popcnt_epi64(_mm512_xor_si512(_mm512_maskz_loadu_epi64(there, codes + 8 * part), query));
    }
    __m512i distances = _mm512_permutex2var_epi32(add_pairs(bits[0], bits[1]), in_order, add_pairs(bits[2], bits[3]));
    __mmask16 there = entries >= STEP ? 0xffff : (__mmask16)((1u << entries) - 1);
    __m512i numbers = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(there, images));
    return _mm512_or_si512(_mm512_slli_epi32(distances, 16), numbers);
}

/* score_lists for codes of 128 bits; distances from `cutoff` on have no weight. The entries nearer than that are
   kept and added afterwards: no branch is mispredicted, and about half of the scattered additions are saved. */
AVX512 static void score_lists_128(const struct list *lists, int64_t n, const int64_t *weights, int64_t cutoff,
                                   struct sums sums)
{
    const __m512i limit = _mm512_set1_epi32((int)(cutoff << 16));
    struct fetching ahead = {lists, lists + n, 0};
    for (int step = 0; step < AHEAD; step++)
        fetch_step(&ahead);
    uint32_t kept[SURVIVORS + STEP];
    int64_t count = 0;
    for (const struct list *list = lists; list < lists + n; list++) {
        const __m512i query = _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)list->query));
        for (int64_t entry = 0; entry < list->entries; entry += STEP) {
            fetch_step(&ahead);
            int64_t left = list->entries - entry;
            __m512i both = compare_step(list->images + entry, list->codes + 2 * entry, left, query);
            __mmask16 there = left >= STEP ? 0xffff : (__mmask16)((1u << left) - 1);
            __mmask16 counts = _mm512_mask_cmplt_epu32_mask(there, both, limit);
            _mm512_storeu_si512(kept + count, _mm512_maskz_compress_epi32(counts, both));
            count += __builtin_popcount(counts);
            if (count >= SURVIVORS) {
                add(kept, count, weights, sums);
                count = 0;
            }
        }
    }
    add(kept, count, weights, sums);
}

#endif

/* The first row from `row` on whose word is not below `word`. If no word is missing in between, the difference of the
   words leads to it; otherwise doubling steps do, because it is near. */
static int64_t row_of(struct inverted_file file, int64_t row, uint32_t word)
{
    const uint32_t *words = file.words;
    if (words[row] >= word)
        return row;
    int64_t dense = row + (int64_t)(word - words[row]), step = 1, below = row;
    if (dense < file.rows && words[dense] == word)
        return dense;
    while (row + step < file.rows && words[row + step] < word)
        below = row + step, step *= 2;
    int64_t above = row + step < file.rows ? row + step : file.rows;
    while (below < above) {
        int64_t middle = (below + above) / 2;
        if (words[middle] < word)
            below = middle + 1;
        else
            above = middle;
    }
    return below;
}

/* Fetches the row where the word is if none is missing in between: a wrong guess costs nothing. */
static inline void fetch_row(struct inverted_file file, int64_t row, uint32_t word)
{
    int64_t guess = row + (int64_t)word - (int64_t)file.words[row];
    if (guess < 0 || guess >= file.rows)
        return;
    __builtin_prefetch(file.words + guess);
    __builtin_prefetch(file.offsets + guess);
}

static struct list list_of(struct inverted_file file, int64_t row, const uint64_t *query)
{
    int64_t begin = file.offsets[row];
    return (struct list){file.images + begin, file.codes + begin * file.code_length, file.offsets[row + 1] - begin, query};
}

static void score(const struct list *lists, int64_t n, int64_t code_length, const int64_t *weights, int64_t cutoff,
                  struct sums sums)
{
    (void)cutoff; /* unused without AVX-512 */
#if defined(__x86_64__)
    if (code_length == 2 && has_avx512()) {
        score_lists_128(lists, n, weights, cutoff, sums);
        return;
    }
#endif
    score_lists(lists, n, code_length, weights, sums);
}

static void score_query(struct inverted_file file, const uint32_t *words, const uint64_t *codes, int64_t n,
                        const int64_t *weights, int64_t cutoff, struct sums sums)
{
    struct list lists[LISTS];
    int64_t found = 0, row = 0;
    for (int64_t i = 0; i < n && row < file.rows; i++) {
        if (i + SOON < n)
            fetch_row(file, row, words[i + SOON]);
        row = row_of(file, row, words[i]);
        if (row < file.rows && file.words[row] == words[i])
            lists[found++] = list_of(file, row, codes + i * file.code_length);
        if (found == LISTS) {
            score(lists, found, file.code_length, weights, cutoff, sums);
            found = 0;
        }
    }
    score(lists, found, file.code_length, weights, cutoff, sums);
}

/* The `shift` for which the sum of n weights, each divided by 2^shift without a remainder, fits uint32; −1 if there is
   none. An image matches at most the n words of the query. */
static int narrow_shift(const int64_t *weights, int64_t distances, int64_t n)
{
    int64_t largest = 0, bits = 0;
    for (int64_t i = 0; i < distances; i++) {
        if (weights[i] < 0)
            return -1;
        bits |= weights[i];
        largest = weights[i] > largest ? weights[i] : largest;
    }
    int shift = bits ? __builtin_ctzll((uint64_t)bits) : 0;
    return n == 0 || (largest >> shift) <= UINT32_MAX / n ? shift : -1;
}

/* The arguments of howl_score. */
struct scoring {
    struct inverted_file file;
    const uint32_t *words;
    const uint64_t *codes;
    int64_t rows;
    const int64_t *weights;
    int64_t n;
    uint32_t *narrow;
    int64_t *totals;
};

static void fill_totals(void *arguments)
{
    const struct scoring at = *(struct scoring *)arguments;
    int64_t distances = 64 * at.file.code_length + 1, cutoff = distances;
    while (cutoff > 0 && at.weights[cutoff - 1] == 0)
        cutoff--;
    int shift = narrow_shift(at.weights, distances, at.rows);
    if (shift < 0) {
        memset(at.totals, 0, IMAGES * sizeof *at.totals);
        score_query(at.file, at.words, at.codes, at.rows, at.weights, cutoff, (struct sums){at.totals, NULL, 0});
        return;
    }
    memset(at.narrow, 0, IMAGES * sizeof *at.narrow);
    score_query(at.file, at.words, at.codes, at.rows, at.weights, cutoff, (struct sums){NULL, at.narrow, shift});
    for (int64_t image = 0; image < at.n; image++)
        at.totals[image] = (int64_t)at.narrow[image] << shift;
}

/* The inverted file as in InvertedFile, and a query, both with ascending words; `weights` int64 [64 · code_length + 1]
   by Hamming distance. Fills `totals` int64 [IMAGES], of which the first n are valid. `narrow` uint32 [IMAGES] is
   working memory. No entry can name an image beyond IMAGES. Returns as howl_guarded. */
int howl_score(const uint32_t *words, const int64_t *offsets, int64_t rows, const uint16_t *images,
               const uint64_t *codes, int64_t code_length, const uint32_t *query_words, const uint64_t *query_codes,
               int64_t query_rows, const int64_t *weights, int64_t n, uint32_t *narrow, int64_t *totals)
{
    struct inverted_file file = {words, offsets, rows, images, codes, code_length};
    struct scoring at = {file, query_words, query_codes, query_rows, weights, n, narrow, totals};
    return howl_guarded(fill_totals, &at);
}
