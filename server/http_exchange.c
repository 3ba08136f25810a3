/*
 * I1: after is_ended or is_gone nothing is added to the outbox.
 * I2: unsent_bytes of a stream stays at or below output_max plus one write's framing.
 * I3: whoever changes what the loop must see posts afterwards; a posted exchange holds a
 *     reference, which the loop gives back after it took the mail.
 */
#include "server/http_exchange.h"

#include "base/now.h"

#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
    OUTBOX_MAX = 512 << 20, /* a whole answer; what bounds a stream is output_max */
    ID_BYTES = 12,
};

enum err http_exchange_hub_create(size_t output_max, struct http_hub **out) {
    struct http_hub *hub = calloc(1, sizeof *hub);
    if (hub == NULL) {
        return err_fail(ERR_NOMEM, "hub of exchanges");
    }
    enum err code = mailbox_create(&hub->mailbox);
    if (code != ERR_OK) {
        free(hub);
        return code;
    }
    atomic_init(&hub->references, 1);
    hub->output_max = output_max;
    *out = hub;
    return ERR_OK;
}

void http_exchange_hub_release(struct http_hub *hub) {
    if (atomic_fetch_sub(&hub->references, 1) == 1) {
        mailbox_release(hub->mailbox);
        free(hub);
    }
}

enum err http_exchange_create(struct http_hub *hub, size_t body_max, struct http_exchange **out) {
    struct http_exchange *exchange = calloc(1, sizeof *exchange);
    if (exchange == NULL) {
        return err_fail(ERR_NOMEM, "exchange");
    }
    uint8_t random[ID_BYTES];
    randombytes_buf(random, sizeof random);
    memcpy(exchange->id, "req_", 4);
    sodium_bin2hex(exchange->id + 4, sizeof exchange->id - 4, random, sizeof random);
    atomic_init(&exchange->references, 1);
    atomic_fetch_add(&hub->references, 1);
    exchange->hub = hub;
    exchange->began_ms = now_monotonic_ms();
    http_request_init(&exchange->request, 32 << 10, body_max);
    buf_init(&exchange->outbox, OUTBOX_MAX);
    pthread_mutex_init(&exchange->lock, NULL);
    *out = exchange;
    return ERR_OK;
}

void http_exchange_acquire(struct http_exchange *exchange) {
    atomic_fetch_add(&exchange->references, 1);
}

void http_exchange_release(struct http_exchange *exchange) {
    if (atomic_fetch_sub(&exchange->references, 1) != 1) {
        return;
    }
    atomic_fetch_sub(&exchange->hub->body_bytes, exchange->counted_bytes);
    http_exchange_hub_release(exchange->hub);
    http_request_done(&exchange->request);
    buf_done(&exchange->outbox);
    pthread_mutex_destroy(&exchange->lock);
    free(exchange);
}

const struct http_request *http_exchange_request(const struct http_exchange *exchange) {
    return &exchange->request;
}

const char *http_exchange_id(const struct http_exchange *exchange) {
    return exchange->id;
}

void http_exchange_watch(struct http_exchange *exchange, const struct http_watch *watch) {
    exchange->watch = *watch;
}

void http_exchange_set_tag(struct http_exchange *exchange, int tag) {
    exchange->tag = tag;
}

int http_exchange_get_tag(const struct http_exchange *exchange) {
    return exchange->tag;
}

int http_exchange_get_status(struct http_exchange *exchange) {
    pthread_mutex_lock(&exchange->lock);
    int status = exchange->status;
    pthread_mutex_unlock(&exchange->lock);
    return status;
}

/* --- the answer ------------------------------------------------------------------------- */

static const char *reason_of(int status) {
    static const struct {
        int status;
        const char *reason;
    } reasons[] = {
        {200, "OK"},
        {400, "Bad Request"},
        {401, "Unauthorized"},
        {404, "Not Found"},
        {405, "Method Not Allowed"},
        {408, "Request Timeout"},
        {409, "Conflict"},
        {413, "Content Too Large"},
        {417, "Expectation Failed"},
        {429, "Too Many Requests"},
        {431, "Request Header Fields Too Large"},
        {500, "Internal Server Error"},
        {501, "Not Implemented"},
        {503, "Service Unavailable"},
        {505, "HTTP Version Not Supported"},
        {507, "Insufficient Storage"},
    };
    for (size_t i = 0; i < ARRAY_LEN(reasons); i++) {
        if (reasons[i].status == status) {
            return reasons[i].reason;
        }
    }
    return "Status";
}

static enum err put_date(struct buf *out) {
    static const char days[] = "SunMonTueWedThuFriSat";
    static const char months[] = "JanFebMarAprMayJunJulAugSepOctNovDec";
    time_t seconds = (time_t)(now_wall_ms() / 1000);
    struct tm utc;
    gmtime_r(&seconds, &utc);
    return buf_printf(out, "Date: %.3s, %02d %.3s %d %02d:%02d:%02d GMT\r\n",
                      days + 3 * utc.tm_wday, utc.tm_mday, months + 3 * utc.tm_mon,
                      utc.tm_year + 1900, utc.tm_hour, utc.tm_min, utc.tm_sec);
}

