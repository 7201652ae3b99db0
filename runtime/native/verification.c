/* Spatial verification on ASMK's own codes: a word that query and image share is a correspondence, and one
   correspondence is a hypothesis of how the query lies in the image (single-correspondence hypotheses: Philbin et al.,
   CVPR 2007): its scales give the zoom, its positions the shift. */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "cpu.h"
#include "guard.h"
#include "inverted_file.h"

enum {
    SIDE_BITS = 13, /* of x, and of y: runtime/asmk/geometry.py */
    UNIT = 2,       /* pixels */
    STEPS_AN_OCTAVE = 8,
    SCALE_OFFSET = 28,
    STEP = 16, /* entries that are looked at together: few are of a candidate */
    TERMS = 6, /* of an affine map: x' = m[0] x + m[1] y + m[2], y' = m[3] x + m[4] y + m[5] */
};

/* Correspondences of a query with one image. */
struct correspondence {
    uint32_t row, geometry; /* of the query's word; where the entry lies in the image */
    int64_t weight;
};

/* The arguments of howl_correspond. */
struct corresponding {
    struct inverted_file file;
    const uint32_t *geometry;
    const uint32_t *query_words;
    const uint64_t *query_codes;
    int64_t query_rows;
    const int64_t *weights;
    const int32_t *candidates;
    int64_t capacity;
    int32_t *counts;
    struct correspondence *found;
};

/* Adds the correspondence of an entry with the query's word `word`, if it has a weight. */
static void keep(const struct corresponding *at, int64_t word, int64_t entry, int32_t candidate)
{
    const int64_t length = at->file.code_length;
    int64_t weight = at->weights[hamming(at->file.codes + entry * length, at->query_codes + word * length, length)];
    int32_t *count = at->counts + candidate;
    if (weight > 0 && *count < at->capacity)
        at->found[candidate * at->capacity + (*count)++] =
            (struct correspondence){(uint32_t)word, at->geometry[entry], weight};
}

static void collect(void *arguments)
{
    const struct corresponding at = *(struct corresponding *)arguments;
    const struct inverted_file file = at.file;
    uint8_t wanted[IMAGES]; /* a quarter of `candidates`, which would not stay in the nearest cache */
    for (int64_t image = 0; image < IMAGES; image++)
        wanted[image] = at.candidates[image] >= 0;
    int64_t row = 0;
    for (int64_t i = 0; i < at.query_rows; i++) {
        while (row < file.rows && file.words[row] < at.query_words[i])
            row++;
        if (row == file.rows)
            return;
        if (file.words[row] != at.query_words[i])
            continue;
        const int64_t end = file.offsets[row + 1];
        for (int64_t entry = file.offsets[row]; entry < end; entry += STEP) {
            const int64_t stop = entry + STEP < end ? entry + STEP : end;
            int any = 0;
            for (int64_t k = entry; k < stop; k++)
                any |= wanted[file.images[k]];
            for (int64_t k = any ? entry : stop; k < stop; k++) {
                const int32_t candidate = at.candidates[file.images[k]]; /* read once: the file may change meanwhile */
                if (candidate >= 0)
                    keep(&at, i, k, candidate);
            }
        }
    }
}

/* The inverted file and the query as for howl_score; `geometry` uint32 [entries]; `candidates` int32 [65536] numbers
   the images of interest from 0, and is −1 for others. Appends to `found` [candidates, capacity], from `counts` on, the
   correspondences that have a weight, in the order of the query's words. Returns as howl_guarded. */
int howl_correspond(const uint32_t *words, const int64_t *offsets, int64_t rows, const uint16_t *images,
                    const uint64_t *codes, const uint32_t *geometry, int64_t code_length, const uint32_t *query_words,
                    const uint64_t *query_codes, int64_t query_rows, const int64_t *weights, const int32_t *candidates,
                    int64_t capacity, int32_t *counts, struct correspondence *found)
{
    struct inverted_file file = {words, offsets, rows, images, codes, code_length};
    struct corresponding at = {file,    geometry,   query_words, query_codes, query_rows,
                               weights, candidates, capacity,    counts,      found};
    return howl_guarded(collect, &at);
}

