#include "gpu/device.h"

#include "base/fault.h"
#include "gpu/backend.h"
#include "gpu/profile_record.h"

#include <string.h>

const struct backend_ops *const backend_table[] = {&backend_host, NULL};

enum { THREADS_MAX = 256 };

/* --- the device ---------------------------------------------------------------------- */

enum err device_open(const struct device_config *config, struct device **out) {
    const char *name = config->backend == NULL ? "host" : config->backend;
    if (config->threads < 0 || config->threads > THREADS_MAX) {
        return err_fail(ERR_INVALID, "%d threads; 0 to %d are possible", config->threads,
                        THREADS_MAX);
    }
    for (size_t i = 0; backend_table[i] != NULL; i++) {
        if (strcmp(backend_table[i]->name, name) == 0) {
            return backend_table[i]->open(config, out);
        }
    }
    return err_fail(ERR_INVALID, "unknown backend '%s'", name);
}

void device_close(struct device *device) {
    if (device != NULL) {
        profile_record_destroy(device->profile);
        device->ops->close(device);
    }
}

void device_get_info(const struct device *device, struct device_info *out) {
    device->ops->get_info(device, out);
}

/* --- memory -------------------------------------------------------------------------- */

enum err device_buffer_create(struct device *device, size_t bytes, struct device_buffer **out) {
    if (fault_fails("device.buffer_create")) {
        return err_fail(ERR_NOMEM, "device memory of %zu bytes: injected fault", bytes);
    }
    return device->ops->buffer_create(device, bytes, out);
}

void device_buffer_destroy(struct device_buffer *buffer) {
    if (buffer != NULL) {
        buffer->device->ops->buffer_destroy(buffer);
    }
}

void device_buffer_warm(struct device_buffer *buffer, size_t offset_bytes, size_t bytes) {
    assert(offset_bytes <= buffer->bytes && bytes <= buffer->bytes - offset_bytes);
    buffer->device->ops->buffer_warm(buffer, offset_bytes, bytes);
}

size_t device_buffer_bytes(const struct device_buffer *buffer) {
    return buffer->bytes;
}

enum err device_host_alloc(struct device *device, size_t bytes, void **out) {
    if (fault_fails("device.host_alloc")) {
        return err_fail(ERR_NOMEM, "host memory of %zu bytes: injected fault", bytes);
    }
    return device->ops->host_alloc(device, bytes, out);
}

void device_host_free(struct device *device, void *memory) {
    if (memory != NULL) {
        device->ops->host_free(device, memory);
    }
}

/* --- weights ------------------------------------------------------------------------- */

static enum err check_weight(const struct device_weight_params *params) {
    if ((unsigned)params->type >= DTYPE_COUNT) {
        return err_fail(ERR_INVALID, "weight of element type %d, which is unknown",
                        (int)params->type);
    }
    size_t block_values = dtype_block_values(params->type);
    if (params->rows < 1 || params->columns < 1 || (size_t)params->columns % block_values != 0) {
        return err_fail(ERR_INVALID,
                        "weight of %d x %d values; %s needs at least one row, and columns in "
                        "multiples of %zu",
                        params->rows, params->columns, dtype_name(params->type), block_values);
    }
    if (params->data == NULL) {
        return err_fail(ERR_INVALID, "weight without data");
    }
    return ERR_OK;
}

enum err device_weight_create(struct device *device, const struct device_weight_params *params,
                              struct device_weight **out) {
    TRY(check_weight(params));
    return device->ops->weight_create(device, params, out);
}

void device_weight_destroy(struct device_weight *weight) {
    if (weight != NULL) {
        weight->device->ops->weight_destroy(weight);
    }
}

int device_weight_rows(const struct device_weight *weight) {
    return weight->rows;
}

int device_weight_columns(const struct device_weight *weight) {
    return weight->columns;
}

enum dtype device_weight_type(const struct device_weight *weight) {
    return weight->type;
}

/* --- streams and events -------------------------------------------------------------- */

enum err device_stream_create(struct device *device, enum device_stream_kind kind,
                              struct device_stream **out) {
    if (kind != DEVICE_STREAM_COMPUTE && kind != DEVICE_STREAM_COPY) {
        return err_fail(ERR_INVALID, "stream of kind %d, which is unknown", (int)kind);
    }
    return device->ops->stream_create(device, kind, out);
}

void device_stream_destroy(struct device_stream *stream) {
    if (stream != NULL) {
        stream->device->ops->stream_destroy(stream);
    }
}

