/* The best of many scores, without sorting them all. */

#include <math.h>
#include <stdint.h>
#include <string.h>

enum { STRIDE = 32 };

struct hit {
    double score;
    int64_t image;
};

/* Whether a is a worse hit than b: of equal scores, the later image. */
static inline int worse(struct hit a, struct hit b)
{
    return a.score < b.score || (a.score == b.score && a.image > b.image);
}

/* Heaps have their worst hit on top. */
static void sink(struct hit *heap, int64_t size, int64_t place, struct hit hit)
{
    for (;;) {
        int64_t child = 2 * place + 1;
        if (child >= size)
            break;
        if (child + 1 < size && worse(heap[child + 1], heap[child]))
            child++;
        if (!worse(heap[child], hit))
            break;
        heap[place] = heap[child];
        place = child;
    }
    heap[place] = hit;
}

static void rise(struct hit *heap, int64_t place, struct hit hit)
{
    while (place > 0 && worse(hit, heap[(place - 1) / 2])) {
        heap[place] = heap[(place - 1) / 2];
        place = (place - 1) / 2;
    }
    heap[place] = hit;
}

/* Turns the totals, int64 [n], of live images into scores, total · unit / √(query_words · word_counts), and writes the
   `top` best above 0 to `hits`, best first. `inverse_norms` float64 [n], 1 / √word_counts or 0, save a division for
   scores that cannot be among them. Returns the number of hits. */
int64_t howl_best(const int64_t *totals, const uint8_t *live, const uint32_t *word_counts, const double *inverse_norms,
                  int64_t n, double unit, int64_t query_words, int64_t top, struct hit *hits)
{
    int64_t size = 0;
    double least = 0; /* total / √word_count of a hit is above this, however it is rounded */
    for (int64_t start = 0; start < n; start += STRIDE) {
        int64_t end = start + STRIDE < n ? start + STRIDE : n;
        int any = 0;
        for (int64_t i = start; i < end; i++)
            any |= (double)totals[i] * inverse_norms[i] > least;
        if (!any)
            continue;
        for (int64_t i = start; i < end; i++) {
            if (!live[i] || !((double)totals[i] * inverse_norms[i] > least))
                continue;
            double norm = sqrt((double)query_words * (double)word_counts[i]);
            struct hit hit = {(double)totals[i] * unit / norm, i};
            if (size < top) {
                rise(hits, size++, hit);
            } else if (worse(hits[0], hit)) {
                sink(hits, size, 0, hit);
            }
            if (size == top)
                least = hits[0].score / unit * sqrt((double)query_words) * (1 - 1e-12);
        }
    }
    for (int64_t left = size - 1; left > 0; left--) { /* the worst goes last */
        struct hit worst = hits[0];
        sink(hits, left, 0, hits[left]);
        hits[left] = worst;
    }
    return size;
}
