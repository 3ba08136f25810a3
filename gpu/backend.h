/*
 * What a backend implements. device.h, batch.h and op.h are thin fronts that
 * check their arguments and call through these tables; every public struct of
 * theirs begins with the front's part and is allocated by the backend.
 */
#ifndef TERN_GPU_BACKEND_H
#define TERN_GPU_BACKEND_H

#include "gpu/command.h"
#include "gpu/profile.h"

struct backend_ops {
    const char *name; /* "host" */
    enum err (*open)(const struct device_config *config, struct device **out);
    void (*close)(struct device *device);
    void (*get_info)(const struct device *device, struct device_info *out);

    enum err (*buffer_create)(struct device *device, size_t bytes, struct device_buffer **out);
    void (*buffer_destroy)(struct device_buffer *buffer);
    void (*buffer_warm)(struct device_buffer *buffer, size_t offset_bytes, size_t bytes);
    enum err (*host_alloc)(struct device *device, size_t bytes, void **out);
    void (*host_free)(struct device *device, void *memory);

    enum err (*weight_create)(struct device *device, const struct device_weight_params *params,
                              struct device_weight **out);
    void (*weight_destroy)(struct device_weight *weight);

    enum err (*stream_create)(struct device *device, enum device_stream_kind kind,
                              struct device_stream **out);
    void (*stream_destroy)(struct device_stream *stream);
    enum err (*stream_wait_idle)(struct device_stream *stream);

    enum err (*event_create)(struct device *device, struct device_event **out);
    void (*event_destroy)(struct device_event *event);
    enum err (*event_record)(struct device_event *event, struct device_stream *stream);
    enum err (*stream_wait_event)(struct device_stream *stream, struct device_event *event);
    enum err (*event_wait)(struct device_event *event);
    int (*event_fired)(const struct device_event *event);

    enum err (*copy_in)(struct device_stream *stream, struct device_ptr to, const void *from,
                        size_t bytes);
    enum err (*copy_out)(struct device_stream *stream, void *to, struct device_ptr from,
                         size_t bytes);
    enum err (*copy)(struct device_stream *stream, struct device_ptr to, struct device_ptr from,
                     size_t bytes);
    enum err (*fill)(struct device_stream *stream, struct device_ptr to, uint8_t value,
                     size_t bytes);

    /* The command has passed command_check. */
    enum err (*enqueue)(struct device_stream *stream, const struct command *command);

    /* The front fills in everything but what follows `struct batch` in the backend's own. */
    enum err (*batch_create)(struct device *device, const struct batch_limits *limits,
                             struct batch **out);
    void (*batch_destroy)(struct batch *batch);
    /* The layout has been copied into batch->layout and checked. */
    enum err (*batch_upload)(struct batch *batch, struct device_stream *stream);

    enum err (*measure_peaks)(struct device *device, struct profile_peaks *out);
};

/* The front's part of each object; a backend embeds it as its first member. */
struct device {
    const struct backend_ops *ops;
    struct profile *profile; /* the front's; NULL unless one runs: then every op is added to it */
};

struct device_buffer {
    struct device *device;
    size_t bytes;
};

struct device_weight {
    struct device *device;
    enum dtype type;
    int rows;
    int columns;
};

struct device_stream {
    struct device *device;
    enum device_stream_kind kind;
};

struct device_event {
    struct device *device;
};

/* A batch's own arrays, as large as its limits. The front makes, fills and frees them. */
struct batch_storage {
    struct batch_sequence *sequences;
    struct batch_mark *marks;
    int32_t *blocks;
    int32_t *tokens;
    int32_t *output_rows;
    int32_t *slots; /* batch_set's list of the slots that a layout writes */
};

struct batch {
    struct device *device;
    struct batch_limits limits;
    struct batch_layout layout; /* pointers into `storage` */
    int rows;
    struct batch_storage storage;
};

/* Every backend of the build; ends with NULL. */
extern const struct backend_ops *const backend_table[];

/* gpu/host/: threads and SIMD kernels. */
extern const struct backend_ops backend_host;

#endif
