/*
 * How much of a head lies on disk, counted from the headers of its objects without decoding them:
 * for tools that list heads. Reads in transactions of at most STATE_WALK_RENEW_MS each.
 */
#ifndef TERN_STORE_HEAD_CENSUS_H
#define TERN_STORE_HEAD_CENSUS_H

#include "store/coded_object.h"
#include "store/head_plan.h"

struct head_census {
    uint64_t objects;         /* that the head needs: blocks, tail, state */
    uint64_t objects_missing; /* of those, not there or with a header that is refused */
    uint64_t raw_bytes;       /* of those that are there, as all below */
    uint64_t coded_bytes;
    uint64_t stored_bytes; /* with the padding of runs */
};

MUST_USE enum err head_census_count(struct state_env *env, const struct head_plan *plan,
                                    struct head_census *out);

#endif
