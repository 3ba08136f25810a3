/*
 * Streams of the host backend, behind backend.h: a bounded ring of items and a
 * thread that runs them in order. A compute stream's thread is worker 0 of the
 * device's pool while it runs a command; copies, fills and pool copies it runs
 * by itself, so that a copy stream never waits for the workers.
 */
#ifndef TERN_GPU_HOST_STREAM_H
#define TERN_GPU_HOST_STREAM_H

#include "gpu/backend.h"
#include "gpu/host/timeline.h"

MUST_USE enum err host_stream_create(struct device *device, enum device_stream_kind kind,
                                     struct device_stream **out);
void host_stream_destroy(struct device_stream *stream);
MUST_USE enum err host_stream_wait_idle(struct device_stream *stream);

MUST_USE enum err host_stream_copy_in(struct device_stream *stream, struct device_ptr to,
                                      const void *from, size_t bytes);
MUST_USE enum err host_stream_copy_out(struct device_stream *stream, void *to,
                                       struct device_ptr from, size_t bytes);
MUST_USE enum err host_stream_copy(struct device_stream *stream, struct device_ptr to,
                                   struct device_ptr from, size_t bytes);
MUST_USE enum err host_stream_fill(struct device_stream *stream, struct device_ptr to,
                                   uint8_t value, size_t bytes);
MUST_USE enum err host_stream_enqueue(struct device_stream *stream, const struct command *command);

/* The stream's timeline, borrowed, and the point on it that all items enqueued so far end at. */
struct timeline *host_stream_timeline(struct device_stream *stream, uint64_t *out_count);

/* What is enqueued after this starts when TIMELINE has passed COUNT. Takes the reference over, also
 * on failure. */
MUST_USE enum err host_stream_wait_timeline(struct device_stream *stream, struct timeline *timeline,
                                            uint64_t count);

#endif
