#include "tools/chat_turn.h"

#include "base/now.h"
#include "tools/sse.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { STEP_BYTES = 8 * 1024, ERROR_BYTES_MAX = 1 << 20, STATUS_OK = 200 };

/* The answer as it comes in. */
struct answer {
    const struct chat_turn_settings *settings;
    struct chat_turn_outcome *outcome;
    uint64_t started_ns;
    uint64_t first_ns; /* 0: no text yet */
    uint64_t last_ns;
    json_t *tern;      /* of the chunk with finish_reason */
    char *reason;      /* finish_reason */
    long long tokens;  /* of the answer; 0: the server did not say */
    int is_done;       /* [DONE] came */
    int is_line_begun; /* the last character shown was no line break */
};

static void answer_done(struct answer *answer) {
    json_decref(answer->tern);
    free(answer->reason);
}

/* The request. */

static enum err request_body(const struct chat_turn_settings *settings,
                             const struct chat_turn *turn, char **out) {
    json_t *messages = json_array();
    if (turn->system != NULL) {
        json_array_append_new(messages,
                              json_pack("{s: s, s: s}", "role", "system", "content", turn->system));
    }
    json_array_append_new(messages,
                          json_pack("{s: s, s: s}", "role", "user", "content", turn->message));
    json_t *body = json_pack("{s: s, s: o, s: b, s: {s: b}, s: s}", "model", "tern", "messages",
                             messages, "stream", 1, "stream_options", "include_usage", 1,
                             "conversation_id", settings->conversation_id);
    if (body == NULL || json_array_size(messages) != (size_t)1 + (turn->system != NULL)) {
        json_decref(body);
        return err_fail(ERR_INVALID, "the message, system text or conversation id is not UTF-8");
    }
    int failed = 0;
    if (settings->salt != NULL) {
        failed |= json_object_set_new(body, "cache_salt", json_string(settings->salt));
    }
    if (turn->expected_turn != CHAT_TURN_UNKNOWN) {
        failed |= json_object_set_new(body, "conversation_expected_turn",
                                      json_integer(turn->expected_turn));
    }
    if (settings->temperature >= 0) {
        failed |= json_object_set_new(body, "temperature", json_real(settings->temperature));
    }
    if (settings->max_tokens > 0) {
        failed |= json_object_set_new(body, "max_tokens", json_integer(settings->max_tokens));
    }
    char *text = failed ? NULL : json_dumps(body, JSON_COMPACT);
    json_decref(body);
    if (text == NULL) {
        return err_fail(ERR_INVALID, "the request cannot be written as JSON");
    }
    *out = text;
    return ERR_OK;
}

/* Errors that the server reports, in OpenAI's shape. */

static const char *text_of(const json_t *object, const char *name, const char *missing) {
    const char *text = json_string_value(json_object_get(object, name));
    return text == NULL ? missing : text;
}

static enum err take_error(struct answer *answer, int status, const char *text, size_t len) {
    json_t *body = json_loadb(text, len, 0, NULL);
    const json_t *error = json_object_get(body, "error");
    const char *code = text_of(error, "code", text_of(error, "type", "error"));
    const json_t *committed = json_object_get(error, "committed_turn");
    if (json_is_integer(committed)) {
        answer->outcome->committed_turn = json_integer_value(committed);
    }
    answer->outcome->is_conflict = strcmp(code, "conversation_turn_conflict") == 0 &&
                                   answer->outcome->committed_turn != CHAT_TURN_UNKNOWN;
    const char *message = text_of(error, "message", "the server gave no reason");
    enum err err = answer->outcome->is_conflict ? ERR_CONFLICT : ERR_INVALID;
    if (status != STATUS_OK) {
        err_record("%d %s: %s", status, code, message);
    } else {
        err_record("%s: %s", code, message);
    }
    json_decref(body);
    return err;
}

static enum err read_error(struct answer *answer, struct http_client *client) {
    CLEANUP(buf_done) struct buf body;
    char step[STEP_BYTES];
    size_t len;
    buf_init(&body, ERROR_BYTES_MAX);
    for (;;) {
        TRY(http_client_read(client, step, sizeof step, &len));
        if (len == 0) {
            break;
        }
        TRY(buf_append(&body, step, len));
    }
    const char *text;
    TRY(buf_text(&body, &text));
    return take_error(answer, http_client_status(client), text, body.len);
}

/* The stream. */

/* Text of a model may hold what would command a terminal: that is shown as '?'. */
static void show(struct answer *answer, const char *text, size_t len) {
    size_t shown = 0;
    for (size_t i = 0; i < len && answer->settings->is_terminal_shown; i++) {
        unsigned char byte = (unsigned char)text[i];
        /* U+0080 to U+009F are commands too, in two bytes each. */
        size_t wide = byte == 0xc2 && i + 1 < len && (unsigned char)text[i + 1] < 0xa0;
        if (wide || (byte < ' ' && byte != '\n' && byte != '\t') || byte == 0x7f) {
            fwrite(text + shown, 1, i - shown, stdout);
            putchar('?');
            i += wide;
            shown = i + 1;
        }
    }
    fwrite(text + shown, 1, len - shown, stdout);
    if (len > 0) {
        answer->is_line_begun = text[len - 1] != '\n';
    }
    fflush(stdout);
}

