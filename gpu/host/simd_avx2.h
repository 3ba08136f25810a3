/*
 * 16 F32 lanes as two AVX2 registers, with FMA and F16C; see simd_avx512.h for
 * what every simd_*.h promises.
 */
#ifndef TERN_GPU_HOST_SIMD_AVX2_H
#define TERN_GPU_HOST_SIMD_AVX2_H

#include "gpu/transcendental.h"

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

enum { SIMD_LANES = 16, SIMD_REGISTERS = 8 };

struct simd {
    __m256 low;
    __m256 high;
};

/* Lane masks of the first `count` lanes, for lanes FIRST to FIRST + 7. */
static inline __m256i simd_mask(int first, int count) {
    __m256i lane =
        _mm256_add_epi32(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), _mm256_set1_epi32(first));
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(count), lane);
}

/* --- memory -------------------------------------------------------------------------- */

static inline struct simd simd_load(const float *from) {
    return (struct simd){_mm256_loadu_ps(from), _mm256_loadu_ps(from + 8)};
}

/* Lanes past COUNT are +0. */
static inline struct simd simd_load_part(const float *from, int count) {
    return (struct simd){_mm256_maskload_ps(from, simd_mask(0, count)),
                         _mm256_maskload_ps(from + 8, simd_mask(8, count))};
}

static inline void simd_store(float *to, struct simd x) {
    _mm256_storeu_ps(to, x.low);
    _mm256_storeu_ps(to + 8, x.high);
}

static inline void simd_store_part(float *to, struct simd x, int count) {
    _mm256_maskstore_ps(to, simd_mask(0, count), x.low);
    _mm256_maskstore_ps(to + 8, simd_mask(8, count), x.high);
}

static inline __m128i simd_load_half8(const uint16_t *from) {
    return _mm_loadu_si128((const __m128i *)(const void *)from);
}

static inline struct simd simd_load_f16(const uint16_t *from) {
    return (struct simd){_mm256_cvtph_ps(simd_load_half8(from)),
                         _mm256_cvtph_ps(simd_load_half8(from + 8))};
}

static inline struct simd simd_load_f16_part(const uint16_t *from, int count) {
    uint16_t lanes[16] = {0};
    memcpy(lanes, from, (size_t)count * sizeof lanes[0]);
    return simd_load_f16(lanes);
}

static inline void simd_store_f16_part(uint16_t *to, struct simd x, int count) {
    uint16_t lanes[16];
    enum { NEAREST = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC };
    _mm_storeu_si128((__m128i *)(void *)lanes, _mm256_cvtps_ph(x.low, NEAREST));
    _mm_storeu_si128((__m128i *)(void *)(lanes + 8), _mm256_cvtps_ph(x.high, NEAREST));
    memcpy(to, lanes, (size_t)count * sizeof lanes[0]);
}

static inline __m256 simd_widen_bf16(__m128i half) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
}

static inline struct simd simd_load_bf16(const uint16_t *from) {
    return (struct simd){simd_widen_bf16(simd_load_half8(from)),
                         simd_widen_bf16(simd_load_half8(from + 8))};
}

static inline struct simd simd_load_bf16_part(const uint16_t *from, int count) {
    uint16_t lanes[16] = {0};
    memcpy(lanes, from, (size_t)count * sizeof lanes[0]);
    return simd_load_bf16(lanes);
}

/* As half_f32_to_bf16, in the lower half of each 32-bit lane. */
static inline __m256i simd_narrow_bf16(__m256 x) {
    __m256i bits = _mm256_castps_si256(x);
    __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    __m256i rounded = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd);
    __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
    __m256i is_nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
    return _mm256_srli_epi32(_mm256_blendv_epi8(rounded, quiet, is_nan), 16);
}

static inline void simd_store_bf16_part(uint16_t *to, struct simd x, int count) {
    uint16_t lanes[16];
    __m256i packed = _mm256_packus_epi32(simd_narrow_bf16(x.low), simd_narrow_bf16(x.high));
    packed = _mm256_permute4x64_epi64(packed, 0xd8);
    _mm256_storeu_si256((__m256i *)(void *)lanes, packed);
    memcpy(to, lanes, (size_t)count * sizeof lanes[0]);
}

/* --- arithmetic ---------------------------------------------------------------------- */

static inline struct simd simd_set1(float x) {
    return (struct simd){_mm256_set1_ps(x), _mm256_set1_ps(x)};
}

static inline struct simd simd_zero(void) {
    return (struct simd){_mm256_setzero_ps(), _mm256_setzero_ps()};
}

static inline struct simd simd_add(struct simd a, struct simd b) {
    return (struct simd){_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)};
}

static inline struct simd simd_sub(struct simd a, struct simd b) {
    return (struct simd){_mm256_sub_ps(a.low, b.low), _mm256_sub_ps(a.high, b.high)};
}

static inline struct simd simd_mul(struct simd a, struct simd b) {
    return (struct simd){_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)};
}

static inline struct simd simd_div(struct simd a, struct simd b) {
    return (struct simd){_mm256_div_ps(a.low, b.low), _mm256_div_ps(a.high, b.high)};
}

/* a * b + c, rounded once. */
static inline struct simd simd_fma(struct simd a, struct simd b, struct simd c) {
    return (struct simd){_mm256_fmadd_ps(a.low, b.low, c.low),
                         _mm256_fmadd_ps(a.high, b.high, c.high)};
}

static inline struct simd simd_neg(struct simd x) {
    __m256 sign = _mm256_set1_ps(-0.0f);
    return (struct simd){_mm256_xor_ps(x.low, sign), _mm256_xor_ps(x.high, sign)};
}

