/*
 * Integer products of Q8_0 panels by VPMADDWD on AVX-512BW, for processors
 * without VNNI: weights are split into even and odd bytes, widened to 16 bits,
 * so that no sum saturates. See dot_avx512vnni.h for what a dot_*.h gives.
 */
#ifndef TERN_GPU_HOST_DOT_AVX512_H
#define TERN_GPU_HOST_DOT_AVX512_H

#include "gpu/host/simd_avx512.h"

#include <string.h>

enum { DOT_TILE_TOKENS = 4, DOT_TILE_PANELS = 2, DOT_FEW_TOKENS = 8 };

/* Each run of 4 activations lies as 0, 2, 1, 3: the even two, then the odd two. */
struct dot_block {
    float scale;
    int32_t start;
    int16_t q[32];
};

struct dot_sum {
    __m512i v;
};

struct dot_weights {
    __m512i even;
    __m512i odd;
};

struct dot_activations {
    __m512i even;
    __m512i odd;
};

static inline struct dot_sum dot_start(int32_t start) {
    return (struct dot_sum){_mm512_set1_epi32(start)};
}

static inline struct dot_weights dot_load_weights(const uint8_t *from) {
    __m512i bytes = _mm512_loadu_si512(from);
    return (struct dot_weights){_mm512_and_si512(bytes, _mm512_set1_epi16(0xff)),
                                _mm512_srli_epi16(bytes, 8)};
}

static inline struct dot_activations dot_load_activations(const struct dot_block *block, int run) {
    int32_t two[2];
    memcpy(two, block->q + run * 4, sizeof two);
    return (struct dot_activations){_mm512_set1_epi32(two[0]), _mm512_set1_epi32(two[1])};
}

static inline struct dot_sum dot_step(struct dot_sum sum, struct dot_weights w,
                                      struct dot_activations x) {
    __m512i even = _mm512_add_epi32(sum.v, _mm512_madd_epi16(w.even, x.even));
    return (struct dot_sum){_mm512_add_epi32(even, _mm512_madd_epi16(w.odd, x.odd))};
}

static inline struct simd dot_to_simd(struct dot_sum sum) {
    return (struct simd){_mm512_cvtepi32_ps(sum.v)};
}

static inline void dot_quantise(const float x[32], float inverse, struct dot_block *out) {
    __m512 factor = _mm512_set1_ps(inverse);
    __m512i low = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(x), factor));
    __m512i high = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(x + 16), factor));
    out->start = -128 * _mm512_reduce_add_epi32(_mm512_add_epi32(low, high));
    low = _mm512_shuffle_epi32(low, _MM_PERM_DBCA);
    high = _mm512_shuffle_epi32(high, _MM_PERM_DBCA);
    _mm256_storeu_si256((__m256i *)(void *)out->q, _mm512_cvtepi32_epi16(low));
    _mm256_storeu_si256((__m256i *)(void *)(out->q + 16), _mm512_cvtepi32_epi16(high));
}

#endif
