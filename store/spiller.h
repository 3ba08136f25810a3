/*
 * Writes spill jobs to the state environment: finds out what is missing, fetches and encodes it
 * outside of any transaction, writes it in steps of at most SPILLER_STEP_BYTES, and makes the
 * heads visible in the last step. One thread, the environment's writer.
 */
#ifndef TERN_STORE_SPILLER_H
#define TERN_STORE_SPILLER_H

#include "store/spill.h"
#include "store/state_env.h"

enum {
    SPILLER_STEP_BYTES = 8 * 1024 * 1024, /* of runs in one transaction */
    SPILLER_GROUP_MAX = 16,               /* jobs in one transaction */
    SPILLER_MESSAGE_BYTES = 256,
    SPILLER_HEADS_KEPT = 2, /* of one line: n, and n-1 until n+1 is there */
};

struct spiller;

/* OBJECT_BYTES_MAX is the largest block or state that a job may have. */
MUST_USE enum err spiller_create(struct state_env *env, size_t object_bytes_max,
                                 struct spiller **out);
void spiller_destroy(struct spiller *spiller);
size_t spiller_memory_bytes(const struct spiller *spiller);

/* One job of a group on its way. The caller zeroes it, sets job, and calls spiller_task_done. */
struct spiller_task {
    const struct spill_job *job;
    int is_finished; /* outcome, code and message are final */
    enum spill_outcome outcome;
    enum err code;
    char message[SPILLER_MESSAGE_BYTES];
    uint64_t pages_max;      /* that writing it can take */
    struct record_head head; /* with what the writer fills in */
    uint64_t *write_from;    /* per segment: blocks below it are on disk; owned */
    uint64_t *stored_bytes;  /* per segment: written by this task; owned */
};
void spiller_task_done(struct spiller_task *task);
void spiller_task_fail(struct spiller_task *task, enum err code);

/*
 * Compares the job with what lies on disk. Finishes it if nothing is to be written: the same head
 * is there (durable), two newer ones are (superseded), or it can't be written (failed). May be
 * called again when the environment has changed.
 */
void spiller_plan(struct spiller *spiller, struct spiller_task *task);

/*
 * Writes the unfinished tasks, which are planned and independent of each other, as one group.
 * ERR_OK: all are durable, and finished. Else none of their heads is visible, the tasks stay
 * unfinished, old heads are as they were, and what was written is listed as garbage.
 */
MUST_USE enum err spiller_write(struct spiller *spiller, struct spiller_task *tasks, size_t count);

/* Coded bytes written since it was created, with the padding of runs. */
uint64_t spiller_bytes(const struct spiller *spiller);

#endif
