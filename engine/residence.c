/*
 * I1: a request holds either everything (sequence, slots, spare blocks) or nothing of the pools.
 * I2: `aside` is non-NULL only while the request holds nothing of the pools; it then covers
 *     aside_length tokens: the blocks, the running slot, and the marked slot if there was one.
 */
#include "engine/residence.h"

/* --- taking and giving ------------------------------------------------------------------- */

static int uses_slots(const struct residence_context *context) {
    return pool_layout(context->pool)->state_count > 0;
}

static int uses_blocks(const struct residence_context *context) {
    return pool_layout(context->pool)->kv_count > 0;
}

static enum err take_slot(const struct residence_context *context, int is_needed, int32_t *out) {
    if (!is_needed || !uses_slots(context)) {
        return ERR_OK;
    }
    return pool_slot_take(context->pool, out);
}

static enum err take_block(const struct residence_context *context, int is_needed, int32_t *out) {
    if (!is_needed || !uses_blocks(context)) {
        return ERR_OK;
    }
    return pool_block_take(context->pool, out);
}

static void give_slot(const struct residence_context *context, int32_t *slot) {
    if (*slot >= 0) {
        pool_slot_release(context->pool, *slot);
        *slot = -1;
    }
}

static void give_block(const struct residence_context *context, int32_t *block) {
    if (*block >= 0) {
        pool_block_release(context->pool, *block);
        *block = -1;
    }
}

static void give_device_part(const struct residence_context *context,
                             struct engine_request *request) {
    sequence_done(&request->sequence);
    give_slot(context, &request->prompt_end_slot);
    give_slot(context, &request->turn_end_slot);
    give_block(context, &request->spare_blocks[0]);
    give_block(context, &request->spare_blocks[1]);
}

static void give_aside(const struct residence_context *context, struct engine_request *request) {
    if (request->aside != NULL) {
        store_host_give(context->store, request->aside, request->aside_bytes);
        request->aside = NULL;
        request->aside_bytes = 0;
    }
}

void residence_give(const struct residence_context *context, struct engine_request *request) {
    give_device_part(context, request);
    give_aside(context, request);
    if (request->attach != NULL && request->is_attach_unpinned) {
        store_head_forget(request->attach);
    } else {
        store_head_release(request->attach);
    }
    request->attach = NULL;
}

/* --- set aside --------------------------------------------------------------------------- */

/* Where the parts of a request that is set aside lie in its image. */
struct image {
    size_t blocks_bytes;
    size_t slot_bytes;
    size_t bytes;
};

static struct image image_of(const struct residence_context *context, int length,
                             int has_marked_slot) {
    const struct layout *layout = pool_layout(context->pool);
    struct image image = {.slot_bytes = layout->slot_bytes};
    if (layout->kv_count > 0) {
        image.blocks_bytes = (size_t)layout_blocks(layout, length) * layout->block_bytes;
    }
    image.bytes = image.blocks_bytes + image.slot_bytes * (has_marked_slot ? 2 : 1);
    return image;
}

static enum err copy_slot_out(const struct residence_context *context, int32_t slot, void *to) {
    if (slot < 0) {
        return ERR_OK;
    }
    return device_copy_out(context->stream, to, pool_slot_ptr(context->pool, slot),
                           pool_layout(context->pool)->slot_bytes);
}

static enum err copy_out(const struct residence_context *context, struct engine_request *request,
                         const struct image *image) {
    size_t block_bytes = pool_layout(context->pool)->block_bytes;
    uint8_t *to = request->aside;
    for (size_t at = 0; at < image->blocks_bytes; at += block_bytes) {
        int32_t block = request->sequence.blocks[at / block_bytes];
        TRY(device_copy_out(context->stream, to + at, pool_block_ptr(context->pool, block),
                            block_bytes));
    }
    to += image->blocks_bytes;
    TRY(copy_slot_out(context, request->sequence.slot, to));
    if (request->is_prompt_end_marked) {
        TRY(copy_slot_out(context, request->prompt_end_slot, to + image->slot_bytes));
    }
    return device_stream_wait_idle(context->stream);
}

enum err residence_set_aside(const struct residence_context *context,
                             struct engine_request *request) {
    assert(request->aside == NULL); /* I2 */
    struct image image = image_of(context, request->sequence.length, request->is_prompt_end_marked);
    if (image.bytes > 0 &&
        store_host_take(context->store, image.bytes, &request->aside) == ERR_OK) {
        request->aside_bytes = image.bytes;
        request->aside_length = request->sequence.length;
        enum err code = copy_out(context, request, &image);
        if (code != ERR_OK) {
            give_aside(context, request);
            return code;
        }
    } else {
        request->aside = NULL;
        request->is_prompt_end_marked = 0;
    }
    give_device_part(context, request);
    return ERR_OK;
}

static enum err copy_slot_in(const struct residence_context *context, int32_t slot,
                             const void *from) {
    if (slot < 0) {
        return ERR_OK;
    }
    return device_copy_in(context->stream, pool_slot_ptr(context->pool, slot), from,
                          pool_layout(context->pool)->slot_bytes);
}

/* The sequence is started and reserved; fills it with what was set aside. */
static enum err copy_in(const struct residence_context *context, struct engine_request *request) {
    struct image image = image_of(context, request->aside_length, request->is_prompt_end_marked);
    size_t block_bytes = pool_layout(context->pool)->block_bytes;
    const uint8_t *from = request->aside;
    assert(image.bytes == request->aside_bytes);
    for (size_t at = 0; at < image.blocks_bytes; at += block_bytes) {
        int32_t block = request->sequence.blocks[at / block_bytes];
        TRY(device_copy_in(context->stream, pool_block_ptr(context->pool, block), from + at,
                           block_bytes));
    }
    from += image.blocks_bytes;
    TRY(copy_slot_in(context, request->sequence.slot, from));
    if (request->is_prompt_end_marked) {
        TRY(copy_slot_in(context, request->prompt_end_slot, from + image.slot_bytes));
    }
    TRY(device_stream_wait_idle(context->stream)); /* `aside` is given back next */
    request->sequence.length = request->aside_length;
    return ERR_OK;
}

