/*
 * Writes a safetensors file: tensors of declared shapes, and a map of texts as metadata. The bytes
 * of each tensor may come in any order and in parts. The file appears under its name, with mode
 * 0600, once it is whole.
 */
#ifndef TERN_TOOLS_SAFETENSORS_H
#define TERN_TOOLS_SAFETENSORS_H

#include "gpu/dtype.h"

#include <jansson.h>

enum { SAFETENSORS_NAME_BYTES = 64, SAFETENSORS_DIMS_MAX = 4 };

struct safetensors_tensor {
    char name[SAFETENSORS_NAME_BYTES];
    enum dtype type; /* F32, F16 or BF16 */
    int dim_count;
    uint64_t dims[SAFETENSORS_DIMS_MAX]; /* slowest first */
    uint64_t offset_bytes;               /* set by safetensors_create */
    uint64_t bytes;                      /* likewise */
};

struct safetensors;

/* TENSORS is borrowed until the end; METADATA, an object of texts, for the call. */
MUST_USE enum err safetensors_create(const char *path, struct safetensors_tensor *tensors,
                                     size_t count, const json_t *metadata,
                                     struct safetensors **out);

/* Writes LEN bytes of TENSOR from AT on: within its bytes, which is asserted. */
MUST_USE enum err safetensors_write(struct safetensors *file,
                                    const struct safetensors_tensor *tensor, uint64_t at,
                                    const void *bytes, size_t len);

/* Puts the file in its place; every byte of every tensor must have been written once, which is
 * asserted by their number. Ends FILE only if it returns ERR_OK. */
MUST_USE enum err safetensors_finish(struct safetensors *file);

/* Gives up and removes what was written; accepts NULL. */
void safetensors_abandon(struct safetensors *file);

#endif
