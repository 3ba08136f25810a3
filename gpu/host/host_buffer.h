/*
 * Buffers and staging memory of the host backend, behind backend.h. A buffer is
 * zeroed, 64-byte aligned, counted against the device's cap, and poisoned while
 * no work names it.
 */
#ifndef TERN_GPU_HOST_BUFFER_H
#define TERN_GPU_HOST_BUFFER_H

#include "gpu/backend.h"

MUST_USE enum err host_buffer_create(struct device *device, size_t bytes,
                                     struct device_buffer **out);
void host_buffer_destroy(struct device_buffer *buffer);
void host_buffer_warm(struct device_buffer *buffer, size_t offset_bytes, size_t bytes);

/* Plain memory for copies, not counted and not poisoned. */
MUST_USE enum err host_buffer_alloc_staging(struct device *device, size_t bytes, void **out);
void host_buffer_free_staging(struct device *device, void *memory);

#endif
