/*
 * Integer products of Q8_0 panels by VPDPBUSD: weights unsigned, activations
 * signed, exact. Each dot_*.h gives the same functions and the block of
 * activations that suits its instructions.
 */
#ifndef TERN_GPU_HOST_DOT_AVX512VNNI_H
#define TERN_GPU_HOST_DOT_AVX512VNNI_H

#include "gpu/host/simd_avx512.h"

#include <string.h>

/* Shapes of tiles whose sums fit the registers: DOT_TILE_TOKENS x DOT_TILE_PANELS for many rows;
 * up to DOT_FEW_TOKENS x 1 where a panel is read once for all rows. */
enum { DOT_TILE_TOKENS = 4, DOT_TILE_PANELS = 3, DOT_FEW_TOKENS = 8 };

/* 32 quantised activations. */
struct dot_block {
    float scale;
    int32_t start; /* -128 times the sum of q: takes back what the weights have too much */
    int8_t q[32];
};

/* Sums of 16 output rows. */
struct dot_sum {
    __m512i v;
};

/* 4 weights of each of 16 output rows. */
struct dot_weights {
    __m512i v;
};

struct dot_activations {
    __m512i v;
};

static inline struct dot_sum dot_start(int32_t start) {
    return (struct dot_sum){_mm512_set1_epi32(start)};
}

static inline struct dot_weights dot_load_weights(const uint8_t *from) {
    return (struct dot_weights){_mm512_loadu_si512(from)};
}

/* Activations 4 * run to 4 * run + 3. */
static inline struct dot_activations dot_load_activations(const struct dot_block *block, int run) {
    int32_t four;
    memcpy(&four, block->q + run * 4, sizeof four);
    return (struct dot_activations){_mm512_set1_epi32(four)};
}

static inline struct dot_sum dot_step(struct dot_sum sum, struct dot_weights w,
                                      struct dot_activations x) {
    return (struct dot_sum){_mm512_dpbusd_epi32(sum.v, w.v, x.v)};
}

/* Exact: a block's sum is below 2^24. */
static inline struct simd dot_to_simd(struct dot_sum sum) {
    return (struct simd){_mm512_cvtepi32_ps(sum.v)};
}

/* q = x * inverse to nearest even, and start. */
static inline void dot_quantise(const float x[32], float inverse, struct dot_block *out) {
    __m512 factor = _mm512_set1_ps(inverse);
    __m512i low = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(x), factor));
    __m512i high = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(x + 16), factor));
    _mm_storeu_si128((__m128i *)(void *)out->q, _mm512_cvtepi32_epi8(low));
    _mm_storeu_si128((__m128i *)(void *)(out->q + 16), _mm512_cvtepi32_epi8(high));
    out->start = -128 * _mm512_reduce_add_epi32(_mm512_add_epi32(low, high));
}

#endif
