/*
 * A device: its memory, streams of asynchronous work, and events that order
 * them. Asynchronous as CUDA is: copies and ops are enqueued on a stream and
 * run later, in order within the stream; streams run at once and are ordered
 * against each other by events alone.
 *
 * Device memory is named by (buffer, offset) and never dereferenced outside
 * gpu/. In builds with AddressSanitizer the host backend keeps all device
 * memory poisoned outside the byte ranges that a running op or copy names, so
 * that a slip is a report.
 *
 * Threads: create and destroy calls, and enqueues on one stream, come from one
 * thread at a time; enqueues on different streams, event queries and event
 * waits may come from any thread. Everything created from a device is
 * destroyed before it.
 */
#ifndef TERN_GPU_DEVICE_H
#define TERN_GPU_DEVICE_H

#include "base/err.h"
#include "gpu/dtype.h"

struct device;
struct device_buffer;
struct device_stream;
struct device_event;
struct device_weight;

/* An address in device memory. buffer == NULL means "none" where an op allows that. */
struct device_ptr {
    struct device_buffer *buffer;
    size_t offset_bytes;
};

static inline struct device_ptr device_ptr_at(struct device_buffer *buffer, size_t offset_bytes) {
    return (struct device_ptr){buffer, offset_bytes};
}

static inline struct device_ptr device_ptr_add(struct device_ptr ptr, size_t bytes) {
    return (struct device_ptr){ptr.buffer, ptr.offset_bytes + bytes};
}

/* --- the device ---------------------------------------------------------------------- */

struct device_config {
    const char *backend;     /* "host"; NULL: "host" */
    const char *isa;         /* host: "auto", the best there is; "portable", "avx2", "avx512" or
                                "avx512vnni", exactly that; or "reference", the plain oracle that
                                tests compare against; NULL: "auto" */
    int threads;             /* host: threads that compute; 0: one per processor allowed */
    size_t memory_max_bytes; /* cap over all buffers and weights; 0: none */
};

struct device_info {
    const char *backend;        /* "host" */
    const char *isa;            /* what runs: "avx512vnni", "avx512", "avx2", ... */
    const char *numerics_class; /* backend and kernel revision within which results are bit-equal */
    int threads;
    size_t memory_used_bytes;
    size_t memory_max_bytes;
};

/*
 * Opens a device. ERR_INVALID: unknown backend or ISA, or threads out of 0..256;
 * ERR_UNSUPPORTED: an ISA that this processor lacks.
 */
MUST_USE enum err device_open(const struct device_config *config, struct device **out);
void device_close(struct device *device);
void device_get_info(const struct device *device, struct device_info *out);

/* --- memory -------------------------------------------------------------------------- */

/*
 * Reserves zeroed device memory, aligned to 64 bytes or more. ERR_NOMEM when the
 * cap or the system refuses; the message says how much was asked for and left.
 */
MUST_USE enum err device_buffer_create(struct device *device, size_t bytes,
                                       struct device_buffer **out);
void device_buffer_destroy(struct device_buffer *buffer); /* nothing enqueued may use it any more */
size_t device_buffer_bytes(const struct device_buffer *buffer);

/*
 * Has the system find the memory of BYTES at OFFSET_BYTES now, where it would else do so when they
 * are first used: on the host backend that is what costs most of a new server's first turn. What
 * they hold stays. A hint: nothing happens where it is not known. Blocks; any thread, also while
 * the buffer is in use.
 */
void device_buffer_warm(struct device_buffer *buffer, size_t offset_bytes, size_t bytes);

/*
 * Host memory that copies reach fastest (pinned, on CUDA): staging for spill and
 * promotion. Plain memory to the caller. Not counted in memory_used_bytes.
 */
MUST_USE enum err device_host_alloc(struct device *device, size_t bytes, void **out);
void device_host_free(struct device *device, void *memory);

/* --- weights ------------------------------------------------------------------------- */

/*
 * A matrix of `rows` output rows of `columns` contiguous values as in a GGUF file:
 * y = W x. `data` holds rows * dtype_bytes(type, columns) bytes and is free again
 * when device_weight_create returns: the backend packs into a layout of its own,
 * by all of its threads.
 */
struct device_weight_params {
    enum dtype type;
    int rows;
    int columns;
    const void *data;
};

MUST_USE enum err device_weight_create(struct device *device,
                                       const struct device_weight_params *params,
                                       struct device_weight **out);
void device_weight_destroy(struct device_weight *weight);
int device_weight_rows(const struct device_weight *weight);
int device_weight_columns(const struct device_weight *weight);
enum dtype device_weight_type(const struct device_weight *weight);

/* --- streams and events -------------------------------------------------------------- */

enum device_stream_kind {
    DEVICE_STREAM_COMPUTE, /* runs everything */
    DEVICE_STREAM_COPY,    /* runs copies, fills and the pool copies of op.h; overlaps compute */
};

/* A stream holds at most a fixed number of pending items; enqueuing past it blocks until one ran.
 */
MUST_USE enum err device_stream_create(struct device *device, enum device_stream_kind kind,
                                       struct device_stream **out);

/* Waits until the stream is empty, then destroys it. */
void device_stream_destroy(struct device_stream *stream);
struct device *device_stream_device(const struct device_stream *stream);

/* Blocks until everything enqueued so far has run. */
MUST_USE enum err device_stream_wait_idle(struct device_stream *stream);

MUST_USE enum err device_event_create(struct device *device, struct device_event **out);
void device_event_destroy(struct device_event *event);

/* The event fires when everything enqueued on STREAM before this call has run. May be recorded
 * again; waits and queries then mean the latest record. An event never recorded counts as fired. */
MUST_USE enum err device_event_record(struct device_event *event, struct device_stream *stream);

/* Work enqueued on STREAM after this call starts only after the event's latest record has fired. */
MUST_USE enum err device_stream_wait_event(struct device_stream *stream,
                                           struct device_event *event);

/* Blocks the calling thread until the event has fired. ERR_DEVICE after a device failure. */
MUST_USE enum err device_event_wait(struct device_event *event);

/* On a failed device events fire without their work having run: whoever polls calls
 * device_event_wait, which no longer blocks, before he trusts what was copied. */
int device_event_fired(const struct device_event *event);

/* --- copies -------------------------------------------------------------------------- */

/*
 * Asynchronous copies. Host memory must stay valid (and, as a source, unchanged) until the
 * copy has run. Ranges are checked against their buffers when enqueued: ERR_INVALID. The two
 * ranges of device_copy may not overlap.
 */
MUST_USE enum err device_copy_in(struct device_stream *stream, struct device_ptr to,
                                 const void *from, size_t bytes);
MUST_USE enum err device_copy_out(struct device_stream *stream, void *to, struct device_ptr from,
                                  size_t bytes);
MUST_USE enum err device_copy(struct device_stream *stream, struct device_ptr to,
                              struct device_ptr from, size_t bytes);
MUST_USE enum err device_fill(struct device_stream *stream, struct device_ptr to, uint8_t value,
                              size_t bytes);

#endif
