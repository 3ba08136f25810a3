/*
 * The thread that copies published heads from the device to host memory and hands them to the disk
 * tier. Internal to store/; lock order as in store_state.h.
 */
#ifndef TERN_STORE_MOVER_H
#define TERN_STORE_MOVER_H

#include "store/store_state.h"

MUST_USE enum err mover_start(struct store *store);

/* Ends the thread. What is in its queue is dropped, and told so. */
void mover_stop(struct store *store);

/* Queues a head to be copied to host memory and, if it wants so, to disk; the lock held. */
void mover_queue(struct store *store, struct store_head *head);

/* Host memory to read HEAD into, waited for as in any move; on the mover's thread, no lock held. */
MUST_USE enum err mover_take_room(struct store *store, struct store_head *head,
                                  struct host_image **out);

#endif
