#include "gpu/host/host_buffer.h"

#include <stdlib.h>

#include "gpu/host/host_device.h"
#include "gpu/host/host_memory.h"
#include "gpu/host/host_pages.h"

enum { ALIGN_BYTES = 64 };

/* What a buffer of BYTES takes and is counted with; an empty one has an address too. */
static size_t taken_bytes(size_t bytes) {
    return bytes == 0 ? ALIGN_BYTES : (bytes + ALIGN_BYTES - 1) / ALIGN_BYTES * ALIGN_BYTES;
}

enum err host_buffer_create(struct device *base, size_t bytes, struct device_buffer **out) {
    struct host_device *device = host_device_of(base);
    if (bytes > SIZE_MAX / 4) {
        return err_fail(ERR_NOMEM, "device buffer of %zu bytes", bytes);
    }
    TRY(host_device_reserve(device, taken_bytes(bytes), "device buffer"));
    struct host_buffer *buffer = calloc(1, sizeof *buffer);
    enum err err =
        buffer == NULL ? err_fail(ERR_NOMEM, "device buffer of %zu bytes", bytes) : ERR_OK;
    void *memory = NULL;
    if (err == ERR_OK) {
        err = host_pages_map(taken_bytes(bytes), &memory);
    }
    if (err != ERR_OK) {
        free(buffer);
        host_device_unreserve(device, taken_bytes(bytes));
        return err;
    }
    buffer->base = (struct device_buffer){.device = base, .bytes = bytes};
    buffer->memory = memory;
    host_poison_cover(buffer->memory, taken_bytes(bytes));
    atomic_fetch_add(&device->object_count, 1);
    *out = &buffer->base;
    return ERR_OK;
}

void host_buffer_destroy(struct device_buffer *base) {
    struct host_buffer *buffer = (struct host_buffer *)(void *)base;
    struct host_device *device = host_device_of(base->device);
    size_t taken = taken_bytes(base->bytes);
    host_poison_uncover(buffer->memory, taken);
    host_pages_unmap(buffer->memory, taken);
    host_device_unreserve(device, taken);
    atomic_fetch_sub(&device->object_count, 1);
    free(buffer);
}

void host_buffer_warm(struct device_buffer *base, size_t offset_bytes, size_t bytes) {
    struct host_buffer *buffer = (struct host_buffer *)(void *)base;
    host_pages_warm((uint8_t *)buffer->memory + offset_bytes, bytes);
}

enum err host_buffer_alloc_staging(struct device *device, size_t bytes, void **out) {
    (void)device;
    void *memory = bytes > SIZE_MAX / 4 ? NULL : aligned_alloc(ALIGN_BYTES, taken_bytes(bytes));
    if (memory == NULL) {
        return err_fail(ERR_NOMEM, "staging memory of %zu bytes", bytes);
    }
    *out = memory;
    return ERR_OK;
}

void host_buffer_free_staging(struct device *device, void *memory) {
    (void)device;
    free(memory);
}
