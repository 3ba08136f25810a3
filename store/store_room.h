/*
 * Room in host memory for heads: what is evicted for whom, and who waits. Internal to store/.
 */
#ifndef TERN_STORE_STORE_ROOM_H
#define TERN_STORE_STORE_ROOM_H

#include "store/store_state.h"

/* A wait for room; zeroed when it begins. */
struct store_room_wait {
    uint64_t begun_ms;                 /* 0: not yet */
    uint64_t seen_ms;                  /* when there last was progress */
    uint64_t progress;                 /* at that moment */
    TAILQ_ENTRY(store_room_wait) link; /* of promotions, which are served in turn */
};

/*
 * Waits, the lock held, until something has happened that may have made room. 0: waiting is in
 * vain, because nothing has happened for a time of the order of the spill lag.
 */
int store_room_wait(struct store *store, struct store_room_wait *wait);

/* An image whose first SHARED_BLOCKS blocks are those of FROM. */
struct store_room_request {
    int length;
    int shared_blocks;
    struct host_image *from;
    int is_mover; /* may take from those who wait with a pinned head that lies on disk too */
};

/*
 * Makes an image under the cap, evicting idle ones; the lock held. ERR_FULL when what is left is
 * in use. Nothing was taken then, but heads may have come to *DOOMED.
 */
MUST_USE enum err store_room_image(struct store *store, const struct store_room_request *request,
                                   struct host_image **out, struct store_head **doomed);

/* The same for a head that a front thread reads from disk, the lock not held: waits while that
 * helps. */
MUST_USE enum err store_room_promote(struct store *store, int length, struct host_image **out);

#endif
