/*
 * Keeps free pages ahead in the state environment: collects garbage and evicts heads, in
 * transactions of their own, before a spill needs the pages. Called by the environment's writer.
 */
#ifndef TERN_STORE_ROOM_H
#define TERN_STORE_ROOM_H

#include "store/spill.h"
#include "store/state_env.h"

enum { ROOM_STEP_BYTES = 64 * 1024 * 1024 }; /* freed in one transaction, about */

struct room_request {
    uint64_t pages;         /* that the coming transactions take */
    uint64_t largest_pages; /* of the largest spill so far: twice as much is kept in reserve */
    /* Heads that must stay: those of these jobs' conversations and lineages. May be NULL. */
    const struct spill_job *const *jobs;
    size_t job_count;
};

struct room_result {
    uint64_t heads_evicted;
    uint64_t freed_bytes;
};

/*
 * Returns ERR_OK once REQUEST's pages and the reserve are free, or the pages and the smallest
 * reserve when nothing is left to evict. ERR_FULL if that can't be, ERR_BUSY with the process id if
 * a reader holds back the pages that are free. *result counts what was done, also on failure.
 */
MUST_USE enum err room_make(struct state_env *env, const struct room_request *request,
                            struct room_result *result);

/* Evicts until at most PAGES are in use, ready or not; for a cap that was lowered. ERR_FULL if
 * nothing is left to evict. */
MUST_USE enum err room_shrink(struct state_env *env, uint64_t pages, struct room_result *result);

/* What room_make would evict next, for inspection: calls VISIT from the least worthy up, at most
 * MAX times. */
enum { ROOM_VICTIMS_MAX = 32 };
MUST_USE enum err room_preview(struct state_env *env,
                               void (*visit)(void *context, const struct record_head *head,
                                             double worth),
                               void *context);

#endif
