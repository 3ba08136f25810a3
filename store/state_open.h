/*
 * Brings a state directory into the condition in which the tier uses it: directory and files
 * with their modes, a format this build knows, everything under the cap, a range of lineage ids
 * that no earlier run has used. Runs before any other thread.
 */
#ifndef TERN_STORE_STATE_OPEN_H
#define TERN_STORE_STATE_OPEN_H

#include "store/state_env.h"

struct state_open_config {
    const char *dir;
    uint64_t bytes_max; /* of all files in dir */
};

struct state_open_result {
    uint64_t lineage_first; /* this run's ids: at least 2^32 from here on */
    uint64_t largest_pages; /* of tail and state of the largest head that is there */
    uint64_t heads_evicted; /* to meet the cap */
    int is_fresh;           /* nothing was there */
    int is_begun_anew;      /* what was there did not fit under the cap */
};

MUST_USE enum err state_open(const struct state_open_config *config,
                             struct state_open_result *result, struct state_env **out);

/* Puts what lies in DIR out of the way, for an environment that can't be walked: the data file is
 * renamed to data.mdb.aside, in place of an older one. state_open counts it under the cap, and
 * removes it when it takes more than half. Nothing there is ERR_OK. */
MUST_USE enum err state_open_set_aside(const char *dir);

#endif
