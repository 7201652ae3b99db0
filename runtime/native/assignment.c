/* The nearest words of descriptors, exactly: 8-bit products over all words, then float distances for the few candidates
   that the rounding to 8 bits leaves open.

   With x̂ and ĉ the rounded descriptor and word, |‖x − c‖ − ‖x̂ − ĉ‖| ≤ ‖x − x̂‖ + ‖c − ĉ‖ (triangle inequality). The
   rounded distance of each of the m nearest words of x therefore exceeds that of the m-th nearest rounded word by at
   most twice the right side: the `slack`. All words within it are candidates. */

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "cpu.h"

enum {
    PANEL = 64,        /* words that are multiplied together: four registers of sixteen */
    TILE = 6,          /* descriptors that are multiplied with a panel together: 24 registers of sums */
    CANDIDATES = 1024, /* of a descriptor; one that needs more is left to the caller */
    FIRST = 128,       /* candidates before they are sorted out for the first time */
    LEAST = -(1 << 27), /* below every key of a word, and above every key of padding */
    MAX_NEAREST = 32,
};

/* The candidates found for one descriptor. A key is ½‖x̂‖² − ½‖x̂ − ĉ‖², larger for nearer words, in rounded units. */
struct search {
    int32_t least; /* the smallest key that can still matter */
    int32_t count;
    int32_t limit; /* sort out when there are more */
    int32_t offset; /* by which the accumulated sums exceed the keys */
    int32_t keys[CANDIDATES + PANEL];
    uint32_t words[CANDIDATES + PANEL];
};

int howl_can_assign(void)
{
    return has_avx512();
}

int64_t howl_search_bytes(void)
{
    return sizeof(struct search);
}

#if defined(__x86_64__)

static int32_t least_key(const struct search *search, int64_t nearest, int32_t squared_norm, float slack)
{
    int32_t best[MAX_NEAREST]; /* the largest keys, ascending */
    int64_t filled = 0;
    for (int32_t i = 0; i < search->count; i++) {
        int32_t key = search->keys[i];
        if (filled == nearest && key <= best[0])
            continue;
        int64_t place = filled < nearest ? filled++ : 0;
        if (place == 0) {
            while (place + 1 < filled && best[place + 1] < key)
                best[place] = best[place + 1], place++;
        } else {
            for (; place > 0 && best[place - 1] > key; place--)
                best[place] = best[place - 1];
        }
        best[place] = key;
    }
    if (filled < nearest)
        return LEAST;
    double squared = (double)squared_norm - 2.0 * (best[0] - search->offset);
    double farthest = sqrt(squared > 0 ? squared : 0) + slack;
    double key = 0.5 * (squared_norm - farthest * farthest) - 2; /* ½‖ĉ‖² was rounded */
    return key < LEAST ? LEAST : (int32_t)floor(key) + search->offset;
}

static void sort_out(struct search *search, int64_t nearest, int32_t squared_norm, float slack)
{
    search->least = least_key(search, nearest, squared_norm, slack);
    int32_t kept = 0;
    for (int32_t i = 0; i < search->count; i++) {
        search->keys[kept] = search->keys[i];
        search->words[kept] = search->words[i];
        kept += search->keys[i] >= search->least;
    }
    search->count = kept;
    search->limit = 2 * kept < FIRST ? FIRST : 2 * kept < CANDIDATES ? 2 * kept : CANDIDATES;
}

AVX512 static void keep_candidates(struct search *search, const __m512i sums[4], uint32_t first_word)
{
    const __m512i least = _mm512_set1_epi32(search->least);
    const __m512i count_up = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    for (int group = 0; group < 4; group++) {
        __mmask16 near = _mm512_cmpge_epi32_mask(sums[group], least);
        __m512i words = _mm512_add_epi32(count_up, _mm512_set1_epi32((int)first_word + 16 * group));
        _mm512_storeu_si512(search->keys + search->count, _mm512_maskz_compress_epi32(near, sums[group]));
        _mm512_storeu_si512(search->words + search->count, _mm512_maskz_compress_epi32(near, words));
        search->count += __builtin_popcount(near);
    }
}

/* Sums of products of a panel of words with a tile of descriptors, four dimensions per step. */
AVX512 static void multiply(const uint8_t *panel, const int32_t *biases, const int8_t *descriptors, int64_t steps,
                            __m512i sums[TILE][4])
{
    __m512i s[TILE][4];
#pragma clang loop unroll(full)
    for (int group = 0; group < 4; group++) {
        __m512i bias = _mm512_loadu_si512(biases + 16 * group);
#pragma clang loop unroll(full)
        for (int i = 0; i < TILE; i++)
            s[i][group] = bias;
    }
    for (int64_t step = 0; step < steps; step++) {
        __m512i words[4];
#pragma clang loop unroll(full)
        for (int group = 0; group < 4; group++)
            words[group] = _mm512_loadu_si512(panel + PANEL * 4 * step + 64 * group);
#pragma clang loop unroll(full)
        for (int i = 0; i < TILE; i++) {
            int32_t four;
            memcpy(&four, descriptors + 4 * (steps * i + step), 4);
            __m512i x = _mm512_set1_epi32(four);
#pragma clang loop unroll(full)
            for (int group = 0; group < 4; group++)
                s[i][group] = _mm512_dpbusd_epi32(s[i][group], words[group], x);
        }
    }
    memcpy(sums, s, sizeof s);
}

