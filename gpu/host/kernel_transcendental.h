/*
 * The functions of gpu/transcendental.h over the 16 lanes of whichever simd
 * header the including kernel was built with.
 */
#ifndef TERN_GPU_HOST_KERNEL_TRANSCENDENTAL_H
#define TERN_GPU_HOST_KERNEL_TRANSCENDENTAL_H

#include "gpu/host/kernel_plan.h"
#include "gpu/transcendental.h"

KERNEL_INLINE struct simd kernel_transcendental_exp(struct simd x) {
    x = simd_max(x, simd_set1(TRANSCENDENTAL_EXP_MIN));
    x = simd_min(x, simd_set1(TRANSCENDENTAL_EXP_MAX));
    struct simd magic = simd_set1(TRANSCENDENTAL_EXP_MAGIC);
    struct simd z = simd_fma(x, simd_set1(TRANSCENDENTAL_EXP_LOG2E), magic);
    struct simd n = simd_sub(z, magic);
    struct simd r = simd_fma(n, simd_set1(-TRANSCENDENTAL_EXP_LN2_HIGH), x);
    r = simd_fma(n, simd_set1(-TRANSCENDENTAL_EXP_LN2_LOW), r);
    struct simd q = simd_set1(TRANSCENDENTAL_EXP_E4);
    q = simd_fma(q, r, simd_set1(TRANSCENDENTAL_EXP_E3));
    q = simd_fma(q, r, simd_set1(TRANSCENDENTAL_EXP_E2));
    q = simd_fma(q, r, simd_set1(TRANSCENDENTAL_EXP_E1));
    q = simd_fma(q, r, simd_set1(TRANSCENDENTAL_EXP_E0));
    struct simd fraction = simd_add(simd_fma(simd_mul(r, r), q, r), simd_set1(1.0f));
    return simd_mul(fraction, simd_pow2_of_magic(z));
}

KERNEL_INLINE struct simd kernel_transcendental_log1p(struct simd u) {
    struct simd s = simd_div(u, simd_add(simd_set1(2.0f), u));
    struct simd w = simd_mul(s, s);
    struct simd q = simd_set1(TRANSCENDENTAL_LOG1P_L4);
    q = simd_fma(q, w, simd_set1(TRANSCENDENTAL_LOG1P_L3));
    q = simd_fma(q, w, simd_set1(TRANSCENDENTAL_LOG1P_L2));
    q = simd_fma(q, w, simd_set1(TRANSCENDENTAL_LOG1P_L1));
    q = simd_fma(q, w, simd_set1(TRANSCENDENTAL_LOG1P_L0));
    return simd_fma(simd_mul(s, w), q, simd_add(s, s));
}

KERNEL_INLINE struct simd kernel_transcendental_softplus(struct simd x) {
    struct simd tail =
        kernel_transcendental_log1p(kernel_transcendental_exp(simd_neg(simd_abs(x))));
    return simd_add(simd_max(x, simd_zero()), tail);
}

KERNEL_INLINE struct simd kernel_transcendental_silu(struct simd x) {
    struct simd e = kernel_transcendental_exp(simd_neg(x));
    return simd_div(x, simd_add(simd_set1(1.0f), e));
}

#endif
