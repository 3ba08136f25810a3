#include "tools/bench_stats.h"

#include <stdlib.h>

static int compare(const void *left, const void *right) {
    double a = *(const double *)left;
    double b = *(const double *)right;
    return (a > b) - (a < b);
}

struct bench_stats bench_stats_of(double *values, size_t count) {
    if (count == 0) {
        return (struct bench_stats){0};
    }
    qsort(values, count, sizeof *values, compare);
    return (struct bench_stats){
        .count = count,
        .min = values[0],
        .median = (values[(count - 1) / 2] + values[count / 2]) / 2,
        .p95 = values[(count * 95 + 99) / 100 - 1],
        .max = values[count - 1],
    };
}