/* The head, up to and with the empty line. LENGTH < 0: not known ahead. */
static enum err put_head(struct http_exchange *exchange, const struct http_head *head,
                         long long length) {
    struct buf *out = &exchange->outbox;
    TRY(buf_printf(out, "HTTP/1.1 %d %s\r\n", head->status, reason_of(head->status)));
    TRY(put_date(out));
    TRY(buf_printf(out, "x-request-id: %s\r\n", exchange->id));
    if (head->content_type != NULL) {
        TRY(buf_printf(out, "Content-Type: %s\r\n", head->content_type));
    }
    for (size_t i = 0; i < head->field_count; i++) {
        TRY(buf_printf(out, "%s: %s\r\n", head->fields[i].name, head->fields[i].value));
    }
    if (length >= 0) {
        TRY(buf_printf(out, "Content-Length: %lld\r\n", length));
    } else if (exchange->is_chunked) {
        TRY(buf_append_text(out, "Transfer-Encoding: chunked\r\n"));
    }
    if (exchange->closes) {
        TRY(buf_append_text(out, "Connection: close\r\n"));
    } else if (exchange->request.minor_version == 0) {
        TRY(buf_append_text(out, "Connection: keep-alive\r\n"));
    }
    return buf_append_text(out, "\r\n");
}

static void post(struct http_exchange *exchange) {
    http_exchange_acquire(exchange); /* I3 */
    if (!mailbox_post(exchange->hub->mailbox, &exchange->mail)) {
        http_exchange_release(exchange);
    }
}

/* A HEAD request gets the head that GET would get. */
static int has_no_body(const struct http_exchange *exchange) {
    return exchange->request.method != NULL && strcmp(exchange->request.method, "HEAD") == 0;
}

/* Unlocks, and tells the loop. LEN_BEFORE: the outbox's when it was locked. */
static void settle(struct http_exchange *exchange, size_t len_before, enum err code) {
    if (code != ERR_OK) {
        exchange->is_overflown = 1;
    } else {
        exchange->unsent_bytes += exchange->outbox.len - len_before;
    }
    pthread_mutex_unlock(&exchange->lock);
    post(exchange);
}

static void note_begun(struct http_exchange *exchange, const struct http_head *head) {
    assert(!exchange->is_begun);
    exchange->is_begun = 1;
    exchange->status = head->status;
    exchange->closes = exchange->closes || !exchange->request.keeps_alive ||
                       atomic_load(&exchange->hub->is_draining);
}

void http_exchange_respond(struct http_exchange *exchange, const struct http_head *head,
                           const void *body, size_t len) {
    pthread_mutex_lock(&exchange->lock);
    size_t len_before = exchange->outbox.len;
    note_begun(exchange, head);
    exchange->is_ended = 1;
    enum err code = ERR_OK;
    if (!exchange->is_gone) {
        code = put_head(exchange, head, (long long)len);
        if (code == ERR_OK && !has_no_body(exchange)) {
            code = buf_append(&exchange->outbox, body, len);
        }
    }
    settle(exchange, len_before, code);
}

void http_exchange_begin(struct http_exchange *exchange, const struct http_head *head) {
    pthread_mutex_lock(&exchange->lock);
    size_t len_before = exchange->outbox.len;
    exchange->is_stream = 1;
    exchange->is_chunked = exchange->request.minor_version > 0;
    exchange->closes = exchange->closes || !exchange->is_chunked;
    note_begun(exchange, head);
    enum err code = exchange->is_gone ? ERR_OK : put_head(exchange, head, -1);
    settle(exchange, len_before, code);
}

static enum err put_chunk(struct http_exchange *exchange, const void *bytes, size_t len) {
    struct buf *out = &exchange->outbox;
    if (exchange->unsent_bytes + len > exchange->hub->output_max) {
        return err_fail(ERR_FULL, "%zu bytes wait for the client", exchange->unsent_bytes);
    }
    if (!exchange->is_chunked) {
        return buf_append(out, bytes, len);
    }
    TRY(buf_printf(out, "%zx\r\n", len));
    TRY(buf_append(out, bytes, len));
    return buf_append_text(out, "\r\n");
}

void http_exchange_write(struct http_exchange *exchange, const void *bytes, size_t len) {
    pthread_mutex_lock(&exchange->lock);
    assert(exchange->is_stream);
    if (exchange->is_ended || exchange->is_gone || exchange->is_overflown || len == 0 ||
        has_no_body(exchange)) {
        pthread_mutex_unlock(&exchange->lock);
        return;
    }
    size_t len_before = exchange->outbox.len;
    settle(exchange, len_before, put_chunk(exchange, bytes, len));
}

void http_exchange_end(struct http_exchange *exchange) {
    pthread_mutex_lock(&exchange->lock);
    assert(exchange->is_stream && !exchange->is_ended);
    size_t len_before = exchange->outbox.len;
    exchange->is_ended = 1;
    enum err code = ERR_OK;
    if (exchange->is_chunked && !exchange->is_gone && !exchange->is_overflown &&
        !has_no_body(exchange)) {
        code = buf_append_text(&exchange->outbox, "0\r\n\r\n");
    }
    settle(exchange, len_before, code);
}

void http_exchange_stop(struct http_exchange *exchange) {
    pthread_mutex_lock(&exchange->lock);
    exchange->wants_stop = 1;
    pthread_mutex_unlock(&exchange->lock);
    post(exchange);
}
