/*
 * The host backend's objects as its own files see them: a buffer is a run of
 * process memory, a weight a packed matrix (host_weight.h). Kernels turn device
 * addresses into pointers here and nowhere else.
 */
#ifndef TERN_GPU_HOST_MEMORY_H
#define TERN_GPU_HOST_MEMORY_H

#include "gpu/backend.h"

struct host_buffer {
    struct device_buffer base;
    uint8_t *memory; /* 64-byte aligned, base.bytes long */
};

/* NULL for "none". */
static inline void *host_memory_at(struct device_ptr ptr) {
    if (ptr.buffer == NULL) {
        return NULL;
    }
    return ((struct host_buffer *)(void *)ptr.buffer)->memory + ptr.offset_bytes;
}

#endif
