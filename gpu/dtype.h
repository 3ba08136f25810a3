/*
 * Element types of weights, pools and activations, and how many bytes a run of
 * values takes. Block types (Q8_0) store values in groups along a row.
 * Layouts of the block types follow the GGUF format.
 */
#ifndef TERN_GPU_DTYPE_H
#define TERN_GPU_DTYPE_H

#include "base/err.h"

enum dtype {
    DTYPE_F32,
    DTYPE_F16,
    DTYPE_BF16,
    DTYPE_Q8_0, /* 32 values: F16 scale d, 32 x int8 q; value = d * q */
};

enum { DTYPE_COUNT = DTYPE_Q8_0 + 1 };

/* Values in one block: 1 for the plain types. */
size_t dtype_block_values(enum dtype type);

/* Bytes of one block. */
size_t dtype_block_bytes(enum dtype type);

/* Bytes of VALUES consecutive values; VALUES is a multiple of dtype_block_values. */
size_t dtype_bytes(enum dtype type, size_t values);

/* "F32", "F16", "BF16", "Q8_0". */
const char *dtype_name(enum dtype type);

/* Reads a name in any case ("f16"); ERR_INVALID on others. */
MUST_USE enum err dtype_parse(const char *name, enum dtype *out);

#endif
