/*
 * The bounded queue of spill jobs that wait for the writer. A plain data structure: whoever shares
 * it between threads holds a lock of its own around every call. Never calls a job's callbacks.
 */
#ifndef TERN_STORE_SPILL_QUEUE_H
#define TERN_STORE_SPILL_QUEUE_H

#include "store/spill.h"

struct spill_queue;

struct spill_node {
    struct spill_node *next;
    struct spill_job job;
    uint64_t queued_ms;
    uint64_t sequence; /* rises with each push */
};

struct spill_queue_config {
    size_t jobs_max;
    uint64_t bytes_max; /* raw bytes of all jobs; one that is larger still enters an empty queue */
};

MUST_USE enum err spill_queue_create(const struct spill_queue_config *config,
                                     struct spill_queue **out);
void spill_queue_destroy(struct spill_queue *queue); /* must be empty: asserted */

/*
 * Appends a copy of *job. Jobs that it supersedes are taken out first and handed back as a list in
 * *superseded_out (NULL if none), also when the result is ERR_FULL; the caller gives each back
 * with spill_queue_release.
 */
MUST_USE enum err spill_queue_push(struct spill_queue *queue, const struct spill_job *job,
                                   uint64_t now_ms, struct spill_node **superseded_out);

/* Takes the first job and those behind it that can share its transaction: independent of all jobs
 * before them, at most BYTES_MAX together. NULL if the queue is empty. */
struct spill_node *spill_queue_take(struct spill_queue *queue, uint64_t bytes_max,
                                    size_t count_max);

/* Takes out all jobs of a conversation (of any, if CONVERSATION is NULL) that have none of the
 * flags SPARED. */
struct spill_node *spill_queue_withdraw(struct spill_queue *queue, const uint8_t *conversation,
                                        unsigned spared);

void spill_queue_release(struct spill_queue *queue, struct spill_node *node);

size_t spill_queue_count(const struct spill_queue *queue);
uint64_t spill_queue_bytes(const struct spill_queue *queue);

/* The sequence number of the job that was pushed last; 0 before the first. */
uint64_t spill_queue_sequence(const struct spill_queue *queue);

/* True if a job with at most this sequence number waits, or was taken out and not yet released. */
int spill_queue_is_open(const struct spill_queue *queue, uint64_t sequence);

/* When the oldest waiting job was queued; 0 if none waits. */
uint64_t spill_queue_oldest_ms(const struct spill_queue *queue);

#endif
