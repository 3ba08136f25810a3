#include "gpu/host/timeline.h"

#include <stdlib.h>

#include "gpu/host/doorbell.h"

/* Copies and small ops end within this; longer work is worth the 50 us that waking takes. */
enum { SPIN_NS = 20000 };

struct timeline {
    _Atomic int references;
    _Atomic uint64_t count;
    struct doorbell bell;
};

enum err timeline_create(struct timeline **out) {
    struct timeline *timeline = calloc(1, sizeof *timeline);
    if (timeline == NULL) {
        return err_fail(ERR_NOMEM, "timeline of a stream");
    }
    atomic_init(&timeline->references, 1);
    *out = timeline;
    return ERR_OK;
}

struct timeline *timeline_acquire(struct timeline *timeline) {
    atomic_fetch_add_explicit(&timeline->references, 1, memory_order_relaxed);
    return timeline;
}

void timeline_release(struct timeline *timeline) {
    if (timeline != NULL &&
        atomic_fetch_sub_explicit(&timeline->references, 1, memory_order_acq_rel) == 1) {
        free(timeline);
    }
}

uint64_t timeline_count(struct timeline *timeline) {
    return atomic_load_explicit(&timeline->count, memory_order_acquire);
}

void timeline_advance(struct timeline *timeline) {
    atomic_fetch_add_explicit(&timeline->count, 1, memory_order_release);
    doorbell_ring(&timeline->bell);
}

void timeline_wait(struct timeline *timeline, uint64_t count) {
    for (;;) {
        uint32_t seen = doorbell_value(&timeline->bell);
        if (timeline_count(timeline) >= count) {
            return;
        }
        doorbell_wait(&timeline->bell, seen, SPIN_NS);
    }
}
