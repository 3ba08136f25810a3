/*
 * What the disk tier's writer thread does with one piece of work: a group of spill jobs with room
 * made before, a removal, a batch of recency notes, a step of background collection. No threads
 * and no locks of its own; only the writer calls it.
 */
#ifndef TERN_STORE_DISK_WRITER_H
#define TERN_STORE_DISK_WRITER_H

#include "store/coded_object.h"
#include "store/spiller.h"

struct disk_writer;

struct disk_writer_config {
    struct state_env *env; /* outlives the writer */
    size_t object_bytes_max;
    uint64_t largest_pages; /* of the largest head that is there */
};

MUST_USE enum err disk_writer_create(const struct disk_writer_config *config,
                                     struct disk_writer **out);
void disk_writer_destroy(struct disk_writer *writer);
size_t disk_writer_memory_bytes(const struct disk_writer *writer);

/* Brings every task to its end: as one group, and if that fails one by one. */
void disk_writer_spill(struct disk_writer *writer, struct spiller_task *tasks, size_t count);

struct disk_writer_counts {
    uint64_t evictions;
    uint64_t spill_bytes;
};
void disk_writer_counts(const struct disk_writer *writer, struct disk_writer_counts *out);

/* Each in transactions of its own; gone already is ERR_OK. */
MUST_USE enum err disk_writer_remove_head(struct disk_writer *writer,
                                          const struct record_head_key *key);
MUST_USE enum err disk_writer_remove_conversation(struct disk_writer *writer,
                                                  const uint8_t *conversation);
MUST_USE enum err disk_writer_quarantine(struct disk_writer *writer,
                                         const struct record_head_key *head,
                                         const struct record_quarantine *quarantine);
MUST_USE enum err disk_writer_evict(struct disk_writer *writer, uint64_t bytes,
                                    uint64_t *heads_evicted_out);

struct disk_writer_touch {
    struct record_head_key key;
    uint64_t used_ms;
    uint64_t hits;
};

/* Writes recency and use counts of heads that are still there. */
MUST_USE enum err disk_writer_touch(struct disk_writer *writer,
                                    const struct disk_writer_touch *touches, size_t count);

/* One step of collection; *is_done_out: no garbage is left. */
MUST_USE enum err disk_writer_collect(struct disk_writer *writer, int *is_done_out);

#endif
