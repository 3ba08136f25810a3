#include "store/host_image.h"

#include <stdlib.h>

static int full_blocks_of(const struct layout *layout, int length) {
    return layout->kv_count > 0 ? length / layout->block_size : 0;
}

static int has_tail(const struct layout *layout, int length) {
    return layout->kv_count > 0 && length % layout->block_size != 0;
}

size_t host_image_bytes(const struct layout *layout, int length, int shared_blocks) {
    size_t blocks =
        (size_t)(full_blocks_of(layout, length) - shared_blocks) + (size_t)has_tail(layout, length);
    return blocks * layout->block_bytes + layout->slot_bytes;
}

static enum err fill(struct host_account *account, const struct layout *layout,
                     const struct host_image *from, int shared_blocks, struct host_image *image) {
    void *memory = NULL;
    int full = full_blocks_of(layout, image->length);
    image->blocks = calloc((size_t)full + 1, sizeof(*image->blocks));
    if (image->blocks == NULL) {
        return err_fail(ERR_NOMEM, "image of %d blocks", full);
    }
    for (int i = 0; i < full; i++) {
        if (i < shared_blocks) {
            image->blocks[i] = from->blocks[i];
            image->blocks[i]->references++;
        } else {
            struct host_block *block = calloc(1, sizeof *block);
            if (block == NULL) {
                return err_fail(ERR_NOMEM, "image of %d blocks", full);
            }
            image->blocks[i] = block;
            block->references = 1;
            image->full_blocks = i + 1; /* so that a failure below frees it */
            TRY(host_account_take(account, layout->block_bytes, &memory));
            block->bytes = memory;
        }
        image->full_blocks = i + 1;
    }
    if (has_tail(layout, image->length)) {
        TRY(host_account_take(account, layout->block_bytes, &memory));
        image->tail = memory;
    }
    if (layout->slot_bytes > 0) {
        TRY(host_account_take(account, layout->slot_bytes, &memory));
        image->state = memory;
    }
    return ERR_OK;
}

enum err host_image_create(struct host_account *account, const struct layout *layout, int length,
                           const struct host_image *from, int shared_blocks,
                           struct host_image **out) {
    assert(shared_blocks <= full_blocks_of(layout, length));
    assert(shared_blocks == 0 || shared_blocks <= from->full_blocks);
    struct host_image *image = calloc(1, sizeof *image);
    if (image == NULL) {
        return err_fail(ERR_NOMEM, "image of a head");
    }
    image->references = 1;
    image->length = length;
    enum err code = fill(account, layout, from, shared_blocks, image);
    if (code != ERR_OK) {
        host_image_release(account, layout, image);
        return code;
    }
    *out = image;
    return ERR_OK;
}

void host_image_hold(struct host_image *image) {
    image->references++;
}

void host_image_strip(struct host_account *account, const struct layout *layout,
                      struct host_image *image) {
    assert(image->references == 1);
    host_account_give(account, image->tail, layout->block_bytes);
    host_account_give(account, image->state, layout->slot_bytes);
    image->tail = NULL;
    image->state = NULL;
}

void host_image_release(struct host_account *account, const struct layout *layout,
                        struct host_image *image) {
    if (image == NULL || --image->references > 0) {
        return;
    }
    for (int i = 0; i < image->full_blocks; i++) {
        struct host_block *block = image->blocks[i];
        if (--block->references == 0) {
            host_account_give(account, block->bytes, layout->block_bytes);
            free(block);
        }
    }
    host_account_give(account, image->tail, layout->block_bytes);
    host_account_give(account, image->state, layout->slot_bytes);
    free(image->blocks);
    free(image);
}