/* A correspondence, its geometry unpacked. */
struct pair {
    float x, y, to_x, to_y; /* in the query and in the image */
    float zoom;             /* of the image over the query, in octaves */
    float reach;            /* the largest error of an inlier, squared */
    double weight;
    uint32_t source; /* the query's geometry: what pairs of one descriptor have in common */
    int32_t place;   /* in `found` */
};

/* The pairs of an image once more, column by column: the compiler then compares many with a map at a time. */
struct columns {
    float *x, *y, *to_x, *to_y, *zoom, *reach, *weight;
    float *agreed; /* the weight of those that agree with a map, 0 of the others */
    uint32_t *source;
};

enum { COLUMNS = 9 };

static float octaves(uint32_t geometry)
{
    return (float)((int)(geometry >> 2 * SIDE_BITS) - SCALE_OFFSET) / STEPS_AN_OCTAVE;
}

static float x_of(uint32_t geometry)
{
    return UNIT * (float)(geometry & ((1u << SIDE_BITS) - 1));
}

static float y_of(uint32_t geometry)
{
    return UNIT * (float)(geometry >> SIDE_BITS & ((1u << SIDE_BITS) - 1));
}

/* Pairs of one query descriptor side by side, those of more weight first. */
static int by_source(const void *left, const void *right)
{
    const struct pair *a = left, *b = right;
    if (a->source != b->source)
        return a->source < b->source ? -1 : 1;
    if (a->weight != b->weight)
        return a->weight > b->weight ? -1 : 1;
    return a->place < b->place ? -1 : a->place > b->place;
}

static int agrees(const struct pair *pair, const double map[TERMS], float zoom, float octaves)
{
    if (fabsf(pair->zoom - zoom) > octaves)
        return 0;
    double dx = map[0] * pair->x + map[1] * pair->y + map[2] - pair->to_x;
    double dy = map[3] * pair->x + map[4] * pair->y + map[5] - pair->to_y;
    return dx * dx + dy * dy <= pair->reach;
}

/* The weight of all pairs that agree with a zoom and a shift, one for each query descriptor. It is compiled once for
   each kind of processor. */
static inline __attribute__((always_inline)) double weight_of_hypothesis(struct columns at, int64_t n, float factor,
                                                                         float shift_x, float shift_y, float zoom,
                                                                         float octaves)
{
    for (int64_t i = 0; i < n; i++) {
        float dx = factor * at.x[i] + shift_x - at.to_x[i], dy = factor * at.y[i] + shift_y - at.to_y[i];
        int agrees = (dx * dx + dy * dy <= at.reach[i]) & (fabsf(at.zoom[i] - zoom) <= octaves);
        at.agreed[i] = agrees ? at.weight[i] : 0;
    }
    double weight = 0;
    int is_open = 1; /* no pair of this descriptor has agreed so far */
    for (int64_t i = 0; i < n; i++) {
        is_open |= i == 0 || at.source[i] != at.source[i - 1];
        weight += is_open ? at.agreed[i] : 0;
        is_open &= at.agreed[i] == 0;
    }
    return weight;
}

/* The heaviest of the chosen hypotheses: its weight, or 0, and its map and zoom. */
static inline __attribute__((always_inline)) double best_hypothesis(const struct pair *pairs, int64_t n,
                                                                    struct columns columns, const int32_t *chosen,
                                                                    int64_t many, float octaves, float most_zoom,
                                                                    double best[TERMS], float *zoom)
{
    double weight = 0;
    for (int64_t h = 0; h < many; h++) {
        const struct pair *pair = pairs + chosen[h];
        if (fabsf(pair->zoom) > most_zoom)
            continue;
        float factor = exp2f(pair->zoom), x = pair->to_x - factor * pair->x, y = pair->to_y - factor * pair->y;
        double own = weight_of_hypothesis(columns, n, factor, x, y, pair->zoom, octaves);
        if (own > weight) {
            weight = own, *zoom = pair->zoom;
            memcpy(best, (double[TERMS]){factor, 0, x, 0, factor, y}, TERMS * sizeof *best);
        }
    }
    return weight;
}

