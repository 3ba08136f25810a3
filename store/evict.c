#include "store/evict.h"

#include <math.h>

/* After this long without use a head is worth half. */
static const double HALVING_MS = 24.0 * 3600.0 * 1000.0;
enum { HITS_COUNTED_MAX = 15 };

double evict_worth(const struct evict_candidate *candidate) {
    if (candidate->is_pinned) {
        return INFINITY;
    }
    if (candidate->is_expired) {
        return -1.0;
    }
    double hits = candidate->hits < HITS_COUNTED_MAX ? (double)candidate->hits : HITS_COUNTED_MAX;
    double saved = (double)candidate->tokens * (1.0 + hits);
    double cost = (double)candidate->bytes + 1.0;
    double worth = saved / cost / (1.0 + (double)candidate->age_ms / HALVING_MS);
    /* It saves only the tokens between a rewind and the newer head, and rewinds are rare. */
    return candidate->is_superseded ? worth / 64.0 : worth;
}

size_t evict_offer(struct evict_choice *choice, double worth) {
    if (choice->count_max == 0 || isinf(worth)) {
        return choice->count_max;
    }
    if (choice->count < choice->count_max) {
        choice->worths[choice->count] = worth;
        return choice->count++;
    }
    size_t most = 0;
    for (size_t i = 1; i < choice->count; i++) {
        if (choice->worths[i] > choice->worths[most]) {
            most = i;
        }
    }
    if (worth >= choice->worths[most]) {
        return choice->count_max;
    }
    choice->worths[most] = worth;
    return most;
}
