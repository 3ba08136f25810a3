/*
 * The small F32 arrays of a model (norms, biases, decays) on their way to the
 * device: gathered in host memory while the file is read, then copied into one
 * device buffer. An address handed out by vector_arena_add is valid once
 * vector_arena_upload has run.
 */
#ifndef TERN_ENGINE_VECTOR_ARENA_H
#define TERN_ENGINE_VECTOR_ARENA_H

#include "base/buf.h"
#include "gpu/device.h"

struct vector_arena {
    struct buf bytes;
    /* Addresses given out so far; their buffer is filled in by vector_arena_upload. */
    struct device_ptr **pending;
    size_t pending_count;
    size_t pending_capacity;
};

void vector_arena_init(struct vector_arena *arena, size_t max_bytes);
void vector_arena_done(struct vector_arena *arena);

/* Appends BYTES at the next multiple of 64; *ptr gets the offset now and the buffer later, so it
 * must stay where it is until vector_arena_upload. DATA may be NULL: zeros, for *place to fill. */
MUST_USE enum err vector_arena_add(struct vector_arena *arena, const void *data, size_t bytes,
                                   struct device_ptr *ptr, void **place);

/* Creates the buffer, copies everything and completes the addresses. An empty arena gives NULL. */
MUST_USE enum err vector_arena_upload(struct vector_arena *arena, struct device *device,
                                      struct device_buffer **out);

#endif