#if defined(__x86_64__)

AVX512 static double best_hypothesis_avx512(const struct pair *pairs, int64_t n, struct columns columns,
                                            const int32_t *chosen, int64_t many, float octaves, float most_zoom,
                                            double best[TERMS], float *zoom)
{
    return best_hypothesis(pairs, n, columns, chosen, many, octaves, most_zoom, best, zoom);
}

#endif

static double find_hypothesis(const struct pair *pairs, int64_t n, struct columns columns, const int32_t *chosen,
                              int64_t many, float octaves, float most_zoom, double best[TERMS], float *zoom)
{
#if defined(__x86_64__)
    if (has_avx512())
        return best_hypothesis_avx512(pairs, n, columns, chosen, many, octaves, most_zoom, best, zoom);
#endif
    return best_hypothesis(pairs, n, columns, chosen, many, octaves, most_zoom, best, zoom);
}

/* The weight of all pairs that agree, one for each query descriptor; marks them if asked to. */
static double weight_of(const struct pair *pairs, int64_t n, const double map[TERMS], float zoom, float octaves,
                        uint8_t *marks, int32_t *inliers)
{
    double weight = 0;
    uint32_t taken = 0;
    int has_taken = 0;
    *inliers = 0;
    for (int64_t i = 0; i < n; i++) {
        if (marks)
            marks[i] = 0;
        if ((has_taken && pairs[i].source == taken) || !agrees(pairs + i, map, zoom, octaves))
            continue;
        taken = pairs[i].source, has_taken = 1;
        weight += pairs[i].weight;
        ++*inliers;
        if (marks)
            marks[i] = 1;
    }
    return weight;
}

/* Solves the 3×3 system a·x = b (symmetric, positive), or returns 0 if it is singular. */
static int solve(double a[3][3], const double b[3], double x[3])
{
    double m[3][4];
    for (int i = 0; i < 3; i++) {
        memcpy(m[i], a[i], sizeof a[i]);
        m[i][3] = b[i];
    }
    for (int i = 0; i < 3; i++) {
        int pivot = i;
        for (int j = i + 1; j < 3; j++)
            if (fabs(m[j][i]) > fabs(m[pivot][i]))
                pivot = j;
        if (fabs(m[pivot][i]) < 1e-6 * (1 + fabs(a[i][i])))
            return 0;
        for (int k = 0; k < 4; k++) {
            double swap = m[i][k];
            m[i][k] = m[pivot][k], m[pivot][k] = swap;
        }
        for (int j = 0; j < 3; j++) {
            if (j == i)
                continue;
            double factor = m[j][i] / m[i][i];
            for (int k = i; k < 4; k++)
                m[j][k] -= factor * m[i][k];
        }
    }
    for (int i = 0; i < 3; i++)
        x[i] = m[i][3] / m[i][i];
    return 1;
}

/* The affine map that fits the marked pairs best, in the least squares of their weights; a pull towards `map` keeps few
   pairs, or pairs on a line, from an absurd one. Returns whether there is one that neither mirrors nor collapses. */
