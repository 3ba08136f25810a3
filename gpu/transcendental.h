/*
 * What exp, log1p and the functions made of them are, to the bit, in every
 * kernel of every backend that claims a bit-equal class. This file holds the
 * numbers and the order; each kernel set writes its own code from them, because
 * the reference is to be independent of the kernels that it judges.
 *
 * exp(x), for any x:
 *     x = x > EXP_MIN ? x : EXP_MIN (so that a NaN becomes EXP_MIN); x = x < EXP_MAX ? x : EXP_MAX
 *     z = fma(x, EXP_LOG2E, EXP_MAGIC); n = z - EXP_MAGIC, an integer; k = bits(z) -
 * bits(EXP_MAGIC) r = fma(n, -EXP_LN2_HIGH, x); r = fma(n, -EXP_LN2_LOW, r) q = E4; q = fma(q, r,
 * E3); ... ; q = fma(q, r, E0) exp = (fma(r * r, q, r) + 1) * 2^k, 2^k made from its exponent bits
 * (k + 127) << 23 Relative error below 1.5e-7 on [EXP_MIN, EXP_MAX]; constant outside, never 0,
 * denormal or infinite.
 *
 * log1p(u), for u in [0, 1]:
 *     s = u / (2 + u); w = s * s
 *     q = L4; q = fma(q, w, L3); ... ; q = fma(q, w, L0)
 *     log1p = fma(s * w, q, s + s)
 * from log(1 + u) = 2 atanh(u / (2 + u)). Relative error below 3e-7.
 *
 * softplus(x) = (x > 0 ? x : 0) + log1p(exp(-|x|))
 * sigmoid(x)  = 1 / (1 + exp(-x))
 * silu(x)     = x / (1 + exp(-x))
 * where -x flips the sign bit.
 *
 * The polynomials are minimax fits (Remez) of (e^r - 1 - r) / r^2 on |r| <= ln(2)/2 and of
 * (2 atanh(s) - 2 s) / s^3 in w = s^2 on [0, 1/9], rounded to F32.
 */
#ifndef TERN_GPU_TRANSCENDENTAL_H
#define TERN_GPU_TRANSCENDENTAL_H

#define TRANSCENDENTAL_EXP_MIN (-87.0f)
#define TRANSCENDENTAL_EXP_MAX 88.0f
#define TRANSCENDENTAL_EXP_LOG2E 0x1.715476p+0f
#define TRANSCENDENTAL_EXP_MAGIC 0x1.8p+23f
#define TRANSCENDENTAL_EXP_LN2_HIGH 0x1.62ep-1f
#define TRANSCENDENTAL_EXP_LN2_LOW 0x1.0bfbe8p-15f
#define TRANSCENDENTAL_EXP_E0 0x1.fffffcp-2f
#define TRANSCENDENTAL_EXP_E1 0x1.555492p-3f
#define TRANSCENDENTAL_EXP_E2 0x1.5558f2p-5f
#define TRANSCENDENTAL_EXP_E3 0x1.1239e2p-7f
#define TRANSCENDENTAL_EXP_E4 0x1.6a2434p-10f

#define TRANSCENDENTAL_LOG1P_L0 0x1.555558p-1f
#define TRANSCENDENTAL_LOG1P_L1 0x1.9996a8p-2f
#define TRANSCENDENTAL_LOG1P_L2 0x1.25097cp-2f
#define TRANSCENDENTAL_LOG1P_L3 0x1.b6d5b2p-3f
#define TRANSCENDENTAL_LOG1P_L4 0x1.f1b2c2p-3f

/* Below this largest magnitude (2^-100) a block of 32 activations is quantised to zeros. */
#define TRANSCENDENTAL_QUANTISE_MIN 0x1p-100f

#endif
