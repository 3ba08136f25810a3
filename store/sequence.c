/*
 * I1: blocks [0, block_count) are referenced by the sequence, and cover at least `length` tokens.
 * I2: every block at or behind index length / block_size has this sequence as its only holder.
 */
#include "store/sequence.h"

#include <stdlib.h>
#include <string.h>

enum err sequence_init(struct sequence *sequence, struct pool *pool, int context) {
    int capacity = 0;
    int32_t *blocks = NULL;
    if (context < 1) {
        return err_fail(ERR_INVALID, "a context of %d tokens", context);
    }
    if (pool_layout(pool)->kv_count > 0) {
        capacity = layout_blocks(pool_layout(pool), context);
        blocks = calloc((size_t)capacity, sizeof *blocks);
        if (blocks == NULL) {
            return err_fail(ERR_NOMEM, "block table of %d entries", capacity);
        }
    }
    *sequence = (struct sequence){
        .pool = pool,
        .blocks = blocks,
        .block_capacity = capacity,
        .slot = -1,
    };
    return ERR_OK;
}

/* Gives back everything but the block table's memory. */
static void release_all(struct sequence *sequence) {
    for (int i = 0; i < sequence->block_count; i++) {
        pool_block_release(sequence->pool, sequence->blocks[i]);
    }
    if (sequence->slot >= 0) {
        pool_slot_release(sequence->pool, sequence->slot);
    }
    sequence->block_count = 0;
    sequence->slot = -1;
    sequence->length = 0;
}

void sequence_done(struct sequence *sequence) {
    if (sequence->pool != NULL) {
        release_all(sequence);
    }
    free(sequence->blocks);
    *sequence = (struct sequence){.slot = -1};
}

static enum err take_slot(struct pool *pool, int32_t *out) {
    if (pool_layout(pool)->state_count == 0) {
        *out = -1;
        return ERR_OK;
    }
    return pool_slot_take(pool, out);
}

enum err sequence_start(struct sequence *sequence, struct device_stream *stream) {
    assert(sequence->block_count == 0 && sequence->slot < 0);
    int32_t slot = -1;
    TRY(take_slot(sequence->pool, &slot));
    if (slot >= 0) {
        enum err code = pool_clear_state(sequence->pool, stream, slot);
        if (code != ERR_OK) {
            pool_slot_release(sequence->pool, slot);
            return code;
        }
    }
    sequence->slot = slot;
    sequence->length = 0;
    return ERR_OK;
}

static enum err attach_blocks(struct sequence *sequence, struct device_stream *stream,
                              const struct sequence_head *head) {
    const struct layout *layout = pool_layout(sequence->pool);
    if (layout->kv_count == 0) {
        return ERR_OK;
    }
    int full = head->length / layout->block_size;
    int tail_tokens = head->length % layout->block_size;
    if (full + (tail_tokens > 0) > sequence->block_capacity) {
        return err_fail(ERR_INVALID, "a head of %d tokens in a context of %d blocks", head->length,
                        sequence->block_capacity);
    }
    for (int i = 0; i < full; i++) {
        pool_block_share(sequence->pool, head->blocks[i]);
        sequence->blocks[sequence->block_count++] = head->blocks[i];
    }
    if (tail_tokens > 0) {
        int32_t tail = -1;
        TRY(pool_block_take(sequence->pool, &tail));
        sequence->blocks[sequence->block_count++] = tail;
        TRY(pool_copy_tail(sequence->pool, stream, head->blocks[full], tail, tail_tokens));
    }
    return ERR_OK;
}

static enum err attach_state(struct sequence *sequence, struct device_stream *stream,
                             const struct sequence_head *head) {
    TRY(take_slot(sequence->pool, &sequence->slot));
    if (sequence->slot < 0) {
        return ERR_OK;
    }
    return pool_copy_state(sequence->pool, stream, head->slot, sequence->slot);
}