AVX512 static float squared_distance(const float *a, const float *b, int64_t dimensions)
{
    __m512 sum = _mm512_setzero_ps();
    for (int64_t i = 0; i < dimensions; i += 16) {
        __mmask16 valid = dimensions - i >= 16 ? 0xffff : (__mmask16)((1u << (dimensions - i)) - 1);
        __m512 difference = _mm512_sub_ps(_mm512_maskz_loadu_ps(valid, a + i), _mm512_maskz_loadu_ps(valid, b + i));
        sum = _mm512_fmadd_ps(difference, difference, sum);
    }
    return _mm512_reduce_add_ps(sum);
}

/* The nearest of the candidates, nearest first; of equally near ones, the lowest first. */
static void choose(const struct search *search, const float *descriptor, const float *centroids, int64_t dimensions,
                   int64_t nearest, int64_t *chosen)
{
    float distances[MAX_NEAREST];
    int64_t filled = 0;
    for (int32_t i = 0; i < search->count; i++) {
        int64_t word = search->words[i];
        float distance = squared_distance(descriptor, centroids + word * dimensions, dimensions);
        int64_t place = filled;
        while (place > 0 && (distance < distances[place - 1] ||
                             (distance == distances[place - 1] && word < chosen[place - 1])))
            place--;
        if (place == nearest)
            continue;
        filled += filled < nearest;
        for (int64_t j = filled - 1; j > place; j--)
            distances[j] = distances[j - 1], chosen[j] = chosen[j - 1];
        distances[place] = distance, chosen[place] = word;
    }
}

/* Rounded descriptors int8 [n, 4·steps], n a multiple of TILE, of which the first `rows` are real; rounded words
   uint8 (128 added) [panels, steps, PANEL, 4]; biases −½‖ĉ‖² [panels · PANEL], far below that for padding.
   `searches` has room for n. Writes int64 [rows, nearest]; −1 first if there were too many candidates. */
AVX512 void howl_assign(const uint8_t *words, const int32_t *biases, int64_t panels, int64_t steps,
                        const int8_t *rounded, const float *slacks, int64_t rows, int64_t n,
                        const float *descriptors, const float *centroids, int64_t dimensions, int64_t nearest,
                        struct search *searches, int64_t *assigned)
{
    int32_t squared_norms[n];
    for (int64_t i = 0; i < n; i++) {
        int32_t sum = 0, squares = 0;
        for (int64_t j = 0; j < 4 * steps; j++) {
            int32_t x = rounded[4 * steps * i + j];
            sum += x, squares += x * x;
        }
        squared_norms[i] = squares;
        searches[i].offset = 128 * sum;
        searches[i].least = i < rows ? LEAST : INT32_MAX;
        searches[i].count = 0;
        searches[i].limit = FIRST;
    }
    for (int64_t panel = 0; panel < panels; panel++) {
        for (int64_t tile = 0; tile < n; tile += TILE) {
            __m512i sums[TILE][4];
            multiply(words + panel * steps * 4 * PANEL, biases + panel * PANEL, rounded + tile * 4 * steps, steps, sums);
            for (int64_t i = 0; i < TILE; i++) {
                struct search *search = searches + tile + i;
                __m512i most = _mm512_max_epi32(_mm512_max_epi32(sums[i][0], sums[i][1]),
                                                _mm512_max_epi32(sums[i][2], sums[i][3]));
                if (!_mm512_cmpge_epi32_mask(most, _mm512_set1_epi32(search->least)))
                    continue;
                keep_candidates(search, sums[i], (uint32_t)(panel * PANEL));
                if (search->count > search->limit)
                    sort_out(search, nearest, squared_norms[tile + i], slacks[tile + i]);
                if (search->count > CANDIDATES)
                    search->least = INT32_MAX; /* given up */
            }
        }
    }
    for (int64_t i = 0; i < rows; i++) {
        int64_t *chosen = assigned + nearest * i;
        if (searches[i].least == INT32_MAX) {
            chosen[0] = -1;
            continue;
        }
        sort_out(&searches[i], nearest, squared_norms[i], slacks[i]);
        choose(&searches[i], descriptors + i * dimensions, centroids, dimensions, nearest, chosen);
    }
}

#endif
