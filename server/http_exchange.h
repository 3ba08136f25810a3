/*
 * One request and its answer. The request is read-only; the answer is given once,
 * whole or as a stream, by any one thread at a time, and leaves on the loop thread.
 *
 * Answering never blocks and never fails for the caller: bytes go into a bounded
 * buffer, and the loop is told through its mailbox. When the client has gone, or
 * reads so slowly that the buffer would pass its bound, they are dropped, and the
 * watch says that it is over.
 *
 * Counted references; a connection holds one while the exchange is its present one.
 */
#ifndef TERN_SERVER_HTTP_EXCHANGE_H
#define TERN_SERVER_HTTP_EXCHANGE_H

#include "server/http_request.h"
#include "server/mailbox.h"

#include <pthread.h>
#include <stdatomic.h>

struct http_exchange;

void http_exchange_acquire(struct http_exchange *exchange);
void http_exchange_release(struct http_exchange *exchange);

const struct http_request *http_exchange_request(const struct http_exchange *exchange);

/* "req_..." of this exchange, for logs and the header x-request-id. */
const char *http_exchange_id(const struct http_exchange *exchange);

/* --- the answer ------------------------------------------------------------------------- */

struct http_head {
    int status;
    const char *content_type;
    const struct http_field *fields; /* further ones; names and values are trusted */
    size_t field_count;
};

/* A whole answer. */
void http_exchange_respond(struct http_exchange *exchange, const struct http_head *head,
                           const void *body, size_t len);

/*
 * A stream: begin, any number of writes, end. While it stands open and has nothing to send, the
 * loop writes comments as server-sent events have them.
 */
void http_exchange_begin(struct http_exchange *exchange, const struct http_head *head);
void http_exchange_write(struct http_exchange *exchange, const void *bytes, size_t len);
void http_exchange_end(struct http_exchange *exchange);

/* Asks the loop to call the watch's stop. Any thread. */
void http_exchange_stop(struct http_exchange *exchange);

/* --- the loop's side ---------------------------------------------------------------------- */

/* Calls come on the loop thread. */
struct http_watch {
    void (*stop)(void *context); /* the answer is to end soon, by itself; may be NULL */
    /* Once: the answer has left whole, or the client has gone before. Nothing comes after. */
    void (*ended)(void *context, int is_gone);
    void *context;
};

/* From the handler, before it returns. Without a watch nobody is told. */
void http_exchange_watch(struct http_exchange *exchange, const struct http_watch *watch);

/* What a handler notes for whoever counts exchanges; 0 at first. */
void http_exchange_set_tag(struct http_exchange *exchange, int tag);
int http_exchange_get_tag(const struct http_exchange *exchange);
int http_exchange_get_status(struct http_exchange *exchange); /* 0: no answer was begun */

/* --- for http.c and http_connection.c ------------------------------------------------------ */

/* What exchanges share with the loop; lives until the last of them has gone. */
struct http_hub {
    _Atomic int references;
    struct mailbox *mailbox;
    _Atomic int is_draining;   /* answers close their connections */
    _Atomic size_t body_bytes; /* of all requests that are held */
    size_t output_max;         /* bytes of an answer that wait for the client */
};

struct http_exchange {
    struct mail mail; /* first: the mailbox hands it back */
    _Atomic int references;
    struct http_hub *hub;
    struct http_request request;
    size_t counted_bytes; /* of body_bytes; the loop's until the request is complete */
    char id[32];
    int tag;
    struct http_watch watch;            /* the loop's */
    struct http_connection *connection; /* the loop's; NULL when the client has gone */
    uint64_t began_ms;

    pthread_mutex_t lock; /* covers what follows */
    struct buf outbox;    /* for the connection to take */
    size_t unsent_bytes;  /* in the outbox, and taken but not yet with the kernel */
    int status;
    int is_begun;
    int is_stream;
    int is_chunked;
    int is_ended;
    int is_overflown;
    int is_gone;
    int wants_stop;
    int closes; /* the connection is not to be used again */
};

MUST_USE enum err http_exchange_hub_create(size_t output_max, struct http_hub **out);
void http_exchange_hub_release(struct http_hub *hub);
MUST_USE enum err http_exchange_create(struct http_hub *hub, size_t body_max,
                                       struct http_exchange **out);

#endif
