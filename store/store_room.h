/*
 * Room in host memory for heads: what is evicted for whom. Internal to store/.
 */
#ifndef TERN_STORE_STORE_ROOM_H
#define TERN_STORE_STORE_ROOM_H

#include "store/store_state.h"

/*
 * Makes an image under the cap, evicting idle ones; the lock held. ERR_FULL when what is left is
 * in use.
 */
MUST_USE enum err store_room_image(struct store *store, int length, const struct host_image *from,
                                   int shared_blocks, struct host_image **out,
                                   struct store_head **doomed);

#endif
