/*
 * What the server tells about all below it in one moment, for /health and /metrics. A
 * callback fills it on a thread of the server's own, one call at a time; it may take
 * locks, but must not wait for I/O. Zero where a figure does not exist.
 */
#ifndef TERN_SERVER_SERVER_SNAPSHOT_H
#define TERN_SERVER_SERVER_SNAPSHOT_H

#include "base/histogram.h"

#include <stdint.h>

enum { SERVER_SNAPSHOT_REASONS = 8, SERVER_SNAPSHOT_REASON_BYTES = 160 };

enum server_snapshot_tier {
    SERVER_SNAPSHOT_DEVICE,
    SERVER_SNAPSHOT_HOST,
    SERVER_SNAPSHOT_DISK,
    SERVER_SNAPSHOT_TIERS,
};

/* Counters count from the start of the process; the rest is of this moment. */
struct server_snapshot_level {
    uint64_t used_bytes;
    uint64_t max_bytes;
    uint64_t heads;
    uint64_t tokens_reused; /* counter: tokens attached from this tier */
    uint64_t attached;      /* counter: heads attached from it */
    uint64_t evictions;     /* counter */
};

struct server_snapshot {
    int is_serving; /* turns are served; if not, reasons say why */
    int reason_count;
    char reasons[SERVER_SNAPSHOT_REASONS][SERVER_SNAPSHOT_REASON_BYTES]; /* warnings too */

    /* engine */
    uint64_t tokens_run;       /* counter: rows that went through the model */
    uint64_t tokens_generated; /* counter */
    uint64_t steps;            /* counter */
    uint64_t set_aside;        /* counter */
    int queued;
    int running;

    /* turns */
    uint64_t turns_committed; /* counters */
    uint64_t turns_failed;
    uint64_t turns_cancelled;
    struct histogram turn_commit_seconds; /* from the last token to the ledger's answer */
    uint64_t misses;                      /* of the lookup, first turns apart */
    uint64_t rebuilds;                    /* from token ids */
    int leases;

    /* store */
    struct server_snapshot_level tiers[SERVER_SNAPSHOT_TIERS];
    uint64_t spills; /* counters */
    uint64_t spills_dropped;
    uint64_t spills_refused;
    uint64_t spill_bytes;
    uint64_t quarantined;
    uint64_t spill_lag_bytes; /* committed, but not yet on disk */
    uint64_t spill_lag_ms;    /* age of the oldest of it */

    /* ledger */
    uint64_t ledger_used_bytes;
    uint64_t ledger_max_bytes;
    uint64_t ledger_commits; /* counters: turns, and the transactions that they shared */
    uint64_t ledger_groups;
    struct histogram ledger_commit_seconds; /* of a transaction */
    uint64_t conversations;
};

#endif
