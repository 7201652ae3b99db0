/* Inner products of vectors in half precision with a query in float32.

   Every version sums in the same 16 lanes and adds them up in the same order, without fused multiply-adds: a score does
   not depend on the processor, or on the segment that holds the vector. */

#include <stdint.h>
#include <string.h>

#include "cpu.h"
#include "guard.h"

enum { LANES = 16 };

static float from_half(uint16_t half)
{
    uint32_t sign = (uint32_t)(half & 0x8000) << 16, magnitude = half & 0x7fff, bits;
    float value;
    if (magnitude >= 0x7c00) { /* infinite or NaN */
        bits = sign | 0x7f800000 | (magnitude & 0x3ff) << 13;
        memcpy(&value, &bits, sizeof value);
        return value;
    }
    bits = magnitude << 13; /* the exponent is 112 too small: multiplying by 2^112 makes subnormal numbers right too */
    memcpy(&value, &bits, sizeof value);
    value *= 0x1p112f;
    memcpy(&bits, &value, sizeof bits);
    bits |= sign;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* Adds the products of the components from `first` on, which are fewer than LANES, and then all lanes. */
static float finish(const uint16_t *vector, const float *query, int64_t first, int64_t dimensions, float *lanes)
{
    for (int64_t i = first; i < dimensions; i++)
        lanes[i - first] += from_half(vector[i]) * query[i];
    for (int half = LANES / 2; half > 0; half /= 2)
        for (int lane = 0; lane < half; lane++)
            lanes[lane] += lanes[lane + half];
    return lanes[0];
}

static float product(const uint16_t *vector, const float *query, int64_t dimensions)
{
    float lanes[LANES] = {0};
    int64_t i = 0;
    for (; i + LANES <= dimensions; i += LANES)
        for (int lane = 0; lane < LANES; lane++)
            lanes[lane] += from_half(vector[i + lane]) * query[i + lane];
    return finish(vector, query, i, dimensions, lanes);
}

#if defined(__x86_64__)

F16C static inline __m256 times(const uint16_t *vector, const float *query)
{
    return _mm256_mul_ps(_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)vector)), _mm256_loadu_ps(query));
}

F16C static float product_f16c(const uint16_t *vector, const float *query, int64_t dimensions)
{
    __m256 low = _mm256_setzero_ps(), high = _mm256_setzero_ps();
    int64_t i = 0;
    for (; i + LANES <= dimensions; i += LANES) {
        low = _mm256_add_ps(low, times(vector + i, query + i));
        high = _mm256_add_ps(high, times(vector + i + 8, query + i + 8));
    }
    float lanes[LANES];
    _mm256_storeu_ps(lanes, low);
    _mm256_storeu_ps(lanes + 8, high);
    return finish(vector, query, i, dimensions, lanes);
}

AVX512 static float product_avx512(const uint16_t *vector, const float *query, int64_t dimensions)
{
    __m512 sums = _mm512_setzero_ps();
    int64_t i = 0;
    for (; i + LANES <= dimensions; i += LANES) {
        __m512 values = _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(vector + i)));
        sums = _mm512_add_ps(sums, _mm512_mul_ps(values, _mm512_loadu_ps(query + i)));
    }
    float lanes[LANES];
    _mm512_storeu_ps(lanes, sums);
    return finish(vector, query, i, dimensions, lanes);
}

#else

#define product_f16c product
#define product_avx512 product

#endif

/* The arguments of howl_products. */
struct products {
    const uint16_t *vectors;
    int64_t n, dimensions;
    const float *query;
    float *scores;
};

static void fill_scores(void *arguments)
{
    const struct products of = *(struct products *)arguments;
    float (*const fastest)(const uint16_t *, const float *, int64_t) =
        has_avx512() ? product_avx512 : has_f16c() ? product_f16c : product;
    for (int64_t row = 0; row < of.n; row++)
        of.scores[row] = fastest(of.vectors + row * of.dimensions, of.query, of.dimensions);
}

/* vectors: half [n, dimensions]; query: float [dimensions]; fills scores float [n]. Returns as howl_guarded. */
int howl_products(const uint16_t *vectors, int64_t n, int64_t dimensions, const float *query, float *scores)
{
    struct products of = {vectors, n, dimensions, query, scores};
    return howl_guarded(fill_scores, &of);
}
