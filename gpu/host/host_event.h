/*
 * Events of the host backend, behind backend.h: a point on the timeline of the
 * stream that recorded it last. A wait keeps the point that it found, whatever is
 * recorded later.
 */
#ifndef TERN_GPU_HOST_EVENT_H
#define TERN_GPU_HOST_EVENT_H

#include "gpu/backend.h"

MUST_USE enum err host_event_create(struct device *device, struct device_event **out);
void host_event_destroy(struct device_event *event);
MUST_USE enum err host_event_record(struct device_event *event, struct device_stream *stream);
MUST_USE enum err host_event_stream_wait(struct device_stream *stream, struct device_event *event);
MUST_USE enum err host_event_wait(struct device_event *event);
int host_event_fired(const struct device_event *event);

#endif
