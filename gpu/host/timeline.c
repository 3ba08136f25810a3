/*
 * I1. No end of a wait is lost: the advancer advances `count` and then reads `wanted`, the waiter
 *     lowers `wanted` and then reads `count`, all in one total order. Either the waiter sees that
 *     it need not wait, or the advancer sees that it must ring.
 * I2. Who takes a number out of `wanted` rings after that, and a waiter has read the bell before
 *     it put its number in: so it wakes, whoever's number was taken out, and puts it in again.
 */
#include "gpu/host/timeline.h"

#include <stdlib.h>

#include "gpu/host/doorbell.h"

/* Copies and small ops end within this; longer work is worth the 50 us that waking takes. */
enum { SPIN_NS = 20000 };

#define NOBODY_WAITS UINT64_MAX

struct timeline {
    _Atomic int references;
    _Atomic uint64_t count;
    _Atomic uint64_t wanted; /* the least count that somebody waits for; NOBODY_WAITS */
    struct doorbell bell;
};

enum err timeline_create(struct timeline **out) {
    struct timeline *timeline = calloc(1, sizeof *timeline);
    if (timeline == NULL) {
        return err_fail(ERR_NOMEM, "timeline of a stream");
    }
    atomic_init(&timeline->references, 1);
    atomic_init(&timeline->wanted, NOBODY_WAITS);
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

/* A step is hundreds of items: ringing for each would wake, each time, whoever waits for the last.
 */
void timeline_advance(struct timeline *timeline) {
    uint64_t count = atomic_fetch_add(&timeline->count, 1) + 1;
    if (count >= atomic_load(&timeline->wanted)) {
        atomic_store(&timeline->wanted, NOBODY_WAITS);
        doorbell_ring(&timeline->bell);
    }
}

static void want(struct timeline *timeline, uint64_t count) {
    uint64_t wanted = atomic_load(&timeline->wanted);
    while (count < wanted && !atomic_compare_exchange_weak(&timeline->wanted, &wanted, count)) {
    }
}

void timeline_wait(struct timeline *timeline, uint64_t count) {
    for (;;) {
        uint32_t seen = doorbell_value(&timeline->bell);
        want(timeline, count);
        if (atomic_load(&timeline->count) >= count) {
            return; /* its number may stay: that costs one ring too many */
        }
        doorbell_wait(&timeline->bell, seen, SPIN_NS);
    }
}
