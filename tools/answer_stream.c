#include "tools/answer_stream.h"

#include "base/buf.h"
#include "base/now.h"
#include "tools/sse.h"

#include <stdlib.h>
#include <string.h>

enum { STEP_BYTES = 8 * 1024, ERROR_BYTES_MAX = 1 << 20, STATUS_OK = 200 };

void answer_stream_init(struct answer_stream *answer) {
    *answer = (struct answer_stream){.committed_turn = ANSWER_STREAM_TURN_UNKNOWN};
}

void answer_stream_done(struct answer_stream *answer) {
    json_decref(answer->tern);
    free(answer->reason);
    answer->tern = NULL;
    answer->reason = NULL;
}

const char *answer_stream_text(const json_t *object, const char *name, const char *missing) {
    const char *text = json_string_value(json_object_get(object, name));
    return text == NULL ? missing : text;
}

long long answer_stream_integer(const json_t *object, const char *name) {
    const json_t *value = json_object_get(object, name);
    return json_is_number(value) ? (long long)json_number_value(value) : 0;
}

/* --- errors that the server reports, in OpenAI's shape ---------------------------------------- */

static enum err take_error(struct answer_stream *answer, int status, const char *text, size_t len) {
    json_t *body = json_loadb(text, len, 0, NULL);
    const json_t *error = json_object_get(body, "error");
    const char *code =
        answer_stream_text(error, "code", answer_stream_text(error, "type", "error"));
    const json_t *committed = json_object_get(error, "committed_turn");
    if (json_is_integer(committed)) {
        answer->committed_turn = json_integer_value(committed);
    }
    answer->is_conflict = strcmp(code, "conversation_turn_conflict") == 0 &&
                          answer->committed_turn != ANSWER_STREAM_TURN_UNKNOWN;
    const char *message = answer_stream_text(error, "message", "the server gave no reason");
    enum err err = answer->is_conflict ? ERR_CONFLICT : ERR_INVALID;
    if (status != STATUS_OK) {
        err_record("%d %s: %s", status, code, message);
    } else {
        err_record("%s: %s", code, message);
    }
    json_decref(body);
    return err;
}

static enum err read_error(struct answer_stream *answer, struct http_client *client) {
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

/* --- the stream ------------------------------------------------------------------------------ */

static enum err take_finish(struct answer_stream *answer, const json_t *chunk, const char *reason) {
    answer->reason = strdup(reason);
    if (answer->reason == NULL) {
        return err_fail(ERR_NOMEM, "answer");
    }
    answer->finish_ns = now_monotonic_ns();
    answer->tern = json_incref(json_object_get(chunk, "tern"));
    return ERR_OK;
}

static enum err take_chunk(struct answer_stream *answer, const json_t *chunk) {
    const json_t *choice = json_array_get(json_object_get(chunk, "choices"), 0);
    const json_t *content = json_object_get(json_object_get(choice, "delta"), "content");
    if (json_string_length(content) > 0) {
        answer->last_ns = now_monotonic_ns();
        if (answer->first_ns == 0) {
            answer->first_ns = answer->last_ns;
        }
        if (answer->on_text != NULL) {
            TRY(answer->on_text(answer->context, json_string_value(content),
                                json_string_length(content)));
        }
    }
    const char *reason = json_string_value(json_object_get(choice, "finish_reason"));
    if (reason != NULL && answer->reason == NULL) {
        TRY(take_finish(answer, chunk, reason));
    }
    const json_t *usage = json_object_get(chunk, "usage");
    if (json_is_integer(json_object_get(usage, "completion_tokens"))) {
        answer->prompt_tokens = answer_stream_integer(usage, "prompt_tokens");
        answer->answer_tokens = answer_stream_integer(usage, "completion_tokens");
    }
    return ERR_OK;
}

static enum err take_event(void *context, const struct sse_event *event) {
    struct answer_stream *answer = context;
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

static enum err read_stream(struct answer_stream *answer, struct http_client *client) {
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

enum err answer_stream_read(struct answer_stream *answer, struct http_client *client) {
    return http_client_status(client) == STATUS_OK ? read_stream(answer, client)
                                                   : read_error(answer, client);
}
