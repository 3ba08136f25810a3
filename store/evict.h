/*
 * Which heads to give up first: a pure choice over numbers. Heads stay that save the most
 * recomputation per byte; recency and use count weigh in. Knows no store and no clock.
 */
#ifndef TERN_STORE_EVICT_H
#define TERN_STORE_EVICT_H

#include "base/object.h"

struct evict_candidate {
    uint64_t tokens; /* that would have to be run again */
    uint64_t bytes;  /* that its going would free */
    uint64_t age_ms; /* since it was last used */
    uint64_t hits;
    int is_superseded; /* a newer head of the same line is there */
    int is_expired;
    int is_pinned; /* never chosen */
};

/* What keeping it is worth; below 0 for what goes before everything else, infinite if pinned. */
double evict_worth(const struct evict_candidate *candidate);

/* The COUNT least worthy of what was offered, kept in the caller's arrays. */
struct evict_choice {
    double *worths; /* COUNT_MAX long, borrowed; worths[i] belongs to the caller's item i */
    size_t count;
    size_t count_max;
};

/* The index at which the caller stores the offered item, replacing what it held; count_max if the
 * item is to stay. */
size_t evict_offer(struct evict_choice *choice, double worth);

#endif