/* --- admission --------------------------------------------------------------------------- */

/* ERR_NOT_FOUND of an evicted head is no failure: the tokens are there, and give the same bits. */
static enum err attach_or_start(const struct residence_context *context,
                                struct engine_request *request) {
    enum err code = ERR_NOT_FOUND;
    if (request->attach != NULL) {
        code = store_attach(context->store, request->attach, &request->sequence, context->stream);
    }
    if (code == ERR_NOT_FOUND) {
        code = sequence_start(&request->sequence, context->stream);
    }
    if (code == ERR_OK && request->tokens_run == 0) {
        request->attached_length = request->sequence.length;
    }
    return code;
}

static enum err take_sequence(const struct residence_context *context,
                              struct engine_request *request) {
    TRY(sequence_init(&request->sequence, context->pool, context->context));
    if (request->aside != NULL) {
        TRY(sequence_start(&request->sequence, context->stream));
    } else {
        TRY(attach_or_start(context, request));
    }
    TRY(sequence_reserve(&request->sequence, request->token_count - request->sequence.length));
    if (request->aside != NULL) {
        TRY(copy_in(context, request));
    }
    return ERR_OK;
}

/* The head has served: while the request runs its memory is of more use to others. */
static void unpin(struct engine_request *request) {
    if (request->attach != NULL && !request->is_attach_unpinned) {
        store_head_unpin(request->attach);
        request->is_attach_unpinned = 1;
    }
}

static enum err take_all(const struct residence_context *context, struct engine_request *request) {
    TRY(take_slot(context, request->prompt_end > 0, &request->prompt_end_slot));
    TRY(take_slot(context, request->keeps_turn_end, &request->turn_end_slot));
    TRY(take_block(context, request->prompt_end > 0, &request->spare_blocks[0]));
    TRY(take_block(context, request->keeps_turn_end, &request->spare_blocks[1]));
    TRY(take_sequence(context, request));
    give_aside(context, request);
    unpin(request); /* not before: what has been attached in vain is to be attached again */
    return ERR_OK;
}

/* Blocks and slots that take_all asks for; more if the head loses its device copy before. */
static void needs_of(const struct residence_context *context, const struct engine_request *request,
                     int *blocks, int *slots) {
    int heads = (request->prompt_end > 0) + (request->keeps_turn_end != 0);
    *slots = uses_slots(context) ? 1 + heads : 0;
    *blocks = 0;
    if (uses_blocks(context)) {
        int shared = request->attach != NULL ? store_head_device_blocks(request->attach) : 0;
        *blocks = layout_blocks(pool_layout(context->pool), request->token_count) + heads - shared;
    }
}

enum err residence_take(const struct residence_context *context, struct engine_request *request) {
    int blocks = 0, slots = 0;
    needs_of(context, request, &blocks, &slots);
    if (!store_reclaim(context->store, blocks, slots)) {
        return ERR_FULL; /* before anything is copied, or read from disk again, in vain */
    }
    enum err code = take_all(context, request);
    if (code != ERR_OK) {
        give_device_part(context, request); /* I1 */
    }
    return code == ERR_BUSY ? ERR_FULL : code;
}

enum err residence_grow(const struct residence_context *context, struct engine_request *request) {
    enum err code = sequence_reserve(&request->sequence, 1);
    if (code == ERR_FULL && store_reclaim(context->store, 1, 0)) {
        code = sequence_reserve(&request->sequence, 1);
    }
    return code;
}

/* --- heads ------------------------------------------------------------------------------- */

/* A head that cannot be made is state lost, not a conversation: the next turn rebuilds it. */
static struct store_head *make_head(const struct residence_context *context,
                                    struct engine_request *request, enum store_kind kind,
                                    int length, int32_t *slot) {
    struct store_head *head = NULL;
    struct store_head *parent = request->attached_length > 0 ? request->attach : NULL;
    enum err code = store_head_create(context->store,
                                      &(struct store_head_params){
                                          .sequence = &request->sequence,
                                          .stream = context->stream,
                                          .length = length,
                                          .state_slot = *slot,
                                          .kind = kind,
                                          .parent = parent,
                                      },
                                      &head);
    if (code != ERR_OK) {
        return NULL;
    }
    *slot = -1; /* the head holds it now */
    return head;
}

void residence_make_heads(const struct residence_context *context, struct engine_request *request,
                          struct store_head **turn_end, struct store_head **prompt_end) {
    *turn_end = NULL;
    *prompt_end = NULL;
    give_block(context, &request->spare_blocks[0]);
    give_block(context, &request->spare_blocks[1]);
    if (request->is_prompt_end_marked) {
        *prompt_end = make_head(context, request, STORE_KIND_PROMPT_END, request->prompt_end,
                                &request->prompt_end_slot);
    }
    if (!request->keeps_turn_end) {
        return;
    }
    if (request->turn_end_slot >= 0 &&
        pool_copy_state(context->pool, context->stream, request->sequence.slot,
                        request->turn_end_slot) != ERR_OK) {
        return;
    }
    *turn_end = make_head(context, request, STORE_KIND_TURN_END, request->sequence.length,
                          &request->turn_end_slot);
}
