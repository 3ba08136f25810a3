/*
 * The store: committed heads in three tiers (device memory, host memory, disk),
 * found by exact key, spilled in the background, promoted on lookup, evicted by
 * budget. Keeps bytes; what they mean is the engine's business, and which
 * conversation a key stands for the ledger's: a key names one conversation from
 * its creation to its deletion, and is never used for another one.
 *
 * A head is made by the engine at the end of a request (store_head_create), still
 * unknown to anybody; published under a key once its turn is in the ledger; found
 * again by store_find, which pins it; attached to a new request's sequence. A miss
 * is a result with a reason.
 *
 * Threads: store_head_create and store_attach are the engine thread's, which is
 * also the only one that takes device blocks and slots. store_find and
 * store_delete may block on the disk: front threads. The rest: any thread.
 */
#ifndef TERN_STORE_STORE_H
#define TERN_STORE_STORE_H

#include "store/pool.h"
#include "store/sequence.h"
#include "store/tier.h"

struct store;
struct store_head;

enum { STORE_KEY_BYTES = 32, STORE_DIGEST_BYTES = 32 };

enum store_kind {
    STORE_KIND_TURN_END,   /* after an answer */
    STORE_KIND_PROMPT_END, /* before the generation prompt of a turn */
};

struct store_config {
    struct pool *pool;                        /* outlives the store */
    size_t host_max_bytes;                    /* host tier, staging and what is set aside */
    const char *directory;                    /* of the state environment; NULL: no disk tier */
    uint64_t disk_max_bytes;                  /* everything in that directory */
    int promote_threads;                      /* that read a head; 0: the caller's alone */
    uint8_t state_digest[STORE_DIGEST_BYTES]; /* of what these heads depend on */
    const char *numerics_class;               /* of the device */
    int spills_eagerly;                       /* on every publish */
    uint32_t spill_idle_ms;                   /* else after so long; 0: only when evicted */
    uint64_t spill_lag_bytes;                 /* unwritten bytes at which publishing waits */
    uint32_t spill_lag_ms;                    /* age of the oldest unwritten head, likewise */
};

/* Opens the disk tier too. ERR_UNSUPPORTED for a directory of another format. */
MUST_USE enum err store_create(const struct store_config *config, struct store **out);

/*
 * Finds the memory now, in the pools and in host memory, that a request of TOKENS tokens and the
 * promotion of its head will use; else the first one waits while the system clears pages. For a
 * server that does not serve yet.
 */
void store_warm(struct store *store, int tokens);

/* Stops the threads; spills that have not begun are dropped (store_drain first to keep them). */
void store_destroy(struct store *store);

/* Waits until every published head is durable, at most TIMEOUT_MS. ERR_BUSY when time ran out. */
MUST_USE enum err store_drain(struct store *store, uint32_t timeout_ms);

/* --- making and publishing heads -------------------------------------------------------- */

struct store_head_params {
    struct sequence *sequence;
    struct device_stream *stream; /* that the sequence's steps ran on */
    int length;
    int32_t state_slot; /* see sequence_commit */
    enum store_kind kind;
    struct store_head *parent; /* what the sequence was attached from, or NULL; borrowed */
};

/* The caller owns *out until it publishes or releases it. ERR_FULL: no block or slot for it. */
MUST_USE enum err store_head_create(struct store *store, const struct store_head_params *params,
                                    struct store_head **out);

/* Gives up a head that was not published, or a pin of store_find. NULL is allowed. */
void store_head_release(struct store_head *head);

/* After attaching: the head need not be spared any more, and stays known as a parent until
 * store_head_forget, which takes the place of store_head_release. */
void store_head_unpin(struct store_head *head);
void store_head_forget(struct store_head *head);

struct store_publish {
    uint8_t key[STORE_KEY_BYTES];
    uint64_t turn;
    uint8_t chain_digest[STORE_DIGEST_BYTES]; /* of the first `length` token ids */
    /* Told once when the spill has committed (ERR_OK) or never will (the reason). May be NULL.
     * On a thread of the store; must not block. */
    void (*spilled)(void *context, enum err code);
    void *context;
    int must_spill; /* somebody waits for it: spilled now whatever the policy, never superseded */
};

