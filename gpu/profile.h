/*
 * Where the time of a device goes, op by op, and what the device can do at best:
 * the figures behind `tern bench engine`. While a profile runs every op costs two
 * looks at the clock more.
 */
#ifndef TERN_GPU_PROFILE_H
#define TERN_GPU_PROFILE_H

#include "gpu/device.h"

#include <stdint.h>

enum { PROFILE_NAME_BYTES = 48, PROFILE_LINES_MAX = 48 };

/* All runs of one op; products are told apart by their shapes. */
struct profile_line {
    char name[PROFILE_NAME_BYTES]; /* "ssm_scan", "matmul 3376 x 768" (outputs x inputs) */
    uint64_t count;
    uint64_t ns;
    double bytes;     /* that it had to fetch or write: weights, KV, states; no activations */
    double dot_ops;   /* of integer products; a multiplication and its addition are 2 */
    double float_ops; /* of F32 products, attention, convolution, recurrence */
};

struct profile_report {
    struct profile_line lines[PROFILE_LINES_MAX]; /* in the order of their first run */
    size_t count;
};

/* Starts a profile from zero. Nothing may be enqueued on the device's streams. ERR_NOMEM. */
MUST_USE enum err profile_start(struct device *device);

/* Ends the profile and gives its lines; nothing may be enqueued. Without a start: no lines. */
void profile_stop(struct device *device, struct profile_report *out);

/* The best that all workers of a device together do, each by itself. */
struct profile_peaks {
    double dot_ops_per_s;    /* integer products of Q8_0, from registers */
    double float_ops_per_s;  /* fused F32 multiply-adds, from registers; 2 each */
    double read_bytes_per_s; /* from memory, far beyond the caches */
};

/* Takes some tens of milliseconds of the whole device, and 128 MiB of host memory. ERR_NOMEM. */
MUST_USE enum err profile_measure_peaks(struct device *device, struct profile_peaks *out);

#endif
