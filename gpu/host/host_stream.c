/*
 * I1. Item n lies in slot n % RING_ITEMS. The enqueuing thread writes it once item n - RING_ITEMS
 *     has run (timeline), then publishes n + 1 as `enqueued`; the stream's thread reads slot n
 *     only below `enqueued`.
 * I2. Every item advances the timeline by one when it has run, also when the device has failed and
 *     it has no effect: so everything that waits, ends.
 * I3. Scratch and workers are used under the device's pool_lock alone. It is a leaf lock: nothing
 *     is waited for under it but the workers.
 */
#include "gpu/host/host_stream.h"

#include <stdlib.h>
#include <string.h>

#include "base/now.h"
#include "gpu/host/doorbell.h"
#include "gpu/host/host_device.h"
#include "gpu/host/host_memory.h"
#include "gpu/host/host_pool_copy.h"
#include "gpu/host/host_thread.h"
#include "gpu/profile_record.h"

/* More than a forward pass of a large model takes, so that one can be enqueued ahead of another. */
enum { RING_ITEMS = 1024 };

/* An op that follows at once is met without waking; the engine's own work between steps is not. */
enum { SPIN_NS = 20000 };

enum { STREAM_MAGIC = 0x5712ea33 };

enum item_kind { ITEM_COMMAND, ITEM_COPY, ITEM_FILL, ITEM_WAIT };

struct item_copy {
    void *to;
    const void *from;
    size_t bytes;
    struct host_poison_range held[2]; /* the sides that are device memory */
    size_t held_count;
};

struct item_fill {
    void *to;
    size_t bytes;
    uint8_t value;
};

struct item_wait {
    struct timeline *timeline; /* owned */
    uint64_t count;
};

struct item {
    enum item_kind kind;
    union {
        struct {
            struct command command;
            struct kernel_plan plan; /* of no phase for pool copies */
        };
        struct item_copy copy;
        struct item_fill fill;
        struct item_wait wait;
    };
};

struct host_stream {
    struct device_stream base;
    uint32_t magic;
    struct item *ring; /* I1 */
    struct timeline *timeline;
    pthread_t thread;
    int is_started;

    _Alignas(64) _Atomic uint64_t enqueued;
    _Atomic int is_closing;
    struct doorbell bell;
};

struct phase_run {
    const struct kernel_phase *phase;
    struct kernel_call call;
};

static struct host_stream *stream_of(struct device_stream *base) {
    struct host_stream *stream = (struct host_stream *)(void *)base;
    MAGIC_CHECK(stream, STREAM_MAGIC);
    return stream;
}

/* --- running ------------------------------------------------------------------------- */

static void run_share(void *context, size_t begin, size_t end, int worker) {
    const struct phase_run *run = context;
    run->phase->run(&run->call, begin, end, worker);
}

static void run_command(struct host_device *device, const struct item *item) {
    struct profile *profile = device->base.profile;
    uint64_t started_ns = profile != NULL ? now_monotonic_ns() : 0;
    struct host_poison_hold *hold = host_poison_open_command(device->poison, &item->command);
    if (host_pool_copy_takes(item->command.kind)) {
        host_pool_copy_run(&item->command);
    } else {
        enum err result = ERR_OK;
        pthread_mutex_lock(&device->pool_lock);
        for (int i = 0; i < item->plan.phase_count && result == ERR_OK; i++) {
            const struct kernel_phase *phase = &item->plan.phases[i];
            struct phase_run run = {phase, {&item->command, device->scratch, &result}};
            worker_pool_run(device->pool, phase->units, phase->grain, run_share, &run);
        }
        pthread_mutex_unlock(&device->pool_lock);
        if (result != ERR_OK) {
            host_device_fail(device, err_message());
        }
    }
    host_poison_close(device->poison, hold);
    if (profile != NULL) {
        profile_record_add(profile, &item->command, now_monotonic_ns() - started_ns);
    }
}