struct device *device_stream_device(const struct device_stream *stream) {
    return stream->device;
}

enum err device_stream_wait_idle(struct device_stream *stream) {
    return stream->device->ops->stream_wait_idle(stream);
}

enum err device_event_create(struct device *device, struct device_event **out) {
    return device->ops->event_create(device, out);
}

void device_event_destroy(struct device_event *event) {
    if (event != NULL) {
        event->device->ops->event_destroy(event);
    }
}

static enum err check_same_device(const struct device_event *event,
                                  const struct device_stream *stream) {
    if (event->device != stream->device) {
        return err_fail(ERR_INVALID, "an event and a stream of two devices");
    }
    return ERR_OK;
}

enum err device_event_record(struct device_event *event, struct device_stream *stream) {
    TRY(check_same_device(event, stream));
    return event->device->ops->event_record(event, stream);
}

enum err device_stream_wait_event(struct device_stream *stream, struct device_event *event) {
    TRY(check_same_device(event, stream));
    return event->device->ops->stream_wait_event(stream, event);
}

enum err device_event_wait(struct device_event *event) {
    enum err code = event->device->ops->event_wait(event);
    if (code == ERR_OK && fault_fails("device.event_wait")) {
        return err_fail(ERR_DEVICE, "device step: injected fault");
    }
    return code;
}

int device_event_fired(const struct device_event *event) {
    return event->device->ops->event_fired(event);
}

/* --- copies -------------------------------------------------------------------------- */

static enum err check_range(const struct device_stream *stream, const char *what,
                            struct device_ptr ptr, size_t bytes) {
    if (ptr.buffer == NULL) {
        return err_fail(ERR_INVALID, "%s without a buffer", what);
    }
    if (ptr.buffer->device != stream->device) {
        return err_fail(ERR_INVALID, "%s: the buffer belongs to another device", what);
    }
    if (ptr.offset_bytes > ptr.buffer->bytes || bytes > ptr.buffer->bytes - ptr.offset_bytes) {
        return err_fail(ERR_INVALID, "%s: %zu bytes at %zu lie outside a buffer of %zu", what,
                        bytes, ptr.offset_bytes, ptr.buffer->bytes);
    }
    return ERR_OK;
}

static enum err check_host_memory(const char *what, const void *memory, size_t bytes) {
    if (memory == NULL && bytes > 0) {
        return err_fail(ERR_INVALID, "%s: %zu bytes of host memory at NULL", what, bytes);
    }
    return ERR_OK;
}

static enum err inject_fault(const char *name) {
    return fault_fails(name) ? err_fail(ERR_DEVICE, "%s: injected fault", name) : ERR_OK;
}

enum err device_copy_in(struct device_stream *stream, struct device_ptr to, const void *from,
                        size_t bytes) {
    TRY(check_range(stream, "copy in", to, bytes));
    TRY(inject_fault("device.copy_in"));
    TRY(check_host_memory("copy in", from, bytes));
    return bytes == 0 ? ERR_OK : stream->device->ops->copy_in(stream, to, from, bytes);
}

enum err device_copy_out(struct device_stream *stream, void *to, struct device_ptr from,
                         size_t bytes) {
    TRY(check_range(stream, "copy out", from, bytes));
    TRY(inject_fault("device.copy_out"));
    TRY(check_host_memory("copy out", to, bytes));
    return bytes == 0 ? ERR_OK : stream->device->ops->copy_out(stream, to, from, bytes);
}

enum err device_copy(struct device_stream *stream, struct device_ptr to, struct device_ptr from,
                     size_t bytes) {
    TRY(check_range(stream, "copy to", to, bytes));
    TRY(check_range(stream, "copy from", from, bytes));
    if (bytes == 0) {
        return ERR_OK;
    }
    if (to.buffer == from.buffer && to.offset_bytes < from.offset_bytes + bytes &&
        from.offset_bytes < to.offset_bytes + bytes) {
        return err_fail(ERR_INVALID, "copy of %zu bytes from %zu to %zu of one buffer overlaps",
                        bytes, from.offset_bytes, to.offset_bytes);
    }
    return stream->device->ops->copy(stream, to, from, bytes);
}

enum err device_fill(struct device_stream *stream, struct device_ptr to, uint8_t value,
                     size_t bytes) {
    TRY(check_range(stream, "fill", to, bytes));
    return bytes == 0 ? ERR_OK : stream->device->ops->fill(stream, to, value, bytes);
}
