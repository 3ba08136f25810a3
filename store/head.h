/*
 * A head inside the store: what it is, where its bytes lie, who holds it, and its
 * place in the index. Internal to store/.
 *
 * Every field is covered by the store's lock, except that `device` and `ready`
 * never change while device_users is above zero, and the bytes of `host` never
 * change once it is set.
 */
#ifndef TERN_STORE_HEAD_H
#define TERN_STORE_HEAD_H

#include "store/host_image.h"
#include "store/lineage.h"
#include "store/store.h"

#include <sys/queue.h>

struct store_head {
    struct store *store;
    int references; /* the index's, one for each holder, one for the mover */
    int pins;       /* of those, holders outside the store */

    enum store_kind kind;
    int length;
    uint8_t key[STORE_KEY_BYTES];
    uint64_t turn;
    uint8_t chain_digest[STORE_DIGEST_BYTES];
    struct lineage *lineage;   /* from publication on */
    struct store_head *parent; /* a reference, until the host copy is made or given up */

    int is_on_device;
    int device_users; /* copies in flight that read `device`: it must stay */
    struct sequence_head device;
    struct device_event *ready; /* fires when the copies that made `device` have run */
    struct host_image *host;    /* or NULL */
    int is_durable;             /* on disk, as far as is known */

    int is_linked; /* in the index */
    int is_deleted;
    int is_moving; /* in the mover's hands, or in its queue */
    int wants_disk;
    int wants_memory; /* durable and pinned, and gone from memory: to be read again */
    int must_spill;
    int is_immovable; /* host memory had no room for it, and waiting did not help */
    int is_lost;      /* it could not be read again */
    int is_stripped;  /* superseded: what is left of it in memory are blocks for its children */
    uint64_t published_ms;
    void (*spilled)(void *context, enum err code);
    void *spilled_context;

    TAILQ_ENTRY(store_head) recency; /* of all linked heads, least recently used first */
    STAILQ_ENTRY(store_head) queue;  /* of the mover */
    TAILQ_ENTRY(store_head) writing; /* of heads on their way to disk */
    int is_unwritten;                /* in that list */
    uint64_t unwritten_bytes;        /* that it counts for there */
    struct store_head *next_of_key;  /* index chain */
    struct store_head *next_doomed;
};

TAILQ_HEAD(head_recency, store_head);
STAILQ_HEAD(head_queue, store_head);

static inline int head_full_blocks(const struct layout *layout, const struct store_head *head) {
    return layout->kv_count > 0 ? head->length / layout->block_size : 0;
}

/* --- the index ---------------------------------------------------------------------------- */

/* All heads in memory by key. Keys are keyed hashes, so their first bytes are hash enough. */
struct head_index {
    struct store_head **buckets;
    size_t bucket_count; /* a power of two */
    size_t count;
    struct head_recency recency;
};

MUST_USE enum err head_index_init(struct head_index *index);
void head_index_done(struct head_index *index); /* must be empty */

/* Takes over a reference. Growing the table may fail: it stays as it is, and serves. */
void head_index_link(struct head_index *index, struct store_head *head);

/* The caller gets the index's reference. */
void head_index_unlink(struct head_index *index, struct store_head *head);

/* The first linked head of KEY, and the next one behind HEAD. */
struct store_head *head_index_first(const struct head_index *index, const uint8_t *key);
struct store_head *head_index_next(const struct store_head *head);
void head_index_touch(struct head_index *index, struct store_head *head);

#endif
