/*
 * I1: a connection is read from as long as it lives, whatever its request is doing: a
 *     client's end lies behind the bytes that it sent before, so one that stops reading does
 *     not notice it. `io` is edge-triggered: whoever stops before the socket is empty
 *     activates it again. Next requests are kept up to a bound; past it the connection
 *     ends with the present answer, and what comes is read over.
 * I2: is_dead is set anywhere and acted upon only by settle, at the end of each entry point.
 * I3: `exchange` is set while state is RECEIVING or BUSY, and its `connection` points back; its
 *     watch is told once, by finish or by destroy, and only after the handler had it.
 * I4: the handler never calls back into this file: answers come through the mailbox.
 *
 * State      | left by
 * IDLE       | receive: a byte came (RECEIVING)
 * RECEIVING  | receive: the request is whole or refused (BUSY)
 * BUSY       | finish: the answer is with the kernel (IDLE, LINGERING or dead)
 * LINGERING  | end of input or deadline (dead)
 */
#include "server/http_connection.h"

#include "base/now.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    RECEIVE_BYTES = 64 << 10,
    RECEIVE_TURN_BYTES = 1 << 20, /* before others get their turn */
    PIPELINE_BYTES = 1 << 20,     /* of next requests while one is being answered */
    INPUT_KEPT_BYTES = 64 << 10,  /* an empty input buffer that is larger is given back */
    SEND_PIECES = 16,
};

static const char comment[] = ": keep-alive\n\n";
static const char continue_text[] = "HTTP/1.1 100 Continue\r\n\r\n";

static void enter(struct http_connection *connection, enum http_connection_state state) {
    connection->state = state;
    connection->since_ms = now_monotonic_ms();
}

/* --- deadlines -------------------------------------------------------------------------- */

static int is_sending(const struct http_connection *connection) {
    return evbuffer_get_length(connection->output) > 0;
}

static uint64_t after(uint64_t from_ms, int interval_ms) {
    return from_ms + (uint64_t)interval_ms;
}

/* When the connection is given up unless something happens; UINT64_MAX: never. */
static uint64_t deadline_of(const struct http_connection *connection) {
    const struct http_limits *limits = &connection->http->limits;
    switch (connection->state) {
    case HTTP_CONNECTION_IDLE:
        return after(connection->since_ms, limits->idle_ms);
    case HTTP_CONNECTION_RECEIVING:
        return connection->has_head ? after(connection->received_ms, limits->body_ms)
                                    : after(connection->since_ms, limits->head_ms);
    case HTTP_CONNECTION_BUSY:
        return is_sending(connection) ? after(connection->sent_ms, limits->stall_ms) : UINT64_MAX;
    case HTTP_CONNECTION_LINGERING:
        return after(connection->since_ms, limits->linger_ms);
    }
    return UINT64_MAX;
}

/* When a comment is due; UINT64_MAX: no stream stands open with nothing to send. */
static uint64_t comment_at(struct http_connection *connection) {
    if (connection->state != HTTP_CONNECTION_BUSY || is_sending(connection)) {
        return UINT64_MAX;
    }
    struct http_exchange *exchange = connection->exchange;
    pthread_mutex_lock(&exchange->lock);
    int is_open = exchange->is_stream && !exchange->is_ended;
    pthread_mutex_unlock(&exchange->lock);
    return is_open ? after(connection->sent_ms, connection->http->limits.comment_ms) : UINT64_MAX;
}

/* A timer that goes off too early only looks again, so it is moved only to the front. */
static void schedule(struct http_connection *connection) {
    uint64_t at_ms = deadline_of(connection);
    uint64_t comment_ms = comment_at(connection);
    at_ms = comment_ms < at_ms ? comment_ms : at_ms;
    if (at_ms == UINT64_MAX || (connection->timer_at_ms != 0 && connection->timer_at_ms <= at_ms)) {
        return;
    }
    uint64_t now_ms = now_monotonic_ms();
    uint64_t wait_ms = at_ms > now_ms ? at_ms - now_ms : 1;
    struct timeval wait = {.tv_sec = (time_t)(wait_ms / 1000),
                           .tv_usec = (suseconds_t)(wait_ms % 1000 * 1000)};
    connection->timer_at_ms = at_ms;
    evtimer_add(connection->timer, &wait);
}

static void settle(struct http_connection *connection) {
    if (connection->is_dead) {
        http_connection_destroy(connection);
    } else {
        schedule(connection);
    }
}

/* --- output ----------------------------------------------------------------------------- */

