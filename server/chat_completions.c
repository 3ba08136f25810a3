/*
 * A chat is held by its front job, its turn's sink and its exchange's watch, each until it
 * has been called for the last time.
 *
 * I1: the exchange is answered once: by the front job if there is no turn, by the sink if
 *     there is one.
 * I2: `turn` is set once, by the front job, and released with the chat, so that whoever
 *     holds the chat may cancel.
 * I3: wants_cancel may come before `turn` is there (the front job looks after it has set it)
 *     or after (stop and ended look): one of them cancels, once.
 *
 * `lock` is held over plain memory only: never while the service or the exchange is called.
 */
#include "server/chat_completions.h"

#include "base/now.h"
#include "server/chat_request.h"
#include "server/chat_response.h"

#include <inttypes.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    MAGIC = 0x63686174,
    EVENT_MAX = 64 << 20,
    RETRY_MS = 1000,
};

struct chat {
    uint32_t magic;
    _Atomic int references;
    const struct chat_completions *completions;
    struct http_exchange *exchange;
    char *tenant;
    char id[48];
    int is_stream; /* this and `response`: the front job's, then the sink's */
    struct chat_response response;
    int has_started;  /* the sink's, as are the two buffers */
    struct buf text;  /* of an unstreamed answer */
    struct buf event; /* of a stream; the body of an unstreamed answer */
    uint64_t began_ms;
    _Atomic uint64_t first_text_ms; /* 0: no text yet */
    _Atomic int is_too_long;

    pthread_mutex_t lock; /* covers what follows */
    struct turn *turn;
    int wants_cancel;
    int is_cancelled;
    int is_stopping; /* by the server's wish, not the client's */
};

static void release(struct chat *chat) {
    if (atomic_fetch_sub(&chat->references, 1) != 1) {
        return;
    }
    if (chat->turn != NULL) {
        turn_release(chat->turn);
    }
    http_exchange_release(chat->exchange);
    buf_done(&chat->text);
    buf_done(&chat->event);
    pthread_mutex_destroy(&chat->lock);
    chat->magic = 0;
    free(chat->tenant);
    free(chat);
}

static void acquire(struct chat *chat) {
    atomic_fetch_add(&chat->references, 1);
}

/* Cancels the turn if it is there and nobody did before (I3). */
static void cancel_if_wanted(struct chat *chat) {
    pthread_mutex_lock(&chat->lock);
    struct turn *turn = chat->wants_cancel && !chat->is_cancelled ? chat->turn : NULL;
    chat->is_cancelled = chat->is_cancelled || turn != NULL;
    pthread_mutex_unlock(&chat->lock);
    if (turn != NULL) {
        turn_cancel(turn);
    }
}

/* --- the sink --------------------------------------------------------------------------- */

static void respond_error(struct chat *chat, const struct api_error *error) {
    if (!chat->is_stream || !chat->has_started) {
        api_error_respond(error, chat->exchange);
        return;
    }
    buf_clear(&chat->event);
    if (chat_response_error(error, &chat->event) == ERR_OK) {
        http_exchange_write(chat->exchange, chat->event.data, chat->event.len);
    }
    http_exchange_end(chat->exchange);
}

static void respond_no_memory(struct chat *chat) {
    struct api_error error;
    api_error_set(&error, 500, NULL, NULL, "The answer does not fit into memory.");
    respond_error(chat, &error);
}

static struct http_field turn_field(char *text, size_t size, uint64_t turn) {
    snprintf(text, size, "%" PRIu64, turn);
    return (struct http_field){.name = "x-tern-turn", .value = text};
}

