#include "base/elementary_vector.h"

#include <stdint.h>
#include <string.h>

/*
 * e^x = 2^n e^r with n = x / ln 2 rounded and r = x - n ln 2, |r| <= 0.347: ln 2 is split so that
 * n * LN2_HIGH is exact (40 bits and 11). e^r is its Taylor series up to r^13. Every step is one
 * addition or multiplication, rounded by itself, in each lane.
 */

/* ROUND_MAGIC + y - ROUND_MAGIC is y rounded to an integer, which the low bits of the sum hold. */
#define ROUND_MAGIC 0x1.8p+52
#define LOG2_E 0x1.71547652b82fep+0
#define LN2_HIGH 0x1.62e42fefa2p-1
#define LN2_LOW 0x1.9ef35793c7673p-41
#define LEAST (-708.0)

/* Four chains of dependent steps at a time, or their latency would decide. */
enum { LANES = 8, VECTORS = 4, BLOCK = LANES * VECTORS };

/* Built once per instruction set and chosen when the program starts: the steps are the same, so
 * the results are. Sanitizers cannot watch the choice, which comes before their own start. */
#if defined(__x86_64__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__) &&                \
    !defined(__SANITIZE_THREAD__)
#define FOR_EACH_ISA __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define FOR_EACH_ISA
#endif

typedef double double_vector __attribute__((vector_size(LANES * sizeof(double))));
typedef int64_t int_vector __attribute__((vector_size(LANES * sizeof(int64_t))));

static const double coefficients[] = {
    1.0 / 6227020800, 1.0 / 479001600, 1.0 / 39916800, 1.0 / 3628800, 1.0 / 362880, 1.0 / 40320,
    1.0 / 5040,       1.0 / 720,       1.0 / 120,      1.0 / 24,      1.0 / 6,      1.0 / 2,
};

static inline __attribute__((always_inline)) void exp_block(double *values) {
    double_vector x[VECTORS];
    double_vector r[VECTORS];
    double_vector q[VECTORS];
    int_vector scale[VECTORS];
    int_vector is_normal[VECTORS];
    memcpy(x, values, sizeof x);
    for (int i = 0; i < VECTORS; i++) {
        is_normal[i] = x[i] >= LEAST;
        x[i] = (double_vector)((int_vector)x[i] & is_normal[i]);
        double_vector z = x[i] * LOG2_E + ROUND_MAGIC;
        double_vector n = z - ROUND_MAGIC;
        scale[i] = ((int_vector)z + 1023) << 52;
        r[i] = (x[i] - n * LN2_HIGH) - n * LN2_LOW;
        q[i] = r[i] * coefficients[0] + coefficients[1];
    }
#pragma GCC unroll 16
    for (size_t c = 2; c < sizeof coefficients / sizeof coefficients[0]; c++) {
#pragma GCC unroll 4
        for (int i = 0; i < VECTORS; i++) {
            q[i] = q[i] * r[i] + coefficients[c];
        }
    }
    for (int i = 0; i < VECTORS; i++) {
        double_vector power = ((r[i] * r[i]) * q[i] + r[i]) + 1.0;
        power *= (double_vector)scale[i];
        x[i] = (double_vector)((int_vector)power & is_normal[i]);
    }
    memcpy(values, x, sizeof x);
}

FOR_EACH_ISA
void elementary_vector_exp(double *values, size_t count) {
    size_t whole = count - count % BLOCK;
    for (size_t i = 0; i < whole; i += BLOCK) {
        exp_block(values + i);
    }
    double rest[BLOCK] = {0};
    size_t left = count - whole;
    if (left > 0) {
        memcpy(rest, values + whole, left * sizeof *rest);
        exp_block(rest);
        memcpy(values + whole, rest, left * sizeof *rest);
    }
}
