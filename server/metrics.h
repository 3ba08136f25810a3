/*
 * Prometheus' text format (0.0.4): the HTTP layer's own counters, and a snapshot of the
 * rest. The loop thread counts; whoever renders gets a copy.
 */
#ifndef TERN_SERVER_METRICS_H
#define TERN_SERVER_METRICS_H

#include "base/buf.h"
#include "base/histogram.h"
#include "server/server_snapshot.h"

enum { METRICS_ROUTES_MAX = 8, METRICS_CODES_MAX = 24 };

struct metrics_code {
    int code; /* 0: free */
    uint64_t counts[METRICS_ROUTES_MAX];
};

struct metrics {
    struct metrics_code codes[METRICS_CODES_MAX];
    struct histogram request_seconds; /* chat completions, from head to last byte */
    struct histogram first_text_seconds;
    uint64_t clients_gone; /* before their answer was whole */
    int connections;
    int busy;
};

void metrics_count_request(struct metrics *metrics, int route, int code);

/* ROUTE_NAMES has METRICS_ROUTES_MAX entries, NULL for those that are not used. */
MUST_USE enum err metrics_render(const struct metrics *metrics, const char *const *route_names,
                                 const struct server_snapshot *snapshot, struct buf *out);

#endif
