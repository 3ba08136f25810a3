/*
 * Each function reduces its argument with constants split in two or three, the first product
 * being exact in an fma, and sums a Taylor series by Horner's rule on the reduced argument.
 * Every step is one IEEE 754 operation, so the results are the same wherever doubles are.
 */
#include "base/elementary.h"

#include "base/object.h"

#include <math.h>
#include <string.h>

/* ROUND_MAGIC + x - ROUND_MAGIC is x rounded to the nearest integer for |x| < 2^51. */
#define ROUND_MAGIC 0x1.8p+52
#define LOG2_E 0x1.71547652b82fep+0
#define LN2_HIGH 0x1.62e42fefa39efp-1
#define LN2_LOW 0x1.abc9e3b39803fp-56
#define TWO_OVER_PI 0x1.45f306dc9c883p-1
#define HALF_PI_HIGH 0x1.921fb54442d18p+0
#define HALF_PI_MIDDLE 0x1.1a62633145c07p-54
#define HALF_PI_LOW (-0x1.f1976b7ed8fbcp-110)
#define QUARTER_PI 0x1.921fb54442d18p-1
#define SQRT2 0x1.6a09e667f3bcdp+0

static double of_bits(uint64_t bits) {
    double value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static uint64_t bits_of(double value) {
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

/* coefficients[0] + x * (coefficients[1] + x * ...). */
static double polynomial(const double *coefficients, size_t count, double x) {
    double sum = coefficients[count - 1];
    for (size_t i = count - 1; i-- > 0;) {
        sum = fma(sum, x, coefficients[i]);
    }
    return sum;
}

/* 2^k for a normal result. */
static double power_of_two(int k) {
    return of_bits((uint64_t)(k + 1023) << 52);
}

double elementary_exp(double x) {
    /* 1/2!, 1/3!, ... 1/13!: the next term is below 2^-57 of the result for |r| <= ln(2)/2. */
    static const double coefficients[] = {
        1.0 / 2,     1.0 / 6,      1.0 / 24,      1.0 / 120,      1.0 / 720,       1.0 / 5040,
        1.0 / 40320, 1.0 / 362880, 1.0 / 3628800, 1.0 / 39916800, 1.0 / 479001600, 1.0 / 6227020800,
    };
    if (!(x <= 709.78)) {
        return x > 0 ? (double)INFINITY : x; /* NaN fails every comparison */
    }
    if (x < -745.0) {
        return 0.0;
    }
    double n = fma(x, LOG2_E, ROUND_MAGIC) - ROUND_MAGIC;
    double r = fma(n, -LN2_LOW, fma(n, -LN2_HIGH, x));
    double power = 1.0 + fma(r * r, polynomial(coefficients, ARRAY_LEN(coefficients), r), r);
    /* In two halves, the first exact, so that a denormal result is rounded once. */
    int k = (int)n;
    return power * power_of_two(k / 2) * power_of_two(k - k / 2);
}

double elementary_log(double x) {
    /* 2/3, 2/5, ... 2/25 of 2 atanh(s) = 2 s + s^3 (2/3 + 2/5 s^2 + ...); |s| < 0.172. */
    static const double coefficients[] = {
        2.0 / 3,  2.0 / 5,  2.0 / 7,  2.0 / 9,  2.0 / 11, 2.0 / 13,
        2.0 / 15, 2.0 / 17, 2.0 / 19, 2.0 / 21, 2.0 / 23, 2.0 / 25,
    };
    if (!(x > 0)) {
        return x == 0 ? -(double)INFINITY : (double)NAN;
    }
    if (x > 0x1.fffffffffffffp+1023) {
        return x;
    }
    int exponent = 0;
    if (x < 0x1p-1022) {
        x *= 0x1p+54;
        exponent = -54;
    }
    uint64_t bits = bits_of(x);
    exponent += (int)(bits >> 52) - 1023;
    double m = of_bits((bits & 0xfffffffffffffu) | 0x3ff0000000000000u); /* [1, 2) */
    if (m > SQRT2) {
        m *= 0.5;
        exponent++;
    }
    double f = m - 1.0;
    double s = f / (2.0 + f);
    double w = s * s;
    double tail = s * w * polynomial(coefficients, ARRAY_LEN(coefficients), w);
    double e = (double)exponent;
    return fma(e, LN2_HIGH, fma(e, LN2_LOW, s + s + tail));
}

double elementary_pow(double base, double x) {
    return elementary_exp(x * elementary_log(base));
}

/* x - n * pi/2. The first step is exact: n * HALF_PI_HIGH has no bit below 2^-52. */
static double reduce(double x, double n) {
    double r = fma(n, -HALF_PI_HIGH, x);
    r = fma(n, -HALF_PI_MIDDLE, r);
    return fma(n, -HALF_PI_LOW, r);
}

void elementary_sincos(double x, double *sine, double *cosine) {
    /* -1/3!, 1/5!, ... and -1/4! ... of the series; the next terms are below 2^-58. */
    static const double sine_coefficients[] = {
        -1.0 / 6,        1.0 / 120,        -1.0 / 5040,          1.0 / 362880,
        -1.0 / 39916800, 1.0 / 6227020800, -1.0 / 1307674368000, 1.0 / 355687428096000,
    };
    static const double cosine_coefficients[] = {
        -1.0 / 2,       1.0 / 24,        -1.0 / 720,         1.0 / 40320,
        -1.0 / 3628800, 1.0 / 479001600, -1.0 / 87178291200, 1.0 / 20922789888000,
    };
    if (!(fabs(x) <= 0x1p+52)) {
        *sine = (double)NAN;
        *cosine = (double)NAN;
        return;
    }
    /* On |x|, since above 2^51 the sum with ROUND_MAGIC keeps integers on its upper side only. */
    double magnitude = fabs(x);
    double n = fma(magnitude, TWO_OVER_PI, ROUND_MAGIC) - ROUND_MAGIC;
    double r = reduce(magnitude, n);
    /* From about 2^50 on n itself is rounded too coarsely; one more step puts that right. */
    double more = fma(r, TWO_OVER_PI, ROUND_MAGIC) - ROUND_MAGIC;
    if (fabs(r) > QUARTER_PI) {
        r = reduce(r, more);
        n += more;
    }
    double w = r * r;
    double s = fma(r * w, polynomial(sine_coefficients, ARRAY_LEN(sine_coefficients), w), r);
    double c = fma(w, polynomial(cosine_coefficients, ARRAY_LEN(cosine_coefficients), w), 1.0);
    unsigned quadrant = (unsigned)(int64_t)n & 3u;
    double sine_of_magnitude = quadrant % 2 == 0 ? s : c;
    double cosine_of_magnitude = quadrant % 2 == 0 ? c : s;
    int is_sine_negative = (quadrant >= 2) != (signbit(x) != 0);
    *sine = is_sine_negative ? -sine_of_magnitude : sine_of_magnitude;
    *cosine = quadrant == 1 || quadrant == 2 ? -cosine_of_magnitude : cosine_of_magnitude;
}
