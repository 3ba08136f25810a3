#include "tools/chat_turn.h"

#include "base/now.h"
#include "tools/answer_stream.h"

#include <stdio.h>
#include <string.h>

/* The answer, and what of it is shown. */
struct answer {
    const struct chat_turn_settings *settings;
    struct answer_stream stream;
    uint64_t started_ns;
    int is_line_begun; /* the last character shown was no line break */
};

static void answer_done(struct answer *answer) {
    answer_stream_done(&answer->stream);
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

/* The text. */

/* Text of a model may hold what would command a terminal: that is shown as '?'. */
static enum err show(void *context, const char *text, size_t len) {
    struct answer *answer = context;
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
    return ERR_OK;
}

/* The line about an answer. */

static void show_speed(const struct answer *answer) {
    const struct answer_stream *stream = &answer->stream;
    if (stream->first_ns == 0) {
        return;
    }
    printf(", first token after %.0f ms", (double)(stream->first_ns - answer->started_ns) / 1e6);
    double decode_ms = json_number_value(json_object_get(stream->tern, "decode_ms"));
    if (decode_ms <= 0) {
        decode_ms = (double)(stream->last_ns - stream->first_ns) / 1e6;
    }
    if (decode_ms > 0 && stream->answer_tokens > 1) { /* the first one is the prefill's */
        printf(", %.1f tokens/s", (double)(stream->answer_tokens - 1) * 1e3 / decode_ms);
    }
}

static void show_summary(const struct answer *answer) {
    const struct answer_stream *stream = &answer->stream;
    const json_t *tern = stream->tern;
    if (tern == NULL) {
        printf("[answered");
    } else {
        long long reused = answer_stream_integer(tern, "tokens_reused");
        printf("[turn %lld%s: %lld tokens reused", answer_stream_integer(tern, "turn"),
               json_is_true(json_object_get(tern, "created")) ? " (new)" : "", reused);
        if (reused > 0) {
            printf(" from %s", answer_stream_text(tern, "tier", "none"));
        }
        long long bytes = answer_stream_integer(tern, "bytes_read");
        if (bytes > 0) {
            printf(" (%lld bytes in %.1f ms)", bytes,
                   json_number_value(json_object_get(tern, "promote_ms")));
        }
        printf(", %lld run", answer_stream_integer(tern, "tokens_run"));
    }
    show_speed(answer);
    if (tern != NULL) {
        printf(", %s", answer_stream_text(tern, "durability", "durability unknown"));
        if (json_is_true(json_object_get(tern, "rebuilt"))) {
            printf(", rebuilt");
        }
        const char *reason = json_string_value(json_object_get(tern, "reason"));
        if (reason != NULL) {
            printf(", reason: %s", reason);
        }
    }
    if (stream->reason != NULL && strcmp(stream->reason, "stop") != 0) {
        printf(", ended by %s", stream->reason);
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
    enum err err = answer_stream_read(&answer->stream, client);
    http_client_close(client);
    return err;
}

enum err chat_turn_run(const struct chat_turn_settings *settings, const struct chat_turn *turn,
                       struct chat_turn_outcome *out) {
    _Static_assert((int)CHAT_TURN_UNKNOWN == (int)ANSWER_STREAM_TURN_UNKNOWN, "one unknown");
    *out =
        (struct chat_turn_outcome){.turn = CHAT_TURN_UNKNOWN, .committed_turn = CHAT_TURN_UNKNOWN};
    CLEANUP(answer_done) struct answer answer = {.settings = settings};
    answer_stream_init(&answer.stream);
    answer.stream.on_text = show;
    answer.stream.context = &answer;
    enum err err = converse(&answer, turn);
    out->is_conflict = answer.stream.is_conflict;
    out->committed_turn = answer.stream.committed_turn;
    if (answer.is_line_begun) {
        putchar('\n');
    }
    fflush(stdout);
    TRY(err);
    out->is_answered = 1;
    const json_t *number = json_object_get(answer.stream.tern, "turn");
    if (json_is_integer(number)) {
        out->turn = json_integer_value(number);
    }
    show_summary(&answer);
    return ERR_OK;
}