static void run_copy(struct host_device *device, const struct item_copy *copy) {
    struct host_poison_hold *hold =
        host_poison_open_ranges(device->poison, copy->held, copy->held_count);
    memcpy(copy->to, copy->from, copy->bytes);
    host_poison_close(device->poison, hold);
}

static void run_fill(struct host_device *device, const struct item_fill *fill) {
    struct host_poison_range held = {fill->to, fill->bytes};
    struct host_poison_hold *hold = host_poison_open_ranges(device->poison, &held, 1);
    memset(fill->to, fill->value, fill->bytes);
    host_poison_close(device->poison, hold);
}

static void run_item(struct host_device *device, const struct item *item) {
    if (item->kind == ITEM_WAIT) {
        timeline_wait(item->wait.timeline, item->wait.count);
        timeline_release(item->wait.timeline);
        return;
    }
    if (!host_device_admit_item(device)) {
        return;
    }
    if (item->kind == ITEM_COMMAND) {
        run_command(device, item);
    } else if (item->kind == ITEM_COPY) {
        run_copy(device, &item->copy);
    } else {
        run_fill(device, &item->fill);
    }
}

static void *stream_main(void *context) {
    struct host_stream *stream = context;
    struct host_device *device = host_device_of(stream->base.device);
    host_thread_set_float_state();
    for (uint64_t next = 0;;) {
        uint32_t seen = doorbell_value(&stream->bell);
        if (atomic_load_explicit(&stream->enqueued, memory_order_acquire) != next) {
            run_item(device, &stream->ring[next % RING_ITEMS]);
            next++;
            timeline_advance(stream->timeline); /* I2 */
        } else if (atomic_load_explicit(&stream->is_closing, memory_order_acquire)) {
            return NULL;
        } else {
            doorbell_wait(&stream->bell, seen, SPIN_NS);
        }
    }
}

/* --- life ---------------------------------------------------------------------------- */

enum err host_stream_create(struct device *device, enum device_stream_kind kind,
                            struct device_stream **out) {
    struct host_stream *stream = aligned_alloc(_Alignof(struct host_stream), sizeof *stream);
    if (stream == NULL) {
        return err_fail(ERR_NOMEM, "stream");
    }
    *stream = (struct host_stream){.base = {device, kind}, .magic = STREAM_MAGIC};
    atomic_fetch_add(&host_device_of(device)->object_count, 1);
    enum err err = timeline_create(&stream->timeline);
    if (err == ERR_OK) {
        stream->ring = calloc(RING_ITEMS, sizeof *stream->ring);
        err = stream->ring == NULL ? err_fail(ERR_NOMEM, "ring of a stream") : ERR_OK;
    }
    if (err == ERR_OK) {
        const char *name = kind == DEVICE_STREAM_COPY ? "tern-copy" : "tern-compute";
        err = host_thread_create(name, stream_main, stream, &stream->thread);
    }
    if (err != ERR_OK) {
        host_stream_destroy(&stream->base);
        return err;
    }
    stream->is_started = 1;
    *out = &stream->base;
    return ERR_OK;
}

void host_stream_destroy(struct device_stream *base) {
    struct host_stream *stream = stream_of(base);
    if (stream->is_started) {
        /* The thread looks at is_closing only when nothing is left to run. */
        atomic_store_explicit(&stream->is_closing, 1, memory_order_release);
        doorbell_ring(&stream->bell);
        pthread_join(stream->thread, NULL);
    }
    atomic_fetch_sub(&host_device_of(base->device)->object_count, 1);
    timeline_release(stream->timeline);
    free(stream->ring);
    stream->magic = 0;
    free(stream);
}

enum err host_stream_wait_idle(struct device_stream *base) {
    struct host_stream *stream = stream_of(base);
    timeline_wait(stream->timeline, atomic_load_explicit(&stream->enqueued, memory_order_acquire));
    return host_device_check(host_device_of(base->device));
}

struct timeline *host_stream_timeline(struct device_stream *base, uint64_t *out_count) {
    struct host_stream *stream = stream_of(base);
    *out_count = atomic_load_explicit(&stream->enqueued, memory_order_acquire);
    return stream->timeline;
}

