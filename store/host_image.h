/*
 * The host tier's form of a head: its full KV blocks, tail and terminal state as
 * they lie in the pools, in host memory under one cap. Images of successive heads
 * share the blocks that they have in common, by reference, because one was made
 * from the other, never because bytes look alike.
 *
 * The account is shared by all images and by whoever else takes host memory under
 * the cap. It is not locked: the store's lock covers every call here, except that
 * the bytes of an image that only one thread knows may be filled without it.
 */
#ifndef TERN_STORE_HOST_IMAGE_H
#define TERN_STORE_HOST_IMAGE_H

#include "store/host_account.h"
#include "store/layout.h"

struct host_block {
    int references;
    uint8_t *bytes; /* block_bytes of the layout */
};

struct host_image {
    int references;
    int length; /* tokens */
    int full_blocks;
    struct host_block **blocks; /* full_blocks of them */
    uint8_t *tail;              /* block_bytes, zeros behind the tokens; NULL without a tail */
    uint8_t *state;             /* slot_bytes; NULL without recurrent layers */
};

/* Bytes that an image of LENGTH tokens takes beyond SHARED_BLOCKS blocks that it shares. */
size_t host_image_bytes(const struct layout *layout, int length, int shared_blocks);

/*
 * An image of LENGTH tokens whose first SHARED_BLOCKS blocks are those of FROM, everything else
 * zeroed and to be filled. ERR_FULL when the cap would be passed, ERR_NOMEM.
 */
MUST_USE enum err host_image_create(struct host_account *account, const struct layout *layout,
                                    int length, const struct host_image *from, int shared_blocks,
                                    struct host_image **out);
void host_image_hold(struct host_image *image);

/* Frees tail and state of an image that nobody else refers to and that only lends its blocks. */
void host_image_strip(struct host_account *account, const struct layout *layout,
                      struct host_image *image);

/* Gives one reference back; the last one frees what no other image shares. NULL is allowed. */
void host_image_release(struct host_account *account, const struct layout *layout,
                        struct host_image *image);

#endif
