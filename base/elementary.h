/*
 * exp, log, sin and cos in double precision with the same bits on every machine:
 * made of + - * / and fma alone, since libm differs between versions. For rotary
 * positions and sampling.
 */
#ifndef TERN_BASE_ELEMENTARY_H
#define TERN_BASE_ELEMENTARY_H

/* e^x; relative error below 1e-15. 0 below -745, infinity above 709.78, NaN for NaN. */
double elementary_exp(double x);

/* Natural logarithm; relative error below 1e-15. -infinity at 0, NaN below. */
double elementary_log(double x);

/* base^x for base > 0 as exp(x * log(base)); relative error below 1e-15 * (1 + |x log base|). */
double elementary_pow(double base, double x);

/* Sine and cosine; absolute error below 1e-15 for |x| < 2^24. NaN beyond 2^52. */
void elementary_sincos(double x, double *sine, double *cosine);

#endif
