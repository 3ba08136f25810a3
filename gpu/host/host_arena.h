/*
 * Memory for weights: many lie in one large mapping, so that a matrix of less
 * than a huge page, too, is read through huge pages. Memory comes zeroed and on
 * a page; pages that nobody has written cost nothing. A mapping goes back to
 * the system when all that was taken from it has been given back.
 *
 * One thread at a time may call.
 */
#ifndef TERN_GPU_HOST_ARENA_H
#define TERN_GPU_HOST_ARENA_H

#include "base/err.h"

struct host_arena;

MUST_USE enum err host_arena_create(struct host_arena **out);
void host_arena_destroy(struct host_arena *arena); /* everything taken has been given back */

/* What BYTES, more than 0, take of memory. */
size_t host_arena_rounded_bytes(size_t bytes);
MUST_USE enum err host_arena_take(struct host_arena *arena, size_t bytes, void **out);
void host_arena_give(struct host_arena *arena, void *memory, size_t bytes);

#endif