static int fit(const struct pair *pairs, int64_t n, const uint8_t *marks, double pull, double map[TERMS], float *zoom)
{
    double sum = 0, mean[2] = {0, 0}, to_mean[2] = {0, 0};
    for (int64_t i = 0; i < n; i++) {
        if (!marks[i])
            continue;
        sum += pairs[i].weight;
        mean[0] += pairs[i].weight * pairs[i].x, mean[1] += pairs[i].weight * pairs[i].y;
        to_mean[0] += pairs[i].weight * pairs[i].to_x, to_mean[1] += pairs[i].weight * pairs[i].to_y;
    }
    if (sum <= 0)
        return 0;
    for (int k = 0; k < 2; k++)
        mean[k] /= sum, to_mean[k] /= sum;
    /* In centred coordinates the shift is separate, and a linear part of 2×2 is left for each of x and y. */
    double a[3][3] = {{0}}, bx[3] = {0}, by[3] = {0}, linear[2][3];
    for (int64_t i = 0; i < n; i++) {
        if (!marks[i])
            continue;
        double x = pairs[i].x - mean[0], y = pairs[i].y - mean[1], w = pairs[i].weight / sum;
        double u = pairs[i].to_x - to_mean[0], v = pairs[i].to_y - to_mean[1];
        a[0][0] += w * x * x, a[0][1] += w * x * y, a[1][1] += w * y * y;
        bx[0] += w * x * u, bx[1] += w * y * u;
        by[0] += w * x * v, by[1] += w * y * v;
    }
    a[1][0] = a[0][1];
    a[2][2] = 1;
    a[0][0] += pull, a[1][1] += pull;
    bx[0] += pull * map[0], bx[1] += pull * map[1];
    by[0] += pull * map[3], by[1] += pull * map[4];
    if (!solve(a, bx, linear[0]) || !solve(a, by, linear[1]))
        return 0;
    double determinant = linear[0][0] * linear[1][1] - linear[0][1] * linear[1][0];
    if (!(determinant > 1e-4))
        return 0;
    for (int k = 0; k < 2; k++) {
        map[3 * k] = linear[k][0], map[3 * k + 1] = linear[k][1];
        map[3 * k + 2] = to_mean[k] - linear[k][0] * mean[0] - linear[k][1] * mean[1];
    }
    *zoom = 0.5f * log2f((float)determinant);
    return 1;
}

/* The heaviest pairs, at most `limit`, heaviest first: their numbers. */
static int64_t heaviest(const struct pair *pairs, int64_t n, int64_t limit, int32_t *chosen)
{
    int64_t filled = 0;
    for (int64_t i = 0; i < n; i++) {
        if (filled == limit && pairs[i].weight <= pairs[chosen[filled - 1]].weight)
            continue;
        int64_t place = filled < limit ? filled++ : filled - 1;
        for (; place > 0 && pairs[chosen[place - 1]].weight < pairs[i].weight; place--)
            chosen[place] = chosen[place - 1];
        chosen[place] = (int32_t)i;
    }
    return filled;
}

/* What `verify` is asked for, and its memory. */
struct asked {
    float octaves, most_zoom;
    int64_t hypotheses, refinements;
    double pull;
    int32_t *chosen;
    uint8_t *spare;
    struct columns columns;
};

static void fill(struct columns at, const struct pair *pairs, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        at.x[i] = pairs[i].x, at.y[i] = pairs[i].y, at.to_x[i] = pairs[i].to_x, at.to_y[i] = pairs[i].to_y;
        at.zoom[i] = pairs[i].zoom, at.reach[i] = pairs[i].reach, at.weight[i] = (float)pairs[i].weight;
        at.source[i] = pairs[i].source;
    }
}

