/*
 * Durations counted by size class: cheap to observe, small to copy, and enough for
 * percentiles. Embedded by value, zeroes are a valid start; not locked.
 */
#ifndef TERN_BASE_HISTOGRAM_H
#define TERN_BASE_HISTOGRAM_H

#include <stdint.h>

enum { HISTOGRAM_BOUNDS = 19 };

struct histogram {
    uint64_t buckets[HISTOGRAM_BOUNDS + 1]; /* not cumulative; the last one is all above */
    uint64_t count;
    double sum_s;
};

/* Upper bounds of the buckets, in seconds, rising. */
extern const double histogram_bounds_s[HISTOGRAM_BOUNDS];

void histogram_observe(struct histogram *histogram, double seconds);

#endif