static void note_sent(struct http_connection *connection, size_t bytes) {
    struct http_exchange *exchange = connection->exchange;
    connection->sent_ms = now_monotonic_ms();
    if (exchange == NULL) {
        return;
    }
    pthread_mutex_lock(&exchange->lock);
    /* An interim answer is not of the outbox. */
    exchange->unsent_bytes -= bytes < exchange->unsent_bytes ? bytes : exchange->unsent_bytes;
    pthread_mutex_unlock(&exchange->lock);
}

static void flush(struct http_connection *connection) {
    while (!connection->is_dead && is_sending(connection)) {
        struct evbuffer_iovec pieces[SEND_PIECES];
        int count = evbuffer_peek(connection->output, -1, NULL, pieces, SEND_PIECES);
        struct iovec vector[SEND_PIECES];
        count = count < SEND_PIECES ? count : SEND_PIECES;
        for (int i = 0; i < count; i++) {
            vector[i] =
                (struct iovec){.iov_base = pieces[i].iov_base, .iov_len = pieces[i].iov_len};
        }
        struct msghdr message = {.msg_iov = vector, .msg_iovlen = (size_t)count};
        ssize_t sent = sendmsg(connection->fd, &message, MSG_NOSIGNAL);
        if (sent < 0) {
            if (errno == EAGAIN || errno == EWOULDBLOCK) {
                return;
            }
            connection->is_dead = errno != EINTR;
            continue;
        }
        evbuffer_drain(connection->output, (size_t)sent);
        note_sent(connection, (size_t)sent);
    }
}

static void add_output(struct http_connection *connection, const void *bytes, size_t len) {
    if (len > 0 && evbuffer_add(connection->output, bytes, len) != 0) {
        connection->is_dead = 1;
    }
    connection->sent_ms = now_monotonic_ms();
}

/* The answer is with the kernel: on to the next request, or to the end. */
static void finish(struct http_connection *connection) {
    struct http *http = connection->http;
    struct http_exchange *exchange = connection->exchange;
    int closes = exchange->closes;
    connection->exchange = NULL;
    exchange->connection = NULL;
    http->busy_count--;
    if (exchange->watch.ended != NULL) {
        exchange->watch.ended(exchange->watch.context, 0);
    }
    http->handler.finished(http->handler.context, exchange, 0);
    http_exchange_release(exchange);
    if (connection->is_discarding) {
        shutdown(connection->fd, SHUT_WR);
        enter(connection, HTTP_CONNECTION_LINGERING);
        return;
    }
    connection->is_dead = closes || atomic_load(&http->hub->is_draining);
    enter(connection, HTTP_CONNECTION_IDLE);
    /* The next request may be here, in `input` or with the kernel. */
    event_active(connection->io, EV_READ, 0);
}

/* Takes over what the answering threads have left. */
static void collect(struct http_connection *connection) {
    struct http_exchange *exchange = connection->exchange;
    pthread_mutex_lock(&exchange->lock);
    struct buf taken = exchange->outbox;
    buf_init(&exchange->outbox, taken.max_bytes);
    int is_ended = exchange->is_ended;
    int is_overflown = exchange->is_overflown;
    int wants_stop = exchange->wants_stop;
    exchange->wants_stop = 0;
    pthread_mutex_unlock(&exchange->lock);
    add_output(connection, taken.data, taken.len);
    buf_done(&taken);
    if (is_overflown) {
        connection->is_dead = 1;
        return;
    }
    if (wants_stop && exchange->watch.stop != NULL) {
        exchange->watch.stop(exchange->watch.context);
    }
    flush(connection);
    if (!connection->is_dead && is_ended && !is_sending(connection)) {
        finish(connection);
    }
}

/* --- input ------------------------------------------------------------------------------ */

static void dispatch(struct http_connection *connection) {
    enter(connection, HTTP_CONNECTION_BUSY);
    connection->http->busy_count++;
}

static void refuse(struct http_connection *connection, int status, const char *message) {
    struct http *http = connection->http;
    connection->exchange->closes = 1;
    connection->is_discarding = 1;
    dispatch(connection);
    http->handler.refuse(http->handler.context, connection->exchange, status, message);
}

/* The head is there: the handler may answer before the body is read. */
static void screen(struct http_connection *connection) {
    struct http *http = connection->http;
    struct http_exchange *exchange = connection->exchange;
    connection->has_head = 1;
    exchange->closes = exchange->request.has_body; /* if it is answered now */
    if (http->handler.screen(http->handler.context, exchange)) {
        connection->is_discarding = exchange->request.has_body;
        dispatch(connection);
        return;
    }
    exchange->closes = 0;
    if (exchange->request.expects_continue && exchange->request.has_body &&
        connection->input.len == 0) {
        add_output(connection, continue_text, sizeof continue_text - 1);
        flush(connection);
    }
}