static enum err take_chunk(struct answer *answer, const json_t *chunk) {
    const json_t *choice = json_array_get(json_object_get(chunk, "choices"), 0);
    const json_t *content = json_object_get(json_object_get(choice, "delta"), "content");
    if (json_string_length(content) > 0) {
        answer->last_ns = now_monotonic_ns();
        if (answer->first_ns == 0) {
            answer->first_ns = answer->last_ns;
        }
        show(answer, json_string_value(content), json_string_length(content));
    }
    const char *reason = json_string_value(json_object_get(choice, "finish_reason"));
    if (reason != NULL && answer->reason == NULL) {
        answer->reason = strdup(reason);
        answer->tern = json_incref(json_object_get(chunk, "tern"));
        if (answer->reason == NULL) {
            return err_fail(ERR_NOMEM, "answer");
        }
    }
    const json_t *tokens = json_object_get(json_object_get(chunk, "usage"), "completion_tokens");
    if (json_is_integer(tokens)) {
        answer->tokens = json_integer_value(tokens);
    }
    return ERR_OK;
}

static enum err take_event(void *context, const struct sse_event *event) {
    struct answer *answer = context;
    if (strcmp(event->name, "error") == 0) {
        return take_error(answer, STATUS_OK, event->data, event->len);
    }
    if (strcmp(event->data, "[DONE]") == 0) {
        answer->is_done = 1;
        return ERR_OK;
    }
    json_error_t error;
    json_t *chunk = json_loadb(event->data, event->len, JSON_ALLOW_NUL, &error);
    if (chunk == NULL) {
        return err_fail(ERR_FORMAT, "the server sent what is no JSON: %s", error.text);
    }
    enum err err = json_object_get(chunk, "error") != NULL
                       ? take_error(answer, STATUS_OK, event->data, event->len)
                       : take_chunk(answer, chunk);
    json_decref(chunk);
    return err;
}

static enum err read_stream(struct answer *answer, struct http_client *client) {
    CLEANUP(sse_done) struct sse sse;
    char step[STEP_BYTES];
    size_t len;
    sse_init(&sse);
    while (!answer->is_done) {
        TRY(http_client_read(client, step, sizeof step, &len));
        if (len == 0) {
            return err_fail(ERR_CLOSED, "the server ended the answer before its end");
        }
        TRY(sse_push(&sse, step, len, take_event, answer));
    }
    return ERR_OK;
}

/* The line about an answer. */

static long long integer_of(const json_t *object, const char *name) {
    const json_t *value = json_object_get(object, name);
    return json_is_number(value) ? (long long)json_number_value(value) : 0;
}

static void show_speed(const struct answer *answer) {
    if (answer->first_ns == 0) {
        return;
    }
    printf(", first token after %.0f ms", (double)(answer->first_ns - answer->started_ns) / 1e6);
    double decode_ms = json_number_value(json_object_get(answer->tern, "decode_ms"));
    if (decode_ms <= 0) {
        decode_ms = (double)(answer->last_ns - answer->first_ns) / 1e6;
    }
    if (decode_ms > 0 && answer->tokens > 1) { /* the first one is the prefill's */
        printf(", %.1f tokens/s", (double)(answer->tokens - 1) * 1e3 / decode_ms);
    }
}

static void show_summary(const struct answer *answer) {
    const json_t *tern = answer->tern;
    if (tern == NULL) {
        printf("[answered");
    } else {
        long long reused = integer_of(tern, "tokens_reused");
        printf("[turn %lld%s: %lld tokens reused", integer_of(tern, "turn"),
               json_is_true(json_object_get(tern, "created")) ? " (new)" : "", reused);
        if (reused > 0) {
            printf(" from %s", text_of(tern, "tier", "none"));
        }
        long long bytes = integer_of(tern, "bytes_read");
        if (bytes > 0) {
            printf(" (%lld bytes in %.1f ms)", bytes,
                   json_number_value(json_object_get(tern, "promote_ms")));
        }
        printf(", %lld run", integer_of(tern, "tokens_run"));
    }
    show_speed(answer);
    if (tern != NULL) {
        printf(", %s", text_of(tern, "durability", "durability unknown"));
        if (json_is_true(json_object_get(tern, "rebuilt"))) {
            printf(", rebuilt");
        }
        const char *reason = json_string_value(json_object_get(tern, "reason"));
        if (reason != NULL) {
            printf(", reason: %s", reason);
        }
    }
    if (answer->reason != NULL && strcmp(answer->reason, "stop") != 0) {
        printf(", ended by %s", answer->reason);
    }
    printf("]\n");
    fflush(stdout);
}

static enum err converse(struct answer *answer, const struct chat_turn *turn) {
    const struct chat_turn_settings *settings = answer->settings;
    CLEANUP(object_free) char *body = NULL;
    TRY(request_body(settings, turn, &body));
    struct http_client_request request = {.url = settings->url,
                                          .path = "/v1/chat/completions",
                                          .api_key = settings->api_key,
                                          .body = body,
                                          .body_len = strlen(body),
                                          .cancel_fd = settings->cancel_fd};
    struct http_client *client;
    answer->started_ns = now_monotonic_ns();
    TRY(http_client_open(&request, &client));
    enum err err = http_client_status(client) == STATUS_OK ? read_stream(answer, client)
                                                           : read_error(answer, client);
    http_client_close(client);
    return err;
}

enum err chat_turn_run(const struct chat_turn_settings *settings, const struct chat_turn *turn,
                       struct chat_turn_outcome *out) {
    *out =
        (struct chat_turn_outcome){.turn = CHAT_TURN_UNKNOWN, .committed_turn = CHAT_TURN_UNKNOWN};
    CLEANUP(answer_done) struct answer answer = {.settings = settings, .outcome = out};
    enum err err = converse(&answer, turn);
    if (answer.is_line_begun) {
        putchar('\n');
    }
    fflush(stdout);
    TRY(err);
    out->is_answered = 1;
    const json_t *number = json_object_get(answer.tern, "turn");
    if (json_is_integer(number)) {
        out->turn = json_integer_value(number);
    }
    show_summary(&answer);
    return ERR_OK;
}
