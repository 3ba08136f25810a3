/*
 * 16 F32 lanes in plain C for any processor; see simd_avx512.h for what every
 * simd_*.h promises.
 */
#ifndef TERN_GPU_HOST_SIMD_PORTABLE_H
#define TERN_GPU_HOST_SIMD_PORTABLE_H

#include "base/half.h"
#include "gpu/transcendental.h"

#include <math.h>

enum { SIMD_LANES = 16, SIMD_REGISTERS = 2 };

struct simd {
    float lane[SIMD_LANES];
};

/* --- memory -------------------------------------------------------------------------- */

static inline struct simd simd_zero(void) {
    return (struct simd){{0}};
}

static inline struct simd simd_load(const float *from) {
    struct simd x;
    memcpy(x.lane, from, sizeof x.lane);
    return x;
}

/* Lanes past COUNT are +0. */
static inline struct simd simd_load_part(const float *from, int count) {
    struct simd x = simd_zero();
    memcpy(x.lane, from, (size_t)count * sizeof x.lane[0]);
    return x;
}

static inline void simd_store(float *to, struct simd x) {
    memcpy(to, x.lane, sizeof x.lane);
}

static inline void simd_store_part(float *to, struct simd x, int count) {
    memcpy(to, x.lane, (size_t)count * sizeof x.lane[0]);
}

static inline struct simd simd_load_f16_part(const uint16_t *from, int count) {
    struct simd x = simd_zero();
    for (int i = 0; i < count; i++) {
        x.lane[i] = half_f16_to_f32(from[i]);
    }
    return x;
}

static inline struct simd simd_load_f16(const uint16_t *from) {
    return simd_load_f16_part(from, SIMD_LANES);
}

static inline void simd_store_f16_part(uint16_t *to, struct simd x, int count) {
    for (int i = 0; i < count; i++) {
        to[i] = half_f32_to_f16(x.lane[i]);
    }
}

static inline struct simd simd_load_bf16_part(const uint16_t *from, int count) {
    struct simd x = simd_zero();
    for (int i = 0; i < count; i++) {
        x.lane[i] = half_bf16_to_f32(from[i]);
    }
    return x;
}

static inline struct simd simd_load_bf16(const uint16_t *from) {
    return simd_load_bf16_part(from, SIMD_LANES);
}

static inline void simd_store_bf16_part(uint16_t *to, struct simd x, int count) {
    for (int i = 0; i < count; i++) {
        to[i] = half_f32_to_bf16(x.lane[i]);
    }
}

/* --- arithmetic ---------------------------------------------------------------------- */

static inline struct simd simd_set1(float x) {
    struct simd y;
    for (int i = 0; i < SIMD_LANES; i++) {
        y.lane[i] = x;
    }
    return y;
}

static inline struct simd simd_add(struct simd a, struct simd b) {
    for (int i = 0; i < SIMD_LANES; i++) {
        a.lane[i] = a.lane[i] + b.lane[i];
    }
    return a;
}

static inline struct simd simd_sub(struct simd a, struct simd b) {
    for (int i = 0; i < SIMD_LANES; i++) {
        a.lane[i] = a.lane[i] - b.lane[i];
    }
    return a;
}

static inline struct simd simd_mul(struct simd a, struct simd b) {
    for (int i = 0; i < SIMD_LANES; i++) {
        a.lane[i] = a.lane[i] * b.lane[i];
    }
    return a;
}

static inline struct simd simd_div(struct simd a, struct simd b) {
    for (int i = 0; i < SIMD_LANES; i++) {
        a.lane[i] = a.lane[i] / b.lane[i];
    }
    return a;
}

/* a * b + c, rounded once. */
static inline struct simd simd_fma(struct simd a, struct simd b, struct simd c) {
    for (int i = 0; i < SIMD_LANES; i++) {
        a.lane[i] = fmaf(a.lane[i], b.lane[i], c.lane[i]);
    }
    return a;
}

static inline struct simd simd_neg(struct simd x) {
    for (int i = 0; i < SIMD_LANES; i++) {
        x.lane[i] = half_f32_of_bits(half_bits_of_f32(x.lane[i]) ^ 0x80000000u);
    }
    return x;
}

static inline struct simd simd_abs(struct simd x) {
    for (int i = 0; i < SIMD_LANES; i++) {
        x.lane[i] = half_f32_of_bits(half_bits_of_f32(x.lane[i]) & 0x7fffffffu);
    }
    return x;
}

/* x > a ? x : a */
static inline struct simd simd_max(struct simd x, struct simd a) {
    for (int i = 0; i < SIMD_LANES; i++) {
        x.lane[i] = x.lane[i] > a.lane[i] ? x.lane[i] : a.lane[i];
    }
    return x;
}

/* x < a ? x : a */
static inline struct simd simd_min(struct simd x, struct simd a) {
    for (int i = 0; i < SIMD_LANES; i++) {
        x.lane[i] = x.lane[i] < a.lane[i] ? x.lane[i] : a.lane[i];
    }
    return x;
}

/* Lane i is x's for i < count, else y's. */
static inline struct simd simd_first(struct simd x, struct simd y, int count) {
    for (int i = count; i < SIMD_LANES; i++) {
        x.lane[i] = y.lane[i];
    }
    return x;
}

/* For z = n + TRANSCENDENTAL_EXP_MAGIC with an integer n from -126 to 127: 2^n. */
static inline struct simd simd_pow2_of_magic(struct simd z) {
    const uint32_t magic_bits = half_bits_of_f32(TRANSCENDENTAL_EXP_MAGIC);
    for (int i = 0; i < SIMD_LANES; i++) {
        uint32_t exponent = half_bits_of_f32(z.lane[i]) - magic_bits + 127u;
        z.lane[i] = half_f32_of_bits(exponent << 23);
    }
    return z;
}

/* --- across lanes -------------------------------------------------------------------- */

/* out[j] lane i = from[4 * i + j]. */
static inline void simd_load_transposed4(const float from[64], struct simd out[4]) {
    for (int i = 0; i < SIMD_LANES; i++) {
        for (int j = 0; j < 4; j++) {
            out[j].lane[i] = from[4 * i + j];
        }
    }
}

static inline float simd_lane0(struct simd x) {
    return x.lane[0];
}

/* tree16 of op.h. */
static inline float simd_tree16(struct simd x) {
    for (int half = SIMD_LANES / 2; half > 0; half /= 2) {
        for (int i = 0; i < half; i++) {
            x.lane[i] = x.lane[i] + x.lane[i + half];
        }
    }
    return x.lane[0];
}

/* The largest lane; no lane is a NaN. */
static inline float simd_largest(struct simd x) {
    for (int i = 1; i < SIMD_LANES; i++) {
        x.lane[0] = x.lane[i] > x.lane[0] ? x.lane[i] : x.lane[0];
    }
    return x.lane[0];
}

/* The largest of 32 magnitudes as F32 bits; a NaN is larger than any number. */
static inline uint32_t simd_largest_magnitude_bits(const float from[32]) {
    uint32_t largest = 0;
    for (int i = 0; i < 32; i++) {
        uint32_t bits = half_bits_of_f32(from[i]) & 0x7fffffffu;
        largest = bits > largest ? bits : largest;
    }
    return largest;
}

#endif
