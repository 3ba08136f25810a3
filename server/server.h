/*
 * The server: listener, loop, fronts and routes over one turn service. Made, run and
 * destroyed by one thread, which is the loop thread while server_run lasts.
 *
 * Order of life: turn service, server_create, server_run; when it has returned nothing is
 * submitted any more; then the service ends its turns, which may still tell their sinks;
 * then server_destroy.
 */
#ifndef TERN_SERVER_SERVER_H
#define TERN_SERVER_SERVER_H

#include "server/http.h"
#include "server/server_snapshot.h"
#include "server/turn.h"

struct server;

struct server_callbacks {
    /* Fills a zeroed snapshot; see server_snapshot.h. */
    void (*snapshot)(void *context, struct server_snapshot *out);
    void *context;
};

struct server_params {
    const char *host;
    int port;                  /* 0: any that is free */
    const char *api_keys_path; /* NULL: no authentication */
    const char *model;         /* its name in responses; copied */
    int context; /* tokens of a request at most, as /v1/models tells it; 0: not told */
    int front_threads;
    int queue_max;       /* requests that wait for a front thread; one more is 429 */
    int drain_seconds;   /* what running turns get after server_drain */
    int handles_signals; /* the first SIGTERM or SIGINT drains, the second stops at once */
    struct http_limits limits;
};

/* Listens already, but answers nothing before server_run. SERVICE outlives server_run. */
MUST_USE enum err server_create(const struct server_params *params, struct turn_service *service,
                                const struct server_callbacks *callbacks, struct server **out);

/* NULL is allowed. */
void server_destroy(struct server *server);

int server_port(const struct server *server);

/* Serves until drained: ERR_OK, or ERR_BUSY if turns were cancelled when drain_seconds were over.
 * ERR_CANCELLED: a second call of server_drain, or a second signal, stopped it at once. */
MUST_USE enum err server_run(struct server *server);

/*
 * Any thread, and signal handlers: no new turns (503, /health too), running ones finish for at most
 * drain_seconds, then are cancelled; server_run returns. A second call stops at once.
 */
void server_drain(struct server *server);

#endif
