/*
 * The instructions of the tightest inner loops, fed from registers (dot, fma) or from memory
 * (read): what no kernel of this ISA can pass.
 */
#include "gpu/host/kernel_plan.h"

#include KERNEL_DOT_HEADER

/* As many sums as hide the latency of an instruction and find room in registers; loops over them
 * are unrolled, or they would lie in memory. */
enum { SUMS = SIMD_REGISTERS >= 32 ? 12 : 4, LOADS = 8 };

/* Hides from the compiler that nothing changes: else it would take work out of the loop. */
#define FORGET(variable) __asm__ volatile("" : "+m"(variable))

static float run_dot(size_t steps) {
    _Alignas(64) uint8_t quants[64];
    struct dot_block block = {.scale = 1.0f};
    struct dot_sum sums[SUMS];
    memset(quants, 3, sizeof quants);
    memset(block.q, 1, sizeof block.q);
#pragma GCC unroll 12
    for (int i = 0; i < SUMS; i++) {
        sums[i] = dot_start(i);
    }
    for (size_t step = 0; step < steps; step += SUMS) {
        FORGET(quants);
        FORGET(block.q);
        struct dot_weights w = dot_load_weights(quants);
        struct dot_activations x = dot_load_activations(&block, 0);
#pragma GCC unroll 12
        for (int i = 0; i < SUMS; i++) {
            sums[i] = dot_step(sums[i], w, x);
        }
    }
    struct simd total = simd_zero();
#pragma GCC unroll 12
    for (int i = 0; i < SUMS; i++) {
        total = simd_add(total, dot_to_simd(sums[i]));
    }
    return simd_tree16(total);
}

static float run_fma(size_t steps) {
    struct simd sums[SUMS];
    struct simd a = simd_set1(0.5f), b = simd_set1(1.0f);
#pragma GCC unroll 12
    for (int i = 0; i < SUMS; i++) {
        sums[i] = simd_set1((float)i);
    }
    for (size_t step = 0; step < steps; step += SUMS) {
#pragma GCC unroll 12
        for (int i = 0; i < SUMS; i++) {
            sums[i] = simd_fma(sums[i], a, b);
        }
    }
    struct simd total = simd_zero();
#pragma GCC unroll 12
    for (int i = 0; i < SUMS; i++) {
        total = simd_add(total, sums[i]);
    }
    return simd_tree16(total);
}

static float run_read(const float *from, size_t values) {
    struct simd sums[LOADS];
#pragma GCC unroll 8
    for (int i = 0; i < LOADS; i++) {
        sums[i] = simd_zero();
    }
    for (size_t at = 0; at < values; at += LOADS * SIMD_LANES) {
#pragma GCC unroll 8
        for (int i = 0; i < LOADS; i++) {
            sums[i] = simd_add(sums[i], simd_load(from + at + (size_t)i * SIMD_LANES));
        }
    }
    struct simd total = simd_zero();
#pragma GCC unroll 8
    for (int i = 0; i < LOADS; i++) {
        total = simd_add(total, sums[i]);
    }
    return simd_tree16(total);
}

extern const struct kernel_peaks KERNEL_SYMBOL(kernel_peaks);
const struct kernel_peaks KERNEL_SYMBOL(kernel_peaks) = {
    .dot_step_ops = SIMD_LANES * 4 * 2,
    .float_step_ops = SIMD_LANES * 2,
    .dot = run_dot,
    .fma = run_fma,
    .read = run_read,
};
