/*
 * The HTTP/1.1 server: a listener and its connections, all on one loop thread.
 * A request goes to the handler when it is whole; its answer may come from any
 * thread (http_exchange.h). Knows nothing of JSON or of what paths mean.
 *
 * A client that goes away, and one that closes only its sending half, is noticed at
 * once, whatever its request is doing: the exchange's watch is told. Requests of
 * one connection are served one after the other, in their order.
 *
 * All functions are the loop thread's.
 */
#ifndef TERN_SERVER_HTTP_H
#define TERN_SERVER_HTTP_H

#include "server/http_exchange.h"

struct event_base;
struct http;

struct http_limits {
    int connections_max;
    size_t body_max;   /* of one request: 413 */
    size_t bodies_max; /* of all that was received and is held: 503 */
    size_t output_max; /* of a stream that its client does not read: the connection is closed */
    int head_ms;       /* from a request's first byte to the end of its head: 408 */
    int body_ms;       /* without a byte of an unfinished body: 408 */
    int idle_ms;       /* without a request: closed */
    int stall_ms;      /* without progress of output: closed */
    int linger_ms;     /* how long the rest of a refused request is read over */
    int comment_ms;    /* after so long without output a stream gets a comment */
};

struct http_limits http_limits_default(void);

struct http_handler {
    /* The head is there, the body not yet. 1: answered already, the body is not wanted. */
    int (*screen)(void *context, struct http_exchange *exchange);
    /* The request is whole. Answers at once or later. */
    void (*handle)(void *context, struct http_exchange *exchange);
    /* The request is broken: answers with STATUS and MESSAGE. Its parts may be missing. */
    void (*refuse)(void *context, struct http_exchange *exchange, int status, const char *message);
    /* The exchange is over: the answer has left, or the client is gone. */
    void (*finished)(void *context, struct http_exchange *exchange, int is_gone);
    void *context;
};

/* Port 0: any that is free. ERR_IO names address and cause. */
MUST_USE enum err http_create(struct event_base *base, const char *host, int port,
                              const struct http_limits *limits, const struct http_handler *handler,
                              struct http **out);

/* Drops every connection. NULL is allowed. Answers that come later are dropped safely. */
void http_destroy(struct http *http);

int http_port(const struct http *http);

/* From now on answers close their connections, and idle connections are closed. */
void http_drain(struct http *http);

/* Asks the watch of every exchange that waits for its answer to stop. */
void http_stop_all(struct http *http);

int http_busy_count(const struct http *http);       /* exchanges without a whole answer */
int http_connection_count(const struct http *http); /* open connections */

#endif