/* Counts what BUF holds by now; 0: everything received is together too large. */
static int count_received(struct http *http, const struct buf *buf, size_t *counted_bytes) {
    size_t grown = buf->capacity - *counted_bytes; /* modulo 2^64, as the sum */
    size_t total = atomic_fetch_add(&http->hub->body_bytes, grown) + grown;
    *counted_bytes = buf->capacity;
    return total <= http->limits.bodies_max;
}

static void give_back_input(struct http_connection *connection) {
    buf_done(&connection->input);
    (void)count_received(connection->http, &connection->input, &connection->counted_bytes);
}

static void begin_exchange(struct http_connection *connection) {
    struct http *http = connection->http;
    if (http_exchange_create(http->hub, http->limits.body_max, &connection->exchange) != ERR_OK) {
        connection->is_dead = 1;
        return;
    }
    connection->exchange->connection = connection;
    connection->has_head = 0;
    http_parser_init(&connection->parser, &connection->exchange->request, http->limits.body_max);
    enter(connection, HTTP_CONNECTION_RECEIVING);
}

/* Feeds the parser once. 1: there may be more to do at once. */
static int receive_part(struct http_connection *connection) {
    struct http *http = connection->http;
    struct buf *input = &connection->input;
    size_t used;
    enum http_parser_outcome outcome =
        http_parser_feed(&connection->parser, (const char *)input->data, input->len, &used);
    if (used > 0) {
        memmove(input->data, input->data + used, input->len - used);
        input->len -= used;
    }
    if (outcome != HTTP_PARSER_FAILED && !count_received(http, &connection->exchange->request.body,
                                                         &connection->exchange->counted_bytes)) {
        refuse(connection, 503, "the server holds too many request bodies; try again later");
        return 0;
    }
    switch (outcome) {
    case HTTP_PARSER_MORE:
        return 0;
    case HTTP_PARSER_HEAD:
        screen(connection);
        return 1;
    case HTTP_PARSER_DONE:
        dispatch(connection);
        http->handler.handle(http->handler.context, connection->exchange);
        return 0;
    case HTTP_PARSER_FAILED:
        refuse(connection, connection->parser.status, connection->parser.message);
        return 0;
    }
    return 0;
}

/* Parses what is in `input`, up to the end of a request. */
static void receive(struct http_connection *connection) {
    if (connection->state == HTTP_CONNECTION_IDLE && connection->input.len > 0) {
        begin_exchange(connection);
    }
    while (!connection->is_dead && connection->state == HTTP_CONNECTION_RECEIVING &&
           receive_part(connection)) {
    }
    if (connection->is_discarding ||
        (connection->input.len == 0 && connection->input.capacity > INPUT_KEPT_BYTES)) {
        give_back_input(connection);
    }
}

/* Too much came behind the request that is being answered. */
static void stop_pipelining(struct http_connection *connection) {
    struct http_exchange *exchange = connection->exchange;
    pthread_mutex_lock(&exchange->lock);
    exchange->closes = 1;
    pthread_mutex_unlock(&exchange->lock);
    connection->is_discarding = 1;
    give_back_input(connection);
}

static void take_bytes(struct http_connection *connection, const char *bytes, size_t len) {
    connection->received_ms = now_monotonic_ms();
    if (connection->is_discarding) {
        return;
    }
    if (buf_append(&connection->input, bytes, len) != ERR_OK) {
        connection->is_dead = 1;
        return;
    }
    int is_within =
        count_received(connection->http, &connection->input, &connection->counted_bytes);
    if (connection->state == HTTP_CONNECTION_BUSY &&
        (connection->input.len > PIPELINE_BYTES || !is_within)) {
        stop_pipelining(connection);
    }
    receive(connection);
}

/* Reads until the socket is empty or this turn's share is used up. */
static void read_socket(struct http_connection *connection) {
    char bytes[RECEIVE_BYTES];
    size_t total = 0;
    while (!connection->is_dead) {
        if (total >= RECEIVE_TURN_BYTES) {
            event_active(connection->io, EV_READ, 0);
            return;
        }
        ssize_t len = recv(connection->fd, bytes, sizeof bytes, 0);
        if (len < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
            return;
        }
        if (len < 0 && errno == EINTR) {
            continue;
        }
        if (len <= 0) {
            connection->is_dead = 1; /* closed, or its sending half: nobody waits any more */
            return;
        }
        total += (size_t)len;
        take_bytes(connection, bytes, (size_t)len);
    }
}