static void on_started(void *context, const struct turn_start *start) {
    struct chat *chat = context;
    MAGIC_CHECK(chat, MAGIC);
    chat->has_started = 1;
    if (!chat->is_stream) {
        return;
    }
    char turn[24];
    struct http_field fields[] = {{.name = "Cache-Control", .value = "no-cache"},
                                  {.name = "X-Accel-Buffering", .value = "no"},
                                  turn_field(turn, sizeof turn, start->turn)};
    struct http_head head = {.status = 200,
                             .content_type = "text/event-stream; charset=utf-8",
                             .fields = fields,
                             .field_count = start->turn > 0 ? 3 : 2};
    http_exchange_begin(chat->exchange, &head);
    buf_clear(&chat->event);
    if (chat_response_begin(&chat->response, &chat->event) == ERR_OK) {
        http_exchange_write(chat->exchange, chat->event.data, chat->event.len);
    }
}

static void on_text(void *context, const char *text, size_t len) {
    struct chat *chat = context;
    MAGIC_CHECK(chat, MAGIC);
    uint64_t none = 0;
    atomic_compare_exchange_strong(&chat->first_text_ms, &none, now_monotonic_ms());
    if (len == 0) {
        return;
    }
    enum err code;
    if (chat->is_stream) {
        buf_clear(&chat->event);
        code = chat_response_text(&chat->response, text, len, &chat->event);
        if (code == ERR_OK) {
            http_exchange_write(chat->exchange, chat->event.data, chat->event.len);
        }
    } else {
        code = buf_append(&chat->text, text, len);
    }
    if (code != ERR_OK) {
        atomic_store(&chat->is_too_long, 1);
        http_exchange_stop(chat->exchange);
    }
}

static void respond_body(struct chat *chat, const struct turn_result *result) {
    buf_clear(&chat->event);
    if (chat_response_body(&chat->response, (const char *)chat->text.data, chat->text.len, result,
                           &chat->event) != ERR_OK) {
        respond_no_memory(chat);
        return;
    }
    char turn[24];
    struct http_field field = turn_field(turn, sizeof turn, result->turn);
    struct http_head head = {.status = 200,
                             .content_type = "application/json",
                             .fields = &field,
                             .field_count = result->turn > 0};
    http_exchange_respond(chat->exchange, &head, chat->event.data, chat->event.len);
}

static void on_finished(void *context, const struct turn_result *result) {
    struct chat *chat = context;
    MAGIC_CHECK(chat, MAGIC);
    if (atomic_load(&chat->is_too_long)) {
        respond_no_memory(chat);
    } else if (!chat->is_stream) {
        respond_body(chat, result);
    } else {
        buf_clear(&chat->event);
        if (chat_response_end(&chat->response, result, &chat->event) == ERR_OK) {
            http_exchange_write(chat->exchange, chat->event.data, chat->event.len);
        }
        http_exchange_end(chat->exchange);
    }
    release(chat);
}

static void on_failed(void *context, const struct turn_failure *failure) {
    struct chat *chat = context;
    MAGIC_CHECK(chat, MAGIC);
    pthread_mutex_lock(&chat->lock);
    int is_stopping = chat->is_stopping;
    pthread_mutex_unlock(&chat->lock);
    struct api_error error;
    if (atomic_load(&chat->is_too_long)) {
        respond_no_memory(chat);
        release(chat);
        return;
    }
    if (is_stopping) {
        api_error_set(&error, 503, "server_stopping", NULL,
                      "The server stopped before the turn was committed; try again later.");
        error.retry_after_ms = RETRY_MS;
    } else {
        api_error_from_failure(&error, failure);
    }
    respond_error(chat, &error);
    release(chat);
}

/* --- the watch -------------------------------------------------------------------------- */

static void on_stop(void *context) {
    struct chat *chat = context;
    MAGIC_CHECK(chat, MAGIC);
    pthread_mutex_lock(&chat->lock);
    chat->wants_cancel = 1;
    chat->is_stopping = !atomic_load(&chat->is_too_long);
    pthread_mutex_unlock(&chat->lock);
    cancel_if_wanted(chat);
}

static void on_ended(void *context, int is_gone) {
    struct chat *chat = context;
    MAGIC_CHECK(chat, MAGIC);
    const struct chat_completions *completions = chat->completions;
    if (is_gone) {
        pthread_mutex_lock(&chat->lock);
        chat->wants_cancel = 1;
        pthread_mutex_unlock(&chat->lock);
        cancel_if_wanted(chat);
    }
    uint64_t first_ms = atomic_load(&chat->first_text_ms);
    if (first_ms != 0 && completions->note_first_text != NULL) {
        completions->note_first_text(completions->context, first_ms - chat->began_ms);
    }
    release(chat);
}