/* --- enqueuing ----------------------------------------------------------------------- */

/* The slot of the next item, waited for while the ring is full. */
static struct item *next_slot(struct host_stream *stream) {
    uint64_t position = atomic_load_explicit(&stream->enqueued, memory_order_relaxed);
    if (position >= RING_ITEMS) {
        timeline_wait(stream->timeline, position - RING_ITEMS + 1);
    }
    return &stream->ring[position % RING_ITEMS];
}

/* Hands the slot that next_slot gave over to the stream's thread. */
static void publish(struct host_stream *stream) {
    atomic_fetch_add_explicit(&stream->enqueued, 1, memory_order_release);
    doorbell_ring(&stream->bell);
}

static enum err enqueue_copy(struct device_stream *base, const struct item_copy *copy) {
    struct host_stream *stream = stream_of(base);
    TRY(host_device_check(host_device_of(base->device)));
    struct item *item = next_slot(stream);
    item->kind = ITEM_COPY;
    item->copy = *copy;
    publish(stream);
    return ERR_OK;
}

enum err host_stream_copy_in(struct device_stream *stream, struct device_ptr to, const void *from,
                             size_t bytes) {
    void *to_memory = host_memory_at(to);
    return enqueue_copy(stream, &(struct item_copy){.to = to_memory,
                                                    .from = from,
                                                    .bytes = bytes,
                                                    .held = {{to_memory, bytes}},
                                                    .held_count = 1});
}

enum err host_stream_copy_out(struct device_stream *stream, void *to, struct device_ptr from,
                              size_t bytes) {
    const void *from_memory = host_memory_at(from);
    return enqueue_copy(stream, &(struct item_copy){.to = to,
                                                    .from = from_memory,
                                                    .bytes = bytes,
                                                    .held = {{from_memory, bytes}},
                                                    .held_count = 1});
}

enum err host_stream_copy(struct device_stream *stream, struct device_ptr to,
                          struct device_ptr from, size_t bytes) {
    void *to_memory = host_memory_at(to);
    const void *from_memory = host_memory_at(from);
    return enqueue_copy(stream,
                        &(struct item_copy){.to = to_memory,
                                            .from = from_memory,
                                            .bytes = bytes,
                                            .held = {{to_memory, bytes}, {from_memory, bytes}},
                                            .held_count = 2});
}

enum err host_stream_fill(struct device_stream *base, struct device_ptr to, uint8_t value,
                          size_t bytes) {
    struct host_stream *stream = stream_of(base);
    TRY(host_device_check(host_device_of(base->device)));
    struct item *item = next_slot(stream);
    item->kind = ITEM_FILL;
    item->fill = (struct item_fill){host_memory_at(to), bytes, value};
    publish(stream);
    return ERR_OK;
}

enum err host_stream_enqueue(struct device_stream *base, const struct command *command) {
    struct host_stream *stream = stream_of(base);
    struct host_device *device = host_device_of(base->device);
    TRY(host_device_check(device));
    struct kernel_plan plan = {.phase_count = 0};
    if (!host_pool_copy_takes(command->kind)) {
        device->kernels->plan(command, device->threads, &plan);
        TRY(host_device_grow_scratch(device, plan.scratch_bytes));
    }
    struct item *item = next_slot(stream);
    item->kind = ITEM_COMMAND;
    item->command = *command;
    item->plan = plan;
    publish(stream);
    return ERR_OK;
}

enum err host_stream_wait_timeline(struct device_stream *base, struct timeline *timeline,
                                   uint64_t count) {
    struct host_stream *stream = stream_of(base);
    enum err err = host_device_check(host_device_of(base->device));
    if (err != ERR_OK) {
        timeline_release(timeline);
        return err;
    }
    struct item *item = next_slot(stream);
    item->kind = ITEM_WAIT;
    item->wait = (struct item_wait){timeline, count};
    publish(stream);
    return ERR_OK;
}
