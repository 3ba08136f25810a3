/*
 * One connection: bytes in, exchanges in their order, bytes out, deadlines. Internal to
 * http.c and http_connection.c; the loop thread's alone.
 */
#ifndef TERN_SERVER_HTTP_CONNECTION_H
#define TERN_SERVER_HTTP_CONNECTION_H

#include "server/http.h"
#include "server/http_parser.h"

#include <event2/buffer.h>
#include <event2/event.h>

enum http_connection_state {
    HTTP_CONNECTION_IDLE,      /* between requests */
    HTTP_CONNECTION_RECEIVING, /* part of a request is there */
    HTTP_CONNECTION_BUSY,      /* a request waits for its answer, or the answer for the client */
    HTTP_CONNECTION_LINGERING, /* answered; what still comes is read over, then closed */
};

struct http_connection {
    struct http *http;
    struct http_connection *previous;
    struct http_connection *next;
    int fd;
    struct event *io;
    struct event *timer;
    uint64_t timer_at_ms; /* when the timer goes off; 0: it is not set */
    enum http_connection_state state;
    struct http_exchange *exchange; /* the present one, from its first byte on */
    struct http_parser parser;
    int has_head;
    struct buf input;     /* received, not yet parsed: the next requests */
    size_t counted_bytes; /* of the hub's body_bytes, for `input` */
    struct evbuffer *output;
    int is_discarding;    /* what comes is no request any more */
    int is_dead;          /* to be destroyed before the loop goes on */
    uint64_t since_ms;    /* in this state */
    uint64_t received_ms; /* the last byte */
    uint64_t sent_ms;     /* the last time that output was added or taken by the kernel */
};

struct http {
    struct event_base *base;
    struct http_limits limits;
    struct http_handler handler;
    struct http_hub *hub;
    struct evconnlistener *listener;
    struct event *mail_event;
    struct event *listen_event; /* turns the listener on again after it ran out of descriptors */
    struct http_connection *connections;
    int connection_count;
    int busy_count;
    int port;
};

/* Takes FD over, also on failure. */
MUST_USE enum err http_connection_create(struct http *http, int fd);

/* Calls the watch if the client was waiting. */
void http_connection_destroy(struct http_connection *connection);

/* The exchange has something for the loop. Destroys the connection if it is over. */
void http_connection_attend(struct http_connection *connection);

/* Destroys the connection if it is idle. */
void http_connection_close_idle(struct http_connection *connection);

#endif