/* --- the front job ---------------------------------------------------------------------- */

static void submit(struct chat *chat, struct chat_request *request) {
    struct turn_sink sink = {.started = on_started,
                             .text = on_text,
                             .finished = on_finished,
                             .failed = on_failed,
                             .context = chat};
    struct turn *turn = NULL;
    chat->is_stream = request->is_stream;
    chat->response.includes_usage = request->is_stream && request->includes_usage;
    request->turn.tenant = chat->tenant;
    acquire(chat); /* the sink's */
    turn_submit(chat->completions->service, &request->turn, &sink, &turn);
    pthread_mutex_lock(&chat->lock);
    chat->turn = turn;
    pthread_mutex_unlock(&chat->lock);
    cancel_if_wanted(chat);
}

static void run(void *context) {
    struct chat *chat = context;
    MAGIC_CHECK(chat, MAGIC);
    const struct http_request *received = http_exchange_request(chat->exchange);
    pthread_mutex_lock(&chat->lock);
    int is_unwanted = chat->wants_cancel;
    int is_stopping = chat->is_stopping;
    pthread_mutex_unlock(&chat->lock);
    struct chat_request *request = NULL;
    struct api_error error;
    if (is_unwanted) {
        if (is_stopping) {
            struct turn_failure stopped = {.http_status = 503};
            acquire(chat);
            on_failed(chat, &stopped);
        }
    } else if (chat_request_parse((const char *)received->body.data, received->body.len, &request,
                                  &error) != ERR_OK) {
        api_error_respond(&error, chat->exchange);
    } else {
        submit(chat, request);
    }
    chat_request_destroy(request);
    release(chat);
}

/* --- the handler ------------------------------------------------------------------------ */

static void respond_full(struct http_exchange *exchange) {
    struct api_error error;
    api_error_set(&error, 429, "queue_full", NULL,
                  "The server has as many requests waiting as it takes; try again later.");
    error.retry_after_ms = RETRY_MS;
    api_error_respond(&error, exchange);
}

static struct chat *create(const struct chat_completions *completions,
                           struct http_exchange *exchange, const char *tenant) {
    struct chat *chat = calloc(1, sizeof *chat);
    char *tenant_copy = strdup(tenant);
    if (chat == NULL || tenant_copy == NULL) {
        free(chat);
        free(tenant_copy);
        return NULL;
    }
    uint8_t random[16];
    randombytes_buf(random, sizeof random);
    memcpy(chat->id, "chatcmpl-", 9);
    sodium_bin2hex(chat->id + 9, sizeof chat->id - 9, random, sizeof random);
    chat->magic = MAGIC;
    atomic_init(&chat->references, 1);
    chat->completions = completions;
    chat->exchange = exchange;
    http_exchange_acquire(exchange);
    chat->tenant = tenant_copy;
    chat->response = (struct chat_response){
        .id = chat->id, .created_s = now_wall_ms() / 1000, .model = completions->model};
    buf_init(&chat->text, completions->text_max);
    buf_init(&chat->event, EVENT_MAX);
    chat->began_ms = now_monotonic_ms();
    pthread_mutex_init(&chat->lock, NULL);
    return chat;
}

void chat_completions_handle(const struct chat_completions *completions,
                             struct http_exchange *exchange, const char *tenant) {
    struct chat *chat = create(completions, exchange, tenant);
    if (chat == NULL) {
        respond_full(exchange);
        return;
    }
    acquire(chat); /* the front job's */
    if (front_submit(completions->front, run, chat) != ERR_OK) {
        release(chat);
        release(chat);
        respond_full(exchange);
        return;
    }
    struct http_watch watch = {.stop = on_stop, .ended = on_ended, .context = chat};
    http_exchange_watch(exchange, &watch);
}
