/*
 * The oracle of all backends: every op in plain, scalar C, written from the
 * comments of op.h and transcendental.h alone, one output element after the
 * other, without regard to speed. Used by the conformance tests, and by the host
 * backend under the ISA name "reference".
 *
 * The reference does not know how a backend keeps memory: the caller resolves.
 */
#ifndef TERN_GPU_REFERENCE_H
#define TERN_GPU_REFERENCE_H

#include "gpu/command.h"

struct reference_memory {
    /* Memory behind a device address; valid while the command runs. */
    void *(*resolve)(void *context, struct device_ptr ptr);
    /* Row `row` of a weight in its GGUF form (dtype_bytes(type, columns) bytes), copied to `to`. */
    void (*weight_row)(void *context, const struct device_weight *weight, int row, void *to);
    void *context;
};

/* Runs COMMAND, which has passed command_check, to its end. ERR_NOMEM for scratch memory only. */
MUST_USE enum err reference_run(const struct command *command,
                                const struct reference_memory *memory);

/* The functions of transcendental.h, for tests. */
float reference_exp(float x);
float reference_log1p(float u);
float reference_softplus(float x);
float reference_sigmoid(float x);
float reference_silu(float x);

#endif
