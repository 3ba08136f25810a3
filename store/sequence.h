/*
 * A sequence: the blocks, the running slot and the length of one line of tokens
 * that a request is computing. Everything in it belongs to the request: full
 * blocks may be shared with committed heads and are never written again, the
 * tail block and the running slot are its own.
 *
 * A head is what stays when a request ends: references to full blocks, a tail
 * block and a state slot of its own, all of one length, none of them ever
 * written again.
 *
 * The copies that attaching and committing enqueue run on the caller's compute
 * stream, so that they are ordered with the steps before and after. One thread.
 */
#ifndef TERN_STORE_SEQUENCE_H
#define TERN_STORE_SEQUENCE_H

#include "store/pool.h"

struct sequence {
    struct pool *pool;
    int32_t *blocks;
    int block_count;
    int block_capacity;
    int32_t slot; /* -1: none held, or a model without recurrent layers */
    int length;   /* tokens computed, or enqueued to be */
};

struct sequence_head {
    struct pool *pool;
    int32_t *blocks; /* owned; the last one is the tail when length is no multiple of block_size */
    int block_count;
    int32_t slot; /* -1: none */
    int length;
};

/* Room for CONTEXT tokens; takes no block or slot yet. */
MUST_USE enum err sequence_init(struct sequence *sequence, struct pool *pool, int context);

/* Releases everything; also fits a sequence that was never started. */
void sequence_done(struct sequence *sequence);

/* Starts from nothing: takes a slot and clears it. ERR_FULL leaves the sequence as it was. */
MUST_USE enum err sequence_start(struct sequence *sequence, struct device_stream *stream);

/*
 * Starts from HEAD: shares its full blocks, copies its tail and its state. ERR_FULL (no block or
 * slot) leaves the sequence as it was. HEAD may be released once this returns: what it held stays
 * in place until the copies, which lie before any later write on STREAM, have run.
 */
MUST_USE enum err sequence_attach(struct sequence *sequence, struct device_stream *stream,
                                  const struct sequence_head *head);

/* Makes the blocks cover TOKENS more tokens. ERR_FULL: none taken; ERR_INVALID past the context. */
MUST_USE enum err sequence_reserve(struct sequence *sequence, int tokens);

/*
 * Makes a head of the sequence as it stands after all steps enqueued on STREAM so far. The
 * sequence goes on independently. STATE_SLOT: a slot that a mark filled with the state after
 * exactly LENGTH tokens, whose reference the head takes over; -1 copies the running slot, and
 * LENGTH must then be the sequence's. ERR_FULL: nothing taken, the reference stays the caller's.
 */
MUST_USE enum err sequence_commit(struct sequence *sequence, struct device_stream *stream,
                                  int length, int32_t state_slot, struct sequence_head *out);
void sequence_head_release(struct sequence_head *head);

#endif