enum err sequence_attach(struct sequence *sequence, struct device_stream *stream,
                         const struct sequence_head *head) {
    assert(sequence->block_count == 0 && sequence->slot < 0);
    assert(sequence->pool == head->pool);
    enum err code = attach_blocks(sequence, stream, head);
    if (code == ERR_OK) {
        code = attach_state(sequence, stream, head);
    }
    if (code != ERR_OK) {
        release_all(sequence);
        return code;
    }
    sequence->length = head->length;
    return ERR_OK;
}

enum err sequence_reserve(struct sequence *sequence, int tokens) {
    if (pool_layout(sequence->pool)->kv_count == 0) {
        return ERR_OK;
    }
    int needed = layout_blocks(pool_layout(sequence->pool), sequence->length + tokens);
    if (needed > sequence->block_capacity) {
        return err_fail(ERR_INVALID, "%d tokens do not fit a context of %d blocks",
                        sequence->length + tokens, sequence->block_capacity);
    }
    int before = sequence->block_count;
    while (sequence->block_count < needed) {
        enum err code = pool_block_take(sequence->pool, &sequence->blocks[sequence->block_count]);
        if (code != ERR_OK) {
            while (sequence->block_count > before) {
                pool_block_release(sequence->pool, sequence->blocks[--sequence->block_count]);
            }
            return code;
        }
        sequence->block_count++;
    }
    return ERR_OK;
}

/* Fills the head's blocks: references to full ones, a copy of the tail. */
static enum err commit_blocks(struct sequence *sequence, struct device_stream *stream,
                              struct sequence_head *head) {
    const struct layout *layout = pool_layout(sequence->pool);
    if (layout->kv_count == 0 || head->length == 0) {
        return ERR_OK;
    }
    int full = head->length / layout->block_size;
    int tail_tokens = head->length % layout->block_size;
    head->blocks = calloc((size_t)full + 1, sizeof *head->blocks);
    if (head->blocks == NULL) {
        return err_fail(ERR_NOMEM, "head of %d blocks", full + 1);
    }
    for (int i = 0; i < full; i++) {
        pool_block_share(sequence->pool, sequence->blocks[i]);
        head->blocks[head->block_count++] = sequence->blocks[i];
    }
    if (tail_tokens > 0) {
        int32_t tail = -1;
        TRY(pool_block_take(sequence->pool, &tail));
        head->blocks[head->block_count++] = tail;
        TRY(pool_copy_tail(sequence->pool, stream, sequence->blocks[full], tail, tail_tokens));
    }
    return ERR_OK;
}

static enum err commit_state(struct sequence *sequence, struct device_stream *stream,
                             int32_t state_slot, struct sequence_head *head) {
    if (sequence->slot < 0) {
        return ERR_OK;
    }
    if (state_slot >= 0) {
        head->slot = state_slot;
        return ERR_OK;
    }
    assert(head->length == sequence->length);
    TRY(take_slot(sequence->pool, &head->slot));
    return pool_copy_state(sequence->pool, stream, sequence->slot, head->slot);
}

enum err sequence_commit(struct sequence *sequence, struct device_stream *stream, int length,
                         int32_t state_slot, struct sequence_head *out) {
    assert(length >= 0 && length <= sequence->length);
    struct sequence_head head = {.pool = sequence->pool, .slot = -1, .length = length};
    enum err code = commit_blocks(sequence, stream, &head);
    if (code == ERR_OK) {
        code = commit_state(sequence, stream, state_slot, &head);
    }
    if (code != ERR_OK) {
        if (head.slot == state_slot) {
            head.slot = -1; /* the caller keeps its reference */
        }
        sequence_head_release(&head);
        return code;
    }
    *out = head;
    return ERR_OK;
}

void sequence_head_release(struct sequence_head *head) {
    if (head->pool == NULL) {
        return;
    }
    for (int i = 0; i < head->block_count; i++) {
        pool_block_release(head->pool, head->blocks[i]);
    }
    if (head->slot >= 0) {
        pool_slot_release(head->pool, head->slot);
    }
    free(head->blocks);
    *head = (struct sequence_head){.slot = -1};
}
