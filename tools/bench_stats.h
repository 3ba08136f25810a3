/*
 * What a benchmark says of repeated measurements. Pure functions over the caller's array.
 */
#ifndef TERN_TOOLS_BENCH_STATS_H
#define TERN_TOOLS_BENCH_STATS_H

#include <stddef.h>

struct bench_stats {
    size_t count;
    double min;
    double median; /* of an even number: the mean of the middle two */
    double p95;    /* the smallest value that at least 95 % of the values do not exceed */
    double max;
};

/* Sorts VALUES; all zero for none. */
struct bench_stats bench_stats_of(double *values, size_t count);

#endif
