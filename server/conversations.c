#include "server/conversations.h"

#include "server/api_error.h"
#include "server/chat_request.h"
#include "server/json_text.h"

#include <stdlib.h>
#include <string.h>

enum { BODY_MAX = 8 << 10, RETRY_MS = 1000 };

struct deletion {
    struct turn_service *service;
    struct http_exchange *exchange;
    char *tenant;
    char *id;
    char *salt;
};

static void destroy(struct deletion *deletion) {
    http_exchange_release(deletion->exchange);
    free(deletion->tenant);
    free(deletion->id);
    free(deletion->salt);
    free(deletion);
}

static void respond_deleted(struct http_exchange *exchange, const char *id) {
    struct http_head head = {.status = 200, .content_type = "application/json"};
    struct buf body;
    buf_init(&body, BODY_MAX);
    enum err code = buf_append_text(&body, "{\"id\":");
    code = code != ERR_OK ? code : json_text_append_string(&body, id);
    code = code != ERR_OK
               ? code
               : buf_append_text(&body, ",\"object\":\"conversation.deleted\",\"deleted\":true}");
    http_exchange_respond(exchange, &head, body.data, code == ERR_OK ? body.len : 0);
    buf_done(&body);
}

static void run(void *context) {
    struct deletion *deletion = context;
    struct turn_delete_result result = {0};
    struct turn_failure failure = {.committed_turn = -1, .rebuild_tokens = -1};
    struct api_error error;
    if (turn_delete_conversation(deletion->service, deletion->tenant, deletion->salt, deletion->id,
                                 &result, &failure) != ERR_OK) {
        api_error_from_failure(&error, &failure);
        api_error_respond(&error, deletion->exchange);
    } else if (!result.was_found) {
        api_error_set(&error, 404, "conversation_not_found", NULL,
                      "There is no conversation of this id.");
        error.never_retry = 1;
        api_error_respond(&error, deletion->exchange);
    } else {
        respond_deleted(deletion->exchange, deletion->id);
    }
    destroy(deletion);
}

/* Reads what the request says; on failure *error says what to answer. */
static enum err read_request(struct deletion *deletion, const char *id, struct api_error *error) {
    const struct http_request *request = http_exchange_request(deletion->exchange);
    if (request->body.len > 0) {
        api_error_set(error, 400, "invalid_value", NULL,
                      "DELETE takes no body; 'cache_salt' is a query parameter.");
        return ERR_INVALID;
    }
    enum err code = http_request_decode(id, strlen(id), 0, &deletion->id);
    if (code == ERR_OK) {
        code = http_request_query(request, "cache_salt", &deletion->salt);
    }
    if (code != ERR_OK) {
        api_error_set(error, code == ERR_INVALID ? 400 : 503, "invalid_value", NULL, "%s.",
                      err_message());
        return code;
    }
    TRY(chat_request_check_name(deletion->id, strlen(deletion->id), "conversation_id", error));
    return deletion->salt == NULL ? ERR_OK
                                  : chat_request_check_name(deletion->salt, strlen(deletion->salt),
                                                            "cache_salt", error);
}

void conversations_delete(struct turn_service *service, struct front *front,
                          struct http_exchange *exchange, const char *tenant, const char *id) {
    struct api_error error;
    api_error_set(&error, 429, "queue_full", NULL,
                  "The server has as many requests waiting as it takes; try again later.");
    error.retry_after_ms = RETRY_MS;
    struct deletion *deletion = calloc(1, sizeof *deletion);
    if (deletion == NULL) {
        api_error_respond(&error, exchange);
        return;
    }
    deletion->service = service;
    deletion->exchange = exchange;
    http_exchange_acquire(exchange);
    deletion->tenant = strdup(tenant);
    struct api_error refusal;
    if (read_request(deletion, id, &refusal) != ERR_OK) {
        api_error_respond(&refusal, exchange);
        destroy(deletion);
        return;
    }
    if (deletion->salt == NULL) {
        deletion->salt = strdup("");
    }
    if (deletion->tenant == NULL || deletion->salt == NULL ||
        front_submit(front, run, deletion) != ERR_OK) {
        api_error_respond(&error, exchange);
        destroy(deletion);
    }
}
