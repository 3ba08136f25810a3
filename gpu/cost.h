/*
 * What a command cannot do without: the bytes that it must fetch from memory or
 * write there, and the multiplications and additions that its definition asks
 * for. With a device's peaks (device_measure_peaks) that gives the floor of its
 * time. Activations are left out: they stay in the caches from op to op.
 * Internal to gpu/.
 */
#ifndef TERN_GPU_COST_H
#define TERN_GPU_COST_H

#include "gpu/command.h"

struct cost {
    double bytes;     /* of weights, KV blocks and states */
    double dot_ops;   /* of integer products; a multiplication and its addition count as 2 */
    double float_ops; /* of F32 products, attention, convolution and recurrence, likewise */
};

/* Zeros for ops whose work is activations alone. */
struct cost cost_of(const struct command *command);

#endif