static inline struct simd simd_abs(struct simd x) {
    __m256 sign = _mm256_set1_ps(-0.0f);
    return (struct simd){_mm256_andnot_ps(sign, x.low), _mm256_andnot_ps(sign, x.high)};
}

/* x > a ? x : a */
static inline struct simd simd_max(struct simd x, struct simd a) {
    return (struct simd){_mm256_max_ps(x.low, a.low), _mm256_max_ps(x.high, a.high)};
}

/* x < a ? x : a */
static inline struct simd simd_min(struct simd x, struct simd a) {
    return (struct simd){_mm256_min_ps(x.low, a.low), _mm256_min_ps(x.high, a.high)};
}

/* Lane i is x's for i < count, else y's. */
static inline struct simd simd_first(struct simd x, struct simd y, int count) {
    return (struct simd){
        _mm256_blendv_ps(y.low, x.low, _mm256_castsi256_ps(simd_mask(0, count))),
        _mm256_blendv_ps(y.high, x.high, _mm256_castsi256_ps(simd_mask(8, count)))};
}

static inline __m256 simd_pow2_half(__m256 z) {
    const __m256i bias = _mm256_sub_epi32(
        _mm256_set1_epi32(127), _mm256_castps_si256(_mm256_set1_ps(TRANSCENDENTAL_EXP_MAGIC)));
    __m256i exponent = _mm256_add_epi32(_mm256_castps_si256(z), bias);
    return _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23));
}

/* For z = n + TRANSCENDENTAL_EXP_MAGIC with an integer n from -126 to 127: 2^n. */
static inline struct simd simd_pow2_of_magic(struct simd z) {
    return (struct simd){simd_pow2_half(z.low), simd_pow2_half(z.high)};
}

/* --- across lanes -------------------------------------------------------------------- */

static inline void simd_transpose_half(const float from[32], __m256 out[4]) {
    __m256 v0 = _mm256_loadu_ps(from);
    __m256 v1 = _mm256_loadu_ps(from + 8);
    __m256 v2 = _mm256_loadu_ps(from + 16);
    __m256 v3 = _mm256_loadu_ps(from + 24);
    __m256 t0 = _mm256_permute2f128_ps(v0, v2, 0x20);
    __m256 t1 = _mm256_permute2f128_ps(v0, v2, 0x31);
    __m256 t2 = _mm256_permute2f128_ps(v1, v3, 0x20);
    __m256 t3 = _mm256_permute2f128_ps(v1, v3, 0x31);
    v0 = _mm256_unpacklo_ps(t0, t1);
    v1 = _mm256_unpackhi_ps(t0, t1);
    v2 = _mm256_unpacklo_ps(t2, t3);
    v3 = _mm256_unpackhi_ps(t2, t3);
    out[0] = _mm256_shuffle_ps(v0, v2, 0x44);
    out[1] = _mm256_shuffle_ps(v0, v2, 0xee);
    out[2] = _mm256_shuffle_ps(v1, v3, 0x44);
    out[3] = _mm256_shuffle_ps(v1, v3, 0xee);
}

/* out[j] lane i = from[4 * i + j]. */
static inline void simd_load_transposed4(const float from[64], struct simd out[4]) {
    __m256 low[4];
    __m256 high[4];
    simd_transpose_half(from, low);
    simd_transpose_half(from + 32, high);
    for (int j = 0; j < 4; j++) {
        out[j] = (struct simd){low[j], high[j]};
    }
}

static inline float simd_lane0(struct simd x) {
    return _mm256_cvtss_f32(x.low);
}

/* tree16 of op.h. */
static inline float simd_tree16(struct simd x) {
    __m256 p8 = _mm256_add_ps(x.low, x.high);
    __m128 p4 = _mm_add_ps(_mm256_castps256_ps128(p8), _mm256_extractf128_ps(p8, 1));
    __m128 p2 = _mm_add_ps(p4, _mm_movehl_ps(p4, p4));
    return _mm_cvtss_f32(_mm_add_ss(p2, _mm_movehdup_ps(p2)));
}

/* The largest lane; no lane is a NaN. */
static inline float simd_largest(struct simd x) {
    __m256 p8 = _mm256_max_ps(x.low, x.high);
    __m128 p4 = _mm_max_ps(_mm256_castps256_ps128(p8), _mm256_extractf128_ps(p8, 1));
    __m128 p2 = _mm_max_ps(p4, _mm_movehl_ps(p4, p4));
    return _mm_cvtss_f32(_mm_max_ss(p2, _mm_movehdup_ps(p2)));
}

/* The largest of 32 magnitudes as F32 bits; a NaN is larger than any number. */
static inline uint32_t simd_largest_magnitude_bits(const float from[32]) {
    __m256i magnitude = _mm256_set1_epi32(0x7fffffff);
    __m256i p8 = _mm256_setzero_si256();
    for (int i = 0; i < 32; i += 8) {
        __m256i bits = _mm256_castps_si256(_mm256_loadu_ps(from + i));
        p8 = _mm256_max_epi32(p8, _mm256_and_si256(bits, magnitude));
    }
    __m128i p4 = _mm_max_epi32(_mm256_castsi256_si128(p8), _mm256_extracti128_si256(p8, 1));
    __m128i p2 = _mm_max_epi32(p4, _mm_unpackhi_epi64(p4, p4));
    return (uint32_t)_mm_cvtsi128_si32(_mm_max_epi32(p2, _mm_shuffle_epi32(p2, 1)));
}

#endif
