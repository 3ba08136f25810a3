/*
 * A spill job: one head and all that it needs, to be written to the disk tier. The caller lends
 * the raw bytes object by object through a callback, so that nothing is copied ahead of time and
 * only what the disk lacks is asked for.
 */
#ifndef TERN_STORE_SPILL_H
#define TERN_STORE_SPILL_H

#include "store/record.h"

/* One lineage of a head's line. Blocks [first_block, end_block) of the head lie under it; of
 * those, the job can deliver the ones from HELD_FROM on. */
struct spill_segment {
    uint64_t lineage;
    uint8_t conversation[RECORD_CONVERSATION_BYTES]; /* whose lineage it is */
    uint64_t first_block;
    uint64_t end_block;
    uint64_t held_from;
};

enum spill_outcome {
    SPILL_DURABLE,    /* on disk, synced; or it was there already */
    SPILL_SUPERSEDED, /* a newer head of the line took its place */
    SPILL_CANCELLED,  /* its conversation was deleted, or the tier was closed */
    SPILL_FAILED, /* ERR_FULL: no room under the cap; ERR_BUSY: a reader of another process holds
                   * back the free pages, try again later; ERR_CONFLICT: blocks are missing that
                   * the job can't deliver; else what fetch or the store reported */
};

enum spill_flags {
    SPILL_MUST_WRITE = 1,     /* never superseded: somebody waits for it */
    SPILL_REPLACES_NEWER = 2, /* stored heads of later turns belong to a line that was given up */
};

struct spill_job {
    /* All fields but tail_coded_bytes, state_coded_bytes, created_ms, used_ms and hits, which the
     * writer fills in. */
    struct record_head head;
    /* Root first; lineages ascend, each begins where the one before ends, the last is
     * head.lineage and ends at head.block_count. Borrowed until done. */
    const struct spill_segment *segments;
    size_t segment_count;
    unsigned flags;
    /*
     * Lends the raw bytes of an object, head.block_bytes or head.state_bytes long, until the next
     * fetch or done. Called on the writer's thread with no transaction open; it may wait for a
     * device copy. An object may be asked for twice.
     */
    enum err (*fetch)(void *context, const struct record_object_key *key, const void **bytes);
    /* Called once, without locks: on the writer's thread, or for a superseded or cancelled job on
     * the thread that superseded or cancelled it. MESSAGE is valid during the call. It must not
     * call the tier. */
    void (*done)(void *context, enum spill_outcome outcome, enum err code, const char *message);
    void *context;
};

/* "durable", "superseded", "cancelled", "failed". */
const char *spill_outcome_name(enum spill_outcome outcome);

/* ERR_INVALID, with a message that names what is wrong, if the job contradicts itself. */
MUST_USE enum err spill_check(const struct spill_job *job);

/* Raw bytes that the job may have to write. */
uint64_t spill_bytes_max(const struct spill_job *job);

/* True if NEWER, a later turn of the same line, carries all that OLDER would have written. */
int spill_supersedes(const struct spill_job *newer, const struct spill_job *older);

/* True if the two touch no common conversation and no common lineage. */
int spill_is_independent(const struct spill_job *left, const struct spill_job *right);

#endif
