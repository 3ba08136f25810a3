/*
 * Which path does what: the HTTP layer's handler. Finds the route, checks method and
 * API key before a body is read, and hands the request to its place. On the loop thread;
 * what may block goes to fronts.
 */
#ifndef TERN_SERVER_ROUTES_H
#define TERN_SERVER_ROUTES_H

#include "server/api_keys.h"
#include "server/front.h"
#include "server/http.h"
#include "server/metrics.h"
#include "server/turn.h"

struct routes;

struct routes_params {
    struct turn_service *service;
    struct front *front;         /* for requests */
    struct front *status_front;  /* for /health and /metrics, which answer while `front` is busy */
    const struct api_keys *keys; /* NULL: everybody is the tenant "" */
    const char *model;           /* its name in responses; copied */
    int context;                 /* of the model, in tokens; 0: not said */
    size_t text_max;             /* bytes of an unstreamed answer */
    void (*snapshot)(void *context, struct server_snapshot *out);
    void *snapshot_context;
};

MUST_USE enum err routes_create(const struct routes_params *params, struct routes **out);

/* After the fronts have ended and the last turn has told its sink. NULL is allowed. */
void routes_destroy(struct routes *routes);

struct http_handler routes_handler(struct routes *routes);

/* Before the first request. For the gauges of /metrics. */
void routes_set_http(struct routes *routes, const struct http *http);

/* Turns are refused with 503 from now on, and /health says so. */
void routes_drain(struct routes *routes);

#endif
