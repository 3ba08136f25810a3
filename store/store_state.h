/*
 * The store's own state, shared by the files that make it up: store.c (heads and
 * publication), store_find.c (lookup, promotion, attaching), store_room.c
 * (eviction), mover.c (copies to colder tiers). Internal to store/.
 *
 * Lock order: submit_lock, then lock. Neither is held across a device call, a
 * copy, or anything that touches the disk.
 */
#ifndef TERN_STORE_STORE_STATE_H
#define TERN_STORE_STORE_STATE_H

#include "store/head.h"
#include "store/promoter.h"
#include "store/tier_disk.h"

#include <pthread.h>

struct store_room_wait;

struct store {
    struct store_config config;
    const struct layout *layout;
    char numerics_class[RECORD_CLASS_BYTES + 1];
    struct tier_disk *disk;           /* or NULL */
    struct promoter *promoter;        /* reads from it */
    struct device_stream *out_stream; /* the mover's */
    struct device_stream *in_stream;  /* the engine thread's */

    pthread_mutex_t submit_lock; /* between a head's deletion and its way to the disk queue */
    pthread_mutex_t event_lock;  /* events are made and destroyed by one thread at a time */

    pthread_mutex_t lock;   /* over everything below, and over all heads, images and lineages */
    pthread_cond_t changed; /* a move has ended, or something may go on */
    struct head_index index;
    struct host_account host;
    uint64_t progress;   /* rises whenever something happens that may have made room in `host` */
    uint64_t stalled_at; /* the progress at which a wait for room was last given up */
    int has_stalled;
    int is_mover_short; /* the mover waits for room: nobody takes any before it */
    TAILQ_HEAD(store_state_room_waits, store_room_wait) room_waits; /* promotions; oldest first */
    size_t aside_bytes;    /* of `host`, in requests that are set aside */
    uint64_t lineage_next; /* without a disk tier */

    pthread_t mover;
    int has_mover;
    int is_stopping;
    int is_draining; /* everything goes to disk, whatever the policy */
    pthread_cond_t wake_mover;
    struct head_queue queue;
    size_t moving; /* heads in the queue or in the mover's hands */
    TAILQ_HEAD(store_state_unwritten, store_head)
    unwritten; /* on their way to disk, oldest first */
    uint64_t unwritten_bytes;

    struct store_counters counters; /* those that are counted here */
};

/* --- references (store.c) ------------------------------------------------------------------ */

/*
 * Gives one reference back, the lock held. A head without references is chained to *DOOMED, to
 * be handed to store_state_bury without the lock.
 */
void store_state_drop(struct store_head *head, struct store_head **doomed);
void store_state_bury(struct store *store, struct store_head *doomed);

/* Takes a head out of the index and gives the index's reference back; the lock held. */
void store_state_unlink(struct store *store, struct store_head *head, struct store_head **doomed);

/* The same if memory has nothing of the head and nobody waits with it; the lock held. */
void store_state_unlink_if_gone(struct store *store, struct store_head *head,
                                struct store_head **doomed);

/*
 * Frees what only lookups and attaching would need of a head that nobody will look up or attach
 * any more, though its children still refer to it: its device copy, tail and state; the lock held.
 */
void store_state_strip(struct store *store, struct store_head *head);

/* Something has happened that may have made room in host memory; the lock held. */
void store_state_note_progress(struct store *store);

#endif