/* Verifies one image: sorts its pairs, marks the inliers, and returns their weight. */
static double verify(struct pair *pairs, int64_t n, struct asked asked, uint8_t *marks, double best[TERMS],
                     int32_t *inliers)
{
    double weight;
    float zoom = 0;
    *inliers = 0;
    memset(marks, 0, (size_t)n);
    qsort(pairs, (size_t)n, sizeof *pairs, by_source);
    fill(asked.columns, pairs, n);
    const int64_t many = heaviest(pairs, n, asked.hypotheses, asked.chosen);
    weight = find_hypothesis(pairs, n, asked.columns, asked.chosen, many, asked.octaves, asked.most_zoom, best, &zoom);
    if (weight <= 0)
        return 0;
    weight = weight_of(pairs, n, best, zoom, asked.octaves, marks, inliers);
    for (int64_t i = 0; i < asked.refinements; i++) {
        double map[TERMS];
        float own_zoom = zoom;
        int32_t found;
        memcpy(map, best, sizeof map);
        if (!fit(pairs, n, marks, asked.pull, map, &own_zoom) || fabsf(own_zoom) > asked.most_zoom)
            break;
        double own = weight_of(pairs, n, map, own_zoom, asked.octaves, asked.spare, &found);
        if (own < weight)
            break;
        int is_same = own == weight && found == *inliers;
        weight = own, zoom = own_zoom, *inliers = found;
        memcpy(best, map, sizeof map);
        memcpy(marks, asked.spare, (size_t)n);
        if (is_same)
            break;
    }
    return weight;
}

/* Verifies candidates by their correspondences, `counts` of each in `found` [candidates, capacity].

   `query` uint32, the geometry of the query's words; `tolerance` in pixels of a level of the pyramid; `octaves` that
   zooms may differ; `hypotheses` of each candidate, the heaviest; `refinements` by least squares, with `pull` (squared
   pixels) towards the map before; `most_zoom` in octaves. `unit` of the weights. `pairs` is memory for `capacity`: howl_pair_bytes each.

   For each candidate: `weights` double, of its inliers; `inliers` int32, how many; `maps` double [6], from the query
   into the image; `marks` uint8 [capacity], which correspondences are inliers. */
void howl_verify(const uint32_t *query, const struct correspondence *found, const int32_t *counts, int64_t candidates,
                 int64_t capacity, double tolerance, double octaves_apart, int64_t hypotheses, int64_t refinements,
                 double pull, double most_zoom, double unit, struct pair *pairs, int32_t *chosen, uint8_t *marked,
                 double *weights, int32_t *inliers, double *maps, uint8_t *marks)
{
    float *column[COLUMNS];
    for (int i = 0; i < COLUMNS; i++)
        column[i] = (float *)(pairs + capacity) + i * capacity;
    const struct asked asked = {
        .octaves = (float)octaves_apart,
        .most_zoom = (float)most_zoom,
        .hypotheses = hypotheses,
        .refinements = refinements,
        .pull = pull,
        .chosen = chosen,
        .spare = marked + capacity,
        .columns = {column[0], column[1], column[2], column[3], column[4], column[5], column[6], column[7],
                    (uint32_t *)column[8]},
    };
    for (int64_t candidate = 0; candidate < candidates; candidate++) {
        const struct correspondence *own = found + candidate * capacity;
        const int64_t n = counts[candidate];
        for (int64_t i = 0; i < n; i++) {
            uint32_t here = query[own[i].row], there = own[i].geometry;
            /* A coarse level places its features coarsely; that of the query, seen in the image, is as coarse. */
            float reach = (float)tolerance / exp2f(octaves(there));
            pairs[i] = (struct pair){.x = x_of(here),
                                     .y = y_of(here),
                                     .to_x = x_of(there),
                                     .to_y = y_of(there),
                                     .zoom = octaves(here) - octaves(there),
                                     .reach = reach * reach,
                                     .weight = (double)own[i].weight * unit,
                                     .source = here,
                                     .place = (int32_t)i};
        }
        double *map = maps + TERMS * candidate;
        memset(map, 0, TERMS * sizeof *map);
        weights[candidate] = verify(pairs, n, asked, marked, map, inliers + candidate);
        memset(marks + candidate * capacity, 0, (size_t)capacity);
        for (int64_t i = 0; i < n; i++)
            marks[candidate * capacity + pairs[i].place] = marked[i];
    }
}

int64_t howl_pair_bytes(void)
{
    return sizeof(struct pair) + COLUMNS * sizeof(float);
}
