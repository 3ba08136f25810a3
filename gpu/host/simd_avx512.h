/*
 * 16 F32 lanes on AVX-512 (F, BW, VL, DQ), FMA and F16C. Each simd_*.h gives the
 * same functions with the same results to the bit; kernels are written against
 * them once. Every operation rounds once, to nearest even; none fuses unless it
 * says so. Memory need not be aligned. A "part" touches its first `count` lanes
 * only, 0 to 16.
 */
#ifndef TERN_GPU_HOST_SIMD_AVX512_H
#define TERN_GPU_HOST_SIMD_AVX512_H

#include "gpu/transcendental.h"

#include <immintrin.h>
#include <stdint.h>

/* SIMD_REGISTERS: how many vectors of 16 lanes the register file holds. */
enum { SIMD_LANES = 16, SIMD_REGISTERS = 32 };

struct simd {
    __m512 v;
};

static inline __mmask16 simd_mask(int count) {
    return (__mmask16)((1u << count) - 1u);
}

/* --- memory -------------------------------------------------------------------------- */

static inline struct simd simd_load(const float *from) {
    return (struct simd){_mm512_loadu_ps(from)};
}

/* Lanes past COUNT are +0. */
static inline struct simd simd_load_part(const float *from, int count) {
    return (struct simd){_mm512_maskz_loadu_ps(simd_mask(count), from)};
}

static inline void simd_store(float *to, struct simd x) {
    _mm512_storeu_ps(to, x.v);
}

static inline void simd_store_part(float *to, struct simd x, int count) {
    _mm512_mask_storeu_ps(to, simd_mask(count), x.v);
}

static inline struct simd simd_load_f16(const uint16_t *from) {
    return (struct simd){_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)from))};
}

static inline struct simd simd_load_f16_part(const uint16_t *from, int count) {
    return (struct simd){_mm512_cvtph_ps(_mm256_maskz_loadu_epi16(simd_mask(count), from))};
}

static inline void simd_store_f16_part(uint16_t *to, struct simd x, int count) {
    __m256i half = _mm512_cvtps_ph(x.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    _mm256_mask_storeu_epi16(to, simd_mask(count), half);
}

static inline struct simd simd_widen_bf16(__m256i half) {
    return (struct simd){_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16))};
}

static inline struct simd simd_load_bf16(const uint16_t *from) {
    return simd_widen_bf16(_mm256_loadu_si256((const __m256i *)(const void *)from));
}

static inline struct simd simd_load_bf16_part(const uint16_t *from, int count) {
    return simd_widen_bf16(_mm256_maskz_loadu_epi16(simd_mask(count), from));
}

/* As half_f32_to_bf16; AVX-512's own conversion flushes denormals. */
static inline void simd_store_bf16_part(uint16_t *to, struct simd x, int count) {
    __m512i bits = _mm512_castps_si512(x.v);
    __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    __m512i rounded = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
    __mmask16 is_nan = _mm512_cmp_ps_mask(x.v, x.v, _CMP_UNORD_Q);
    rounded = _mm512_mask_or_epi32(rounded, is_nan, bits, _mm512_set1_epi32(0x400000));
    _mm256_mask_storeu_epi16(to, simd_mask(count),
                             _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded, 16)));
}

/* --- arithmetic ---------------------------------------------------------------------- */

static inline struct simd simd_set1(float x) {
    return (struct simd){_mm512_set1_ps(x)};
}

static inline struct simd simd_zero(void) {
    return (struct simd){_mm512_setzero_ps()};
}

static inline struct simd simd_add(struct simd a, struct simd b) {
    return (struct simd){_mm512_add_ps(a.v, b.v)};
}

static inline struct simd simd_sub(struct simd a, struct simd b) {
    return (struct simd){_mm512_sub_ps(a.v, b.v)};
}

static inline struct simd simd_mul(struct simd a, struct simd b) {
    return (struct simd){_mm512_mul_ps(a.v, b.v)};
}

static inline struct simd simd_div(struct simd a, struct simd b) {
    return (struct simd){_mm512_div_ps(a.v, b.v)};
}

/* a * b + c, rounded once. */
static inline struct simd simd_fma(struct simd a, struct simd b, struct simd c) {
    return (struct simd){_mm512_fmadd_ps(a.v, b.v, c.v)};
}

static inline struct simd simd_neg(struct simd x) {
    return (struct simd){_mm512_xor_ps(x.v, _mm512_set1_ps(-0.0f))};
}

static inline struct simd simd_abs(struct simd x) {
    return (struct simd){_mm512_abs_ps(x.v)};
}

/* x > a ? x : a */
static inline struct simd simd_max(struct simd x, struct simd a) {
    return (struct simd){_mm512_max_ps(x.v, a.v)};
}

/* x < a ? x : a */
static inline struct simd simd_min(struct simd x, struct simd a) {
    return (struct simd){_mm512_min_ps(x.v, a.v)};
}

