/*
 * Which requests run, and what each step holds: admission, decode steps of all,
 * prefill chunks between them, setting aside, and ends. Everything here is the
 * engine thread's. Internal to engine/.
 */
#ifndef TERN_ENGINE_SCHEDULER_H
#define TERN_ENGINE_SCHEDULER_H

#include "engine/request.h"

struct scheduler;

MUST_USE enum err scheduler_create(const struct engine_config *config, struct scheduler **out);

/* Every request must have ended. */
void scheduler_destroy(struct scheduler *scheduler);

/* Takes over the engine's reference. The request runs when its turn comes. */
void scheduler_add(struct scheduler *scheduler, struct engine_request *request);

enum scheduler_progress {
    SCHEDULER_IDLE,    /* no request is left */
    SCHEDULER_BLOCKED, /* requests wait for room that others or spills must free: try again soon */
    SCHEDULER_RAN,     /* a step has run */
};

/* Ends what was cancelled, admits what fits, runs one step, tells what came of it. */
enum scheduler_progress scheduler_step(struct scheduler *scheduler);

/* Ends every request with CODE. */
void scheduler_end_all(struct scheduler *scheduler, enum err code);

/* Adds the scheduler's part; any thread. */
void scheduler_get_counters(struct scheduler *scheduler, struct engine_counters *out);

#endif