/* --- events ----------------------------------------------------------------------------- */

static void on_io(evutil_socket_t fd, short what, void *context) {
    (void)fd;
    struct http_connection *connection = context;
    if (what & EV_WRITE) {
        flush(connection);
        if (connection->state == HTTP_CONNECTION_BUSY && !is_sending(connection)) {
            collect(connection);
        }
    }
    if (what & EV_CLOSED && connection->state == HTTP_CONNECTION_BUSY) {
        connection->is_dead = 1; /* whatever is left to be read: nobody waits any more */
    }
    if (!connection->is_dead && connection->input.len > 0) {
        receive(connection); /* requests that waited for their turn */
    }
    if (!connection->is_dead && what & (EV_READ | EV_CLOSED)) {
        read_socket(connection);
    }
    settle(connection);
}

static void on_timer(evutil_socket_t fd, short what, void *context) {
    (void)fd;
    (void)what;
    struct http_connection *connection = context;
    uint64_t now_ms = now_monotonic_ms();
    connection->timer_at_ms = 0;
    if (now_ms >= comment_at(connection)) {
        http_exchange_write(connection->exchange, comment, sizeof comment - 1);
        connection->sent_ms = now_ms;
    }
    if (now_ms >= deadline_of(connection)) {
        if (connection->state == HTTP_CONNECTION_RECEIVING) {
            refuse(connection, 408, "the rest of the request did not come in time");
        } else {
            connection->is_dead = 1;
        }
    }
    settle(connection);
}

void http_connection_attend(struct http_connection *connection) {
    if (connection->state == HTTP_CONNECTION_BUSY) {
        collect(connection);
    }
    settle(connection);
}

void http_connection_close_idle(struct http_connection *connection) {
    if (connection->state == HTTP_CONNECTION_IDLE && connection->input.len == 0) {
        http_connection_destroy(connection);
    }
}

/* --- life ------------------------------------------------------------------------------- */

enum err http_connection_create(struct http *http, int fd) {
    struct http_connection *connection = calloc(1, sizeof *connection);
    if (connection == NULL) {
        close(fd);
        return err_fail(ERR_NOMEM, "connection");
    }
    int one = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    connection->http = http;
    connection->fd = fd;
    connection->next = http->connections;
    if (http->connections != NULL) {
        http->connections->previous = connection;
    }
    http->connections = connection;
    http->connection_count++;
    buf_init(&connection->input, PIPELINE_BYTES + 2 * RECEIVE_BYTES);
    enter(connection, HTTP_CONNECTION_IDLE);
    connection->output = evbuffer_new();
    connection->timer = evtimer_new(http->base, on_timer, connection);
    connection->io = event_new(http->base, fd, EV_READ | EV_WRITE | EV_CLOSED | EV_ET | EV_PERSIST,
                               on_io, connection);
    if (connection->output == NULL || connection->timer == NULL || connection->io == NULL ||
        event_add(connection->io, NULL) != 0) {
        http_connection_destroy(connection);
        return err_fail(ERR_NOMEM, "connection's events");
    }
    schedule(connection);
    return ERR_OK;
}

/* I3: the client is gone, whatever its exchange was doing. */
static void abandon(struct http_connection *connection) {
    struct http *http = connection->http;
    struct http_exchange *exchange = connection->exchange;
    connection->exchange = NULL;
    exchange->connection = NULL;
    pthread_mutex_lock(&exchange->lock);
    exchange->is_gone = 1;
    exchange->unsent_bytes = 0;
    buf_done(&exchange->outbox);
    pthread_mutex_unlock(&exchange->lock);
    if (connection->state == HTTP_CONNECTION_BUSY) {
        http->busy_count--;
        if (exchange->watch.ended != NULL) {
            exchange->watch.ended(exchange->watch.context, 1);
        }
        http->handler.finished(http->handler.context, exchange, 1);
    }
    http_exchange_release(exchange);
}

void http_connection_destroy(struct http_connection *connection) {
    struct http *http = connection->http;
    if (connection->exchange != NULL) {
        abandon(connection);
    }
    if (connection->io != NULL) {
        event_free(connection->io);
    }
    if (connection->timer != NULL) {
        event_free(connection->timer);
    }
    if (connection->output != NULL) {
        evbuffer_free(connection->output);
    }
    close(connection->fd);
    give_back_input(connection);
    if (connection->next != NULL) {
        connection->next->previous = connection->previous;
    }
    if (connection->previous != NULL) {
        connection->previous->next = connection->next;
    } else {
        http->connections = connection->next;
    }
    http->connection_count--;
    free(connection);
}