/* Lane i is x's for i < count, else y's. */
static inline struct simd simd_first(struct simd x, struct simd y, int count) {
    return (struct simd){_mm512_mask_blend_ps(simd_mask(count), y.v, x.v)};
}

/* For z = n + TRANSCENDENTAL_EXP_MAGIC with an integer n from -126 to 127: 2^n. */
static inline struct simd simd_pow2_of_magic(struct simd z) {
    const __m512i bias = _mm512_sub_epi32(
        _mm512_set1_epi32(127), _mm512_castps_si512(_mm512_set1_ps(TRANSCENDENTAL_EXP_MAGIC)));
    __m512i exponent = _mm512_add_epi32(_mm512_castps_si512(z.v), bias);
    return (struct simd){_mm512_castsi512_ps(_mm512_slli_epi32(exponent, 23))};
}

/* --- across lanes -------------------------------------------------------------------- */

/* out[j] lane i = from[4 * i + j]. */
static inline void simd_load_transposed4(const float from[64], struct simd out[4]) {
    __m512 v0 = _mm512_loadu_ps(from);
    __m512 v1 = _mm512_loadu_ps(from + 16);
    __m512 v2 = _mm512_loadu_ps(from + 32);
    __m512 v3 = _mm512_loadu_ps(from + 48);
    /* Quarters: t<m> gets quarter m of each. */
    __m512 a = _mm512_shuffle_f32x4(v0, v1, 0x44);
    __m512 b = _mm512_shuffle_f32x4(v0, v1, 0xee);
    __m512 c = _mm512_shuffle_f32x4(v2, v3, 0x44);
    __m512 d = _mm512_shuffle_f32x4(v2, v3, 0xee);
    __m512 t0 = _mm512_shuffle_f32x4(a, c, 0x88);
    __m512 t1 = _mm512_shuffle_f32x4(a, c, 0xdd);
    __m512 t2 = _mm512_shuffle_f32x4(b, d, 0x88);
    __m512 t3 = _mm512_shuffle_f32x4(b, d, 0xdd);
    /* Within quarters. */
    a = _mm512_unpacklo_ps(t0, t1);
    b = _mm512_unpackhi_ps(t0, t1);
    c = _mm512_unpacklo_ps(t2, t3);
    d = _mm512_unpackhi_ps(t2, t3);
    out[0].v = _mm512_shuffle_ps(a, c, 0x44);
    out[1].v = _mm512_shuffle_ps(a, c, 0xee);
    out[2].v = _mm512_shuffle_ps(b, d, 0x44);
    out[3].v = _mm512_shuffle_ps(b, d, 0xee);
}

static inline float simd_lane0(struct simd x) {
    return _mm512_cvtss_f32(x.v);
}

/* tree16 of op.h. */
static inline float simd_tree16(struct simd x) {
    __m256 p8 = _mm256_add_ps(_mm512_castps512_ps256(x.v), _mm512_extractf32x8_ps(x.v, 1));
    __m128 p4 = _mm_add_ps(_mm256_castps256_ps128(p8), _mm256_extractf128_ps(p8, 1));
    __m128 p2 = _mm_add_ps(p4, _mm_movehl_ps(p4, p4));
    return _mm_cvtss_f32(_mm_add_ss(p2, _mm_movehdup_ps(p2)));
}

/* The largest lane; no lane is a NaN. */
static inline float simd_largest(struct simd x) {
    __m256 p8 = _mm256_max_ps(_mm512_castps512_ps256(x.v), _mm512_extractf32x8_ps(x.v, 1));
    __m128 p4 = _mm_max_ps(_mm256_castps256_ps128(p8), _mm256_extractf128_ps(p8, 1));
    __m128 p2 = _mm_max_ps(p4, _mm_movehl_ps(p4, p4));
    return _mm_cvtss_f32(_mm_max_ss(p2, _mm_movehdup_ps(p2)));
}

/* The largest of 32 magnitudes as F32 bits; a NaN is larger than any number. */
static inline uint32_t simd_largest_magnitude_bits(const float from[32]) {
    __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
    __m512i low = _mm512_and_si512(_mm512_castps_si512(_mm512_loadu_ps(from)), magnitude);
    __m512i high = _mm512_and_si512(_mm512_castps_si512(_mm512_loadu_ps(from + 16)), magnitude);
    __m512i p16 = _mm512_max_epi32(low, high);
    __m256i p8 = _mm256_max_epi32(_mm512_castsi512_si256(p16), _mm512_extracti32x8_epi32(p16, 1));
    __m128i p4 = _mm_max_epi32(_mm256_castsi256_si128(p8), _mm256_extracti128_si256(p8, 1));
    __m128i p2 = _mm_max_epi32(p4, _mm_unpackhi_epi64(p4, p4));
    return (uint32_t)_mm_cvtsi128_si32(_mm_max_epi32(p2, _mm_shuffle_epi32(p2, 1)));
}

#endif