/* Makes HEAD findable, takes it over, and queues its spill. Publishing what is already there is
 * a no-op. Prompt-end heads stay in memory: `spilled` is told ERR_OK at once. */
void store_publish(struct store *store, struct store_head *head,
                   const struct store_publish *publish);

/* Sends what has lain idle for spill_idle_ms on its way to disk; to be called every second. */
void store_spill_idle(struct store *store);

/* Blocks while more state is unwritten than the spill lag allows. */
void store_wait_for_lag(struct store *store);

/* --- finding and attaching --------------------------------------------------------------- */

/* A head that the ledger vouches for. */
struct store_candidate {
    enum store_kind kind;
    uint64_t turn;
    int length;
    uint8_t chain_digest[STORE_DIGEST_BYTES];
};

struct store_want {
    uint8_t key[STORE_KEY_BYTES];
    const struct store_candidate *candidates; /* best first */
    size_t candidate_count;
};

struct store_found {
    struct store_head *head; /* pinned: evicted last; NULL: a miss */
    size_t candidate;        /* which */
    enum tier tier;          /* where it was found */
    uint64_t bytes_read;     /* coded bytes from disk */
    double promote_ms;
    const char *reason; /* why no better candidate was taken; NULL: the first was. Static */
};

/* Never fails: what cannot be read or checked is a miss with its reason, and quarantined. */
void store_find(struct store *store, const struct store_want *want, struct store_found *out);

/* The newest turn, at most TURN_MAX, of which a turn-end head of KEY lies on disk; 0: none. */
uint64_t store_newest_on_disk(struct store *store, const uint8_t key[STORE_KEY_BYTES],
                              uint64_t turn_max);

/*
 * Puts SEQUENCE, empty so far, at the head's length. ERR_FULL: no block or slot, nothing taken.
 * ERR_BUSY: what runs needed the head's room in spite of its pin, and it is being read from disk
 * again; nothing taken, try again soon. ERR_NOT_FOUND: there is nothing to read it from.
 */
MUST_USE enum err store_attach(struct store *store, struct store_head *head,
                               struct sequence *sequence, struct device_stream *stream);
int store_head_length(const struct store_head *head);

/* Full blocks that attaching would share instead of taking: 0 unless HEAD lies on the device. */
int store_head_device_blocks(struct store_head *head);

/* --- room -------------------------------------------------------------------------------- */

/* Drops device copies of idle heads until so many blocks and slots are free: nonzero if they are.
 */
int store_reclaim(struct store *store, int blocks, int slots);

/* Drops every idle copy in memory that lies on disk too. */
void store_trim(struct store *store);

/* Host memory outside the tier, under the same cap (requests that are set aside). Evicts for it,
 * never waits. ERR_FULL also past half the cap: heads must be able to pass through the rest. */
MUST_USE enum err store_host_take(struct store *store, size_t bytes, void **out);
void store_host_give(struct store *store, void *memory, size_t bytes);

/* Removes every head of the conversation from every tier; returns when disk has none. */
MUST_USE enum err store_delete(struct store *store, const uint8_t key[STORE_KEY_BYTES]);

/* --- counters ---------------------------------------------------------------------------- */

struct store_counters {
    uint64_t heads_device;
    uint64_t heads_host;
    uint64_t host_bytes;
    uint64_t host_max_bytes;
    uint64_t disk_bytes;
    uint64_t disk_max_bytes;
    uint64_t spills_queued;
    uint64_t spills_done;
    uint64_t spills_dropped;
    uint64_t spills_failed;
    uint64_t spill_bytes;
    uint64_t lag_bytes; /* published, and not yet on disk though it is to be */
    uint64_t lag_ms;    /* age of the oldest of it */
    uint64_t found[4];  /* by enum store_tier; NONE counts misses */
    uint64_t quarantined;
    uint64_t evicted_device;
    uint64_t evicted_host;
    uint64_t evicted_disk;
};
void store_get_counters(struct store *store, struct store_counters *out);

#endif
