#include "store/spill_queue.h"

#include "base/fault.h"

#include <stdlib.h>
#include <string.h>

struct spill_queue {
    struct spill_queue_config config;
    struct spill_node *nodes; /* jobs_max of them */
    struct spill_node *unused;
    struct spill_node *first;
    struct spill_node **end; /* where the next job is linked */
    size_t count;
    size_t handed_out;
    uint64_t bytes;
    uint64_t sequence;
};

enum err spill_queue_create(const struct spill_queue_config *config, struct spill_queue **out) {
    assert(config->jobs_max > 0);
    struct spill_queue *queue = fault_fails("spill_queue.alloc") ? NULL : calloc(1, sizeof *queue);
    if (queue != NULL) {
        queue->nodes = fault_fails("spill_queue.alloc")
                           ? NULL
                           : calloc(config->jobs_max, sizeof *queue->nodes);
    }
    if (queue == NULL || queue->nodes == NULL) {
        free(queue);
        return err_fail(ERR_NOMEM, "spill: no memory for a queue of %zu jobs", config->jobs_max);
    }
    queue->config = *config;
    queue->end = &queue->first;
    for (size_t i = 0; i < config->jobs_max; i++) {
        queue->nodes[i].next = queue->unused;
        queue->unused = &queue->nodes[i];
    }
    *out = queue;
    return ERR_OK;
}

void spill_queue_destroy(struct spill_queue *queue) {
    if (queue != NULL) {
        assert(queue->count == 0 && queue->handed_out == 0);
        free(queue->nodes);
        free(queue);
    }
}

/* Takes the node at *LINK out of the queue. */
static struct spill_node *unlink_at(struct spill_queue *queue, struct spill_node **link) {
    struct spill_node *node = *link;
    *link = node->next;
    if (node->next == NULL) {
        queue->end = link;
    }
    node->next = NULL;
    queue->count--;
    queue->handed_out++;
    queue->bytes -= spill_bytes_max(&node->job);
    return node;
}

enum err spill_queue_push(struct spill_queue *queue, const struct spill_job *job, uint64_t now_ms,
                          struct spill_node **superseded_out) {
    struct spill_node *superseded = NULL;
    struct spill_node **place = NULL;
    struct spill_node **link = &queue->first;
    while (*link != NULL) {
        if (spill_supersedes(job, &(*link)->job)) {
            struct spill_node *node = unlink_at(queue, link);
            node->next = superseded;
            superseded = node;
            place = place != NULL ? place : link;
        } else {
            if (memcmp((*link)->job.head.key.conversation, job->head.key.conversation,
                       RECORD_CONVERSATION_BYTES) == 0) {
                place = NULL;
            }
            link = &(*link)->next;
        }
    }
    *superseded_out = superseded;
    uint64_t bytes = spill_bytes_max(job);
    if (queue->unused == NULL) {
        return err_fail(ERR_FULL, "spill: %zu jobs wait already", queue->config.jobs_max);
    }
    if (queue->count > 0 &&
        (bytes > queue->config.bytes_max || queue->bytes > queue->config.bytes_max - bytes)) {
        return err_fail(ERR_FULL, "spill: %llu bytes wait already, %llu more pass the limit",
                        (unsigned long long)queue->bytes, (unsigned long long)bytes);
    }
    struct spill_node *node = queue->unused;
    queue->unused = node->next;
    *node = (struct spill_node){.job = *job, .queued_ms = now_ms, .sequence = ++queue->sequence};
    /* In the place of what it supersedes, so that forks queued behind that still find its blocks,
     * but never in front of another job of its conversation. */
    place = place != NULL ? place : queue->end;
    node->next = *place;
    *place = node;
    if (node->next == NULL) {
        queue->end = &node->next;
    }
    queue->count++;
    queue->bytes += bytes;
    return ERR_OK;
}

/* True if a job that stays in the queue before NODE, or one already taken, depends on it. */
static int can_join(const struct spill_node *taken, const struct spill_node *first,
                    const struct spill_node *node) {
    for (const struct spill_node *other = taken; other != NULL; other = other->next) {
        if (!spill_is_independent(&other->job, &node->job)) {
            return 0;
        }
    }
    for (const struct spill_node *other = first; other != node; other = other->next) {
        if (!spill_is_independent(&other->job, &node->job)) {
            return 0;
        }
    }
    return 1;
}

struct spill_node *spill_queue_take(struct spill_queue *queue, uint64_t bytes_max,
                                    size_t count_max) {
    if (queue->first == NULL) {
        return NULL;
    }
    uint64_t bytes = spill_bytes_max(&queue->first->job);
    struct spill_node *taken = unlink_at(queue, &queue->first);
    struct spill_node **end = &taken->next;
    size_t count = 1;
    struct spill_node **link = &queue->first;
    while (*link != NULL && count < count_max) {
        uint64_t more = spill_bytes_max(&(*link)->job);
        if (bytes < bytes_max && more <= bytes_max - bytes &&
            can_join(taken, queue->first, *link)) {
            *end = unlink_at(queue, link);
            end = &(*end)->next;
            bytes += more;
            count++;
        } else {
            link = &(*link)->next;
        }
    }
    return taken;
}

struct spill_node *spill_queue_withdraw(struct spill_queue *queue, const uint8_t *conversation,
                                        unsigned spared) {
    struct spill_node *taken = NULL;
    struct spill_node **link = &queue->first;
    while (*link != NULL) {
        const struct spill_job *job = &(*link)->job;
        int is_meant = conversation == NULL || memcmp(job->head.key.conversation, conversation,
                                                      RECORD_CONVERSATION_BYTES) == 0;
        if (is_meant && (job->flags & spared) == 0) {
            struct spill_node *node = unlink_at(queue, link);
            node->next = taken;
            taken = node;
        } else {
            link = &(*link)->next;
        }
    }
    return taken;
}

void spill_queue_release(struct spill_queue *queue, struct spill_node *node) {
    assert(queue->handed_out > 0);
    queue->handed_out--;
    node->next = queue->unused;
    queue->unused = node;
}

size_t spill_queue_count(const struct spill_queue *queue) {
    return queue->count;
}

uint64_t spill_queue_bytes(const struct spill_queue *queue) {
    return queue->bytes;
}

uint64_t spill_queue_sequence(const struct spill_queue *queue) {
    return queue->sequence;
}

int spill_queue_is_open(const struct spill_queue *queue, uint64_t sequence) {
    /* What was taken out is not told apart: at worst the answer is true for a moment too long. */
    int is_open = queue->handed_out > 0;
    for (const struct spill_node *node = queue->first; node != NULL; node = node->next) {
        is_open |= node->sequence <= sequence;
    }
    return is_open;
}

uint64_t spill_queue_oldest_ms(const struct spill_queue *queue) {
    return queue->first != NULL ? queue->first->queued_ms : 0;
}
