#include "base/histogram.h"

const double histogram_bounds_s[HISTOGRAM_BOUNDS] = {
    0.00025, 0.0005, 0.001, 0.002, 0.003, 0.005, 0.01, 0.025, 0.05, 0.1,
    0.25,    0.5,    1,     2.5,   5,     10,    30,   60,    300,
};

void histogram_observe(struct histogram *histogram, double seconds) {
    int bucket = 0;
    while (bucket < HISTOGRAM_BOUNDS && seconds > histogram_bounds_s[bucket]) {
        bucket++;
    }
    histogram->buckets[bucket]++;
    histogram->count++;
    histogram->sum_s += seconds;
}
