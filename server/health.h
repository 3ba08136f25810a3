/*
 * GET /health and GET /metrics, from one snapshot each. Built on the status front.
 */
#ifndef TERN_SERVER_HEALTH_H
#define TERN_SERVER_HEALTH_H

#include "base/buf.h"
#include "server/server_snapshot.h"

/* The JSON body. *is_healthy: turns are served, so that the status is 200 and not 503. */
MUST_USE enum err health_body(const struct server_snapshot *snapshot, int is_draining,
                              const char *model, struct buf *out, int *is_healthy);

#endif
