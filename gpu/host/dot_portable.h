/*
 * Integer products of Q8_0 panels in plain C; see dot_avx512vnni.h for what a
 * dot_*.h gives.
 */
#ifndef TERN_GPU_HOST_DOT_PORTABLE_H
#define TERN_GPU_HOST_DOT_PORTABLE_H

#include "gpu/host/simd_portable.h"

enum { DOT_TILE_TOKENS = 1, DOT_TILE_PANELS = 1, DOT_FEW_TOKENS = 1 };

struct dot_block {
    float scale;
    int32_t start;
    int8_t q[32];
};

struct dot_sum {
    int32_t lane[SIMD_LANES];
};

struct dot_weights {
    const uint8_t *at;
};

struct dot_activations {
    const int8_t *at;
};

static inline struct dot_sum dot_start(int32_t start) {
    struct dot_sum sum;
    for (int i = 0; i < SIMD_LANES; i++) {
        sum.lane[i] = start;
    }
    return sum;
}

static inline struct dot_weights dot_load_weights(const uint8_t *from) {
    return (struct dot_weights){from};
}

static inline struct dot_activations dot_load_activations(const struct dot_block *block, int run) {
    return (struct dot_activations){block->q + run * 4};
}

static inline struct dot_sum dot_step(struct dot_sum sum, struct dot_weights w,
                                      struct dot_activations x) {
    for (int i = 0; i < SIMD_LANES; i++) {
        const uint8_t *four = w.at + i * 4;
        sum.lane[i] +=
            four[0] * x.at[0] + four[1] * x.at[1] + four[2] * x.at[2] + four[3] * x.at[3];
    }
    return sum;
}

static inline struct simd dot_to_simd(struct dot_sum sum) {
    struct simd x;
    for (int i = 0; i < SIMD_LANES; i++) {
        x.lane[i] = (float)sum.lane[i];
    }
    return x;
}

/* Adding 1.5 * 2^23 rounds a small number to an integer, to nearest even. */
static inline void dot_quantise(const float x[32], float inverse, struct dot_block *out) {
    int32_t sum = 0;
    for (int i = 0; i < 32; i++) {
        float rounded = x[i] * inverse + 0x1.8p23f;
        int32_t q = (int32_t)(rounded - 0x1.8p23f);
        out->q[i] = (int8_t)q;
        sum += q;
    }
    out->start = -128 * sum;
}

#endif
