#include "gpu/host/host_event.h"

#include <stdlib.h>

#include "gpu/host/host_device.h"
#include "gpu/host/host_stream.h"

enum { EVENT_MAGIC = 0x0e7e2a11 };

struct host_event {
    struct device_event base;
    uint32_t magic;
    pthread_mutex_t lock;      /* a leaf lock, over the two below */
    struct timeline *timeline; /* NULL: never recorded */
    uint64_t count;
};

static struct host_event *event_of(const struct device_event *base) {
    struct host_event *event = (struct host_event *)(uintptr_t)base;
    MAGIC_CHECK(event, EVENT_MAGIC);
    return event;
}

/* A reference to the timeline of the latest record, or NULL if that has fired. */
static struct timeline *acquire_pending(struct host_event *event, uint64_t *out_count) {
    struct timeline *timeline = NULL;
    pthread_mutex_lock(&event->lock);
    if (event->timeline != NULL && timeline_count(event->timeline) < event->count) {
        timeline = timeline_acquire(event->timeline);
        *out_count = event->count;
    }
    pthread_mutex_unlock(&event->lock);
    return timeline;
}

enum err host_event_create(struct device *device, struct device_event **out) {
    struct host_event *event = calloc(1, sizeof *event);
    if (event == NULL) {
        return err_fail(ERR_NOMEM, "event");
    }
    event->base.device = device;
    event->magic = EVENT_MAGIC;
    pthread_mutex_init(&event->lock, NULL);
    atomic_fetch_add(&host_device_of(device)->object_count, 1);
    *out = &event->base;
    return ERR_OK;
}

void host_event_destroy(struct device_event *base) {
    struct host_event *event = event_of(base);
    atomic_fetch_sub(&host_device_of(base->device)->object_count, 1);
    timeline_release(event->timeline);
    pthread_mutex_destroy(&event->lock);
    event->magic = 0;
    free(event);
}

enum err host_event_record(struct device_event *base, struct device_stream *stream) {
    struct host_event *event = event_of(base);
    TRY(host_device_check(host_device_of(base->device)));
    uint64_t count = 0;
    struct timeline *timeline = timeline_acquire(host_stream_timeline(stream, &count));
    pthread_mutex_lock(&event->lock);
    struct timeline *before = event->timeline;
    event->timeline = timeline;
    event->count = count;
    pthread_mutex_unlock(&event->lock);
    timeline_release(before);
    return ERR_OK;
}

enum err host_event_stream_wait(struct device_stream *stream, struct device_event *base) {
    struct host_event *event = event_of(base);
    TRY(host_device_check(host_device_of(base->device)));
    uint64_t count = 0;
    struct timeline *timeline = acquire_pending(event, &count);
    return timeline == NULL ? ERR_OK : host_stream_wait_timeline(stream, timeline, count);
}

enum err host_event_wait(struct device_event *base) {
    struct host_event *event = event_of(base);
    uint64_t count = 0;
    struct timeline *timeline = acquire_pending(event, &count);
    if (timeline != NULL) {
        timeline_wait(timeline, count);
        timeline_release(timeline);
    }
    return host_device_check(host_device_of(base->device));
}

int host_event_fired(const struct device_event *base) {
    struct host_event *event = event_of(base);
    uint64_t count = 0;
    struct timeline *timeline = acquire_pending(event, &count);
    timeline_release(timeline);
    return timeline == NULL;
}
