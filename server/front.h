/*
 * Front threads: a pool for work that may block or take a while and must not run
 * on the loop or the engine thread (JSON, templates, tokenizing, lookups, commits).
 * Jobs begin in the order of their submission, owned ones before the others. Any thread
 * submits, a job too.
 */
#ifndef TERN_SERVER_FRONT_H
#define TERN_SERVER_FRONT_H

#include "base/err.h"

struct front;

/* A job inside its owner, who keeps it until it has begun. */
struct front_job {
    void (*run)(void *context);
    void *context;
    struct front_job *next; /* the front's */
};

/* At most QUEUE_MAX jobs of front_submit wait. */
MUST_USE enum err front_create(int threads, int queue_max, struct front **out);

/* Runs what waits, jobs that these submit too, and joins the threads. NULL is allowed. */
void front_destroy(struct front *front);

/* ERR_FULL: the queue is; ERR_NOMEM. On failure RUN is never called, otherwise once. */
MUST_USE enum err front_submit(struct front *front, void (*run)(void *context), void *context);

/*
 * For work that has begun and must end, such as a commit: allocates nothing and is never refused,
 * so its owners are to be bounded elsewhere. Goes before all that front_submit has queued.
 */
void front_submit_owned(struct front *front, struct front_job *job);

/* Jobs that wait. */
int front_queued(struct front *front);

#endif
