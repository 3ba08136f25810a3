/*
 * Integer products of Q8_0 panels by VPMADDWD on AVX2, as in dot_avx512.h.
 * VPMADDUBSW would need half the instructions, but saturates.
 */
#ifndef TERN_GPU_HOST_DOT_AVX2_H
#define TERN_GPU_HOST_DOT_AVX2_H

#include "gpu/host/simd_avx2.h"

enum { DOT_TILE_TOKENS = 4, DOT_TILE_PANELS = 1, DOT_FEW_TOKENS = 4 };

/* Each run of 4 activations lies as 0, 2, 1, 3: the even two, then the odd two. */
struct dot_block {
    float scale;
    int32_t start;
    int16_t q[32];
};

struct dot_sum {
    __m256i low;
    __m256i high;
};

struct dot_weights {
    __m256i low_even;
    __m256i low_odd;
    __m256i high_even;
    __m256i high_odd;
};

struct dot_activations {
    __m256i even;
    __m256i odd;
};

static inline struct dot_sum dot_start(int32_t start) {
    return (struct dot_sum){_mm256_set1_epi32(start), _mm256_set1_epi32(start)};
}

static inline struct dot_weights dot_load_weights(const uint8_t *from) {
    __m256i low = _mm256_loadu_si256((const __m256i *)(const void *)from);
    __m256i high = _mm256_loadu_si256((const __m256i *)(const void *)(from + 32));
    __m256i byte = _mm256_set1_epi16(0xff);
    return (struct dot_weights){_mm256_and_si256(low, byte), _mm256_srli_epi16(low, 8),
                                _mm256_and_si256(high, byte), _mm256_srli_epi16(high, 8)};
}

static inline struct dot_activations dot_load_activations(const struct dot_block *block, int run) {
    int32_t two[2];
    memcpy(two, block->q + run * 4, sizeof two);
    return (struct dot_activations){_mm256_set1_epi32(two[0]), _mm256_set1_epi32(two[1])};
}

static inline struct dot_sum dot_step(struct dot_sum sum, struct dot_weights w,
                                      struct dot_activations x) {
    sum.low = _mm256_add_epi32(sum.low, _mm256_madd_epi16(w.low_even, x.even));
    sum.high = _mm256_add_epi32(sum.high, _mm256_madd_epi16(w.high_even, x.even));
    sum.low = _mm256_add_epi32(sum.low, _mm256_madd_epi16(w.low_odd, x.odd));
    sum.high = _mm256_add_epi32(sum.high, _mm256_madd_epi16(w.high_odd, x.odd));
    return sum;
}

static inline struct simd dot_to_simd(struct dot_sum sum) {
    return (struct simd){_mm256_cvtepi32_ps(sum.low), _mm256_cvtepi32_ps(sum.high)};
}

static inline void dot_quantise(const float x[32], float inverse, struct dot_block *out) {
    __m256 factor = _mm256_set1_ps(inverse);
    __m256i sums = _mm256_setzero_si256();
    for (int i = 0; i < 32; i += 8) {
        __m256i q = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + i), factor));
        sums = _mm256_add_epi32(sums, q);
        q = _mm256_shuffle_epi32(q, 0xd8);
        __m128i narrow = _mm_packs_epi32(_mm256_castsi256_si128(q), _mm256_extracti128_si256(q, 1));
        _mm_storeu_si128((__m128i *)(void *)(out->q + i), narrow);
    }
    __m128i p4 = _mm_add_epi32(_mm256_castsi256_si128(sums), _mm256_extracti128_si256(sums, 1));
    __m128i p2 = _mm_add_epi32(p4, _mm_unpackhi_epi64(p4, p4));
    out->start = -128 * _mm_cvtsi128_si32(_mm_add_epi32(p2, _mm_shuffle_epi32(p2, 1)));
}

#endif
