/*
 * The device pools: paged KV blocks and terminal-state slots, each one device
 * buffer reserved at start, with reference counts. A pool hands out indices and
 * the views that ops need; it never looks at the bytes.
 *
 * A block or slot is taken with one reference. Sharing adds one, release takes
 * one away, and at zero it is free again. A block that more than one holder
 * shares is never written: writers copy the tail first (pool_copy_tail). A
 * committed slot is never written again.
 *
 * Any thread may call. Freed bytes may still be read by work that was enqueued
 * before the release; whoever takes the block next writes it on the same compute
 * stream, or orders its write behind that work with an event.
 */
#ifndef TERN_STORE_POOL_H
#define TERN_STORE_POOL_H

#include "store/layout.h"

struct pool;

struct pool_config {
    struct device *device;
    const struct layout *layout; /* outlives the pool */
    int blocks;                  /* ignored without attention layers */
    int slots;                   /* ignored without recurrent layers */
};

/* ERR_NOMEM when the device refuses; the message says what each pool would take. */
MUST_USE enum err pool_create(const struct pool_config *config, struct pool **out);

/* Everything must have been released: asserted. */
void pool_destroy(struct pool *pool);
const struct layout *pool_layout(const struct pool *pool);
struct device *pool_device(const struct pool *pool);

/* device_buffer_warm of the first BLOCKS blocks and SLOTS slots, at most all, which are those that
 * are handed out first. */
void pool_warm(struct pool *pool, int blocks, int slots);

/* --- references ---------------------------------------------------------------------- */

/* ERR_FULL when none is free. The bytes are undefined: whatever the last holder left. */
MUST_USE enum err pool_block_take(struct pool *pool, int32_t *out);
void pool_block_share(struct pool *pool, int32_t block);
void pool_block_release(struct pool *pool, int32_t block);

MUST_USE enum err pool_slot_take(struct pool *pool, int32_t *out);
void pool_slot_share(struct pool *pool, int32_t slot);
void pool_slot_release(struct pool *pool, int32_t slot);

struct pool_usage {
    int blocks;
    int blocks_free;
    int slots;
    int slots_free;
};
void pool_get_usage(struct pool *pool, struct pool_usage *out);
int pool_block_references(struct pool *pool, int32_t block);

/* --- views and addresses ------------------------------------------------------------- */

struct op_kv_view pool_kv_view(const struct pool *pool, int kv_index);
struct op_state_view pool_state_view(const struct pool *pool, int state_index);
struct device_ptr pool_block_ptr(const struct pool *pool, int32_t block); /* block_bytes long */
struct device_ptr pool_slot_ptr(const struct pool *pool, int32_t slot);   /* slot_bytes long */

/* --- copies, enqueued on STREAM ------------------------------------------------------ */

/* Block TO gets the first TOKENS tokens of block FROM, and zeros behind them. */
MUST_USE enum err pool_copy_tail(struct pool *pool, struct device_stream *stream, int32_t from,
                                 int32_t to, int tokens);
MUST_USE enum err pool_copy_state(struct pool *pool, struct device_stream *stream, int32_t from,
                                  int32_t to);

/* Writes what a new sequence starts from. */
MUST_USE enum err pool_clear_state(struct pool *pool, struct device_stream *stream, int32_t slot);

#endif
