#include "tools/bench_turn.h"

#include "base/now.h"
#include "tools/answer_stream.h"
#include "tools/vocabulary.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LOGIT_BIAS_MAX = 100 };

static const char *const tier_names[BENCH_TURN_TIERS] = {
    [BENCH_TURN_NONE] = "none",
    [BENCH_TURN_DEVICE] = "device",
    [BENCH_TURN_HOST] = "host",
    [BENCH_TURN_DISK] = "disk",
};

const char *bench_turn_tier_name(enum bench_turn_tier tier) {
    return tier_names[tier];
}

enum err bench_turn_answer_token(const char *model, int32_t *out) {
    CLEANUP(token_list_done) struct token_list list = {0};
    struct tokenizer_encode_params params = {.text = " time", .len = 5};
    struct tokenizer *tokenizer;
    TRY(vocabulary_load(model, &tokenizer));
    enum err code = tokenizer_encode(tokenizer, &params, &list);
    tokenizer_destroy(tokenizer);
    TRY(code);
    if (list.count == 0) {
        return err_fail(ERR_FORMAT, "a word has no tokens");
    }
    *out = list.ids[0];
    return ERR_OK;
}

/* --- the request ----------------------------------------------------------------------------- */

static int set(json_t *body, const char *name, json_t *value) {
    return json_object_set_new(body, name, value);
}

static enum err request_body(const struct bench_turn *turn, char **out) {
    json_t *body =
        json_pack("{s: s, s: b, s: {s: b}, s: i, s: I, s: b, s: [{s: s, s: s}]}", "model", "tern",
                  "stream", 1, "stream_options", "include_usage", 1, "temperature", 0, "max_tokens",
                  (json_int_t)turn->max_tokens, "ignore_eos", turn->ignores_end, "messages", "role",
                  "user", "content", turn->message);
    int failed = body == NULL;
    if (turn->conversation != NULL) {
        failed |= set(body, "conversation_id", json_string(turn->conversation));
    }
    if (turn->salt != NULL) {
        failed |= set(body, "cache_salt", json_string(turn->salt));
    }
    if (turn->has_answer_token) {
        char id[16];
        snprintf(id, sizeof id, "%d", turn->answer_token);
        failed |= set(body, "logit_bias", json_pack("{s: i}", id, LOGIT_BIAS_MAX));
    }
    if (turn->is_durable) {
        failed |= set(body, "conversation_durability", json_string("state"));
    }
    if (turn->must_be_new) {
        failed |= set(body, "conversation_expected_turn", json_integer(0));
    }
    if (turn->must_be_there) {
        failed |= set(body, "conversation_require_cache", json_true());
    }
    char *text = failed ? NULL : json_dumps(body, JSON_COMPACT);
    json_decref(body);
    if (text == NULL) {
        return err_fail(ERR_INVALID, "the request cannot be written as JSON");
    }
    *out = text;
    return ERR_OK;
}

/* --- the answer ------------------------------------------------------------------------------ */

static double seconds_between(uint64_t from_ns, uint64_t to_ns) {
    return (double)(to_ns - from_ns) * 1e-9;
}

static enum err read_tier(const json_t *tern, enum bench_turn_tier *out) {
    const char *name = answer_stream_text(tern, "tier", "");
    for (int i = 0; i < BENCH_TURN_TIERS; i++) {
        if (strcmp(name, tier_names[i]) == 0) {
            *out = (enum bench_turn_tier)i;
            return ERR_OK;
        }
    }
    return err_fail(ERR_FORMAT, "the server names the tier '%.40s'", name);
}

static double number_of(const json_t *object, const char *name) {
    return json_number_value(json_object_get(object, name));
}

static enum err read_result(const struct answer_stream *answer, struct bench_turn_result *out) {
    const json_t *tern = answer->tern;
    if (tern == NULL) {
        return err_fail(ERR_FORMAT, "the answer has no object 'tern'");
    }
    TRY(read_tier(tern, &out->tier));
    out->is_created = json_is_true(json_object_get(tern, "created"));
    out->is_rebuilt = json_is_true(json_object_get(tern, "rebuilt"));
    snprintf(out->reason, sizeof out->reason, "%s", answer_stream_text(tern, "reason", ""));
    out->turn = answer_stream_integer(tern, "turn");
    out->tokens_reused = answer_stream_integer(tern, "tokens_reused");
    out->tokens_run = answer_stream_integer(tern, "tokens_run");
    out->bytes_read = answer_stream_integer(tern, "bytes_read");
    out->promote_ms = number_of(tern, "promote_ms");
    out->prefill_ms = number_of(tern, "prefill_ms");
    out->decode_ms = number_of(tern, "decode_ms");
    out->prompt_tokens = answer->prompt_tokens;
    out->answer_tokens = answer->answer_tokens;
    return ERR_OK;
}

/* The error that ends the reading where it was to end. */
static enum err stop(void *context, const char *text, size_t len) {
    (void)context;
    (void)text;
    (void)len;
    return err_fail(ERR_CANCELLED, "the first text came");
}

enum err bench_turn_run(const struct bench_server *server, const struct bench_turn *turn,
                        struct bench_turn_result *out) {
    CLEANUP(object_free) char *body = NULL;
    CLEANUP(answer_stream_done) struct answer_stream answer;
    struct bench_turn_result result = {0};
    struct http_client *client;
    answer_stream_init(&answer);
    answer.on_text = turn->stops_at_first ? stop : NULL;
    TRY(request_body(turn, &body));
    struct http_client_request request = {
        .url = bench_server_url(server),
        .path = "/v1/chat/completions",
        .body = body,
        .body_len = strlen(body),
        .cancel_fd = bench_server_cancel_fd(server),
    };
    uint64_t started_ns = now_monotonic_ns();
    TRY(http_client_open(&request, &client));
    enum err code = answer_stream_read(&answer, client);
    http_client_close(client);
    result.seconds = seconds_between(started_ns, now_monotonic_ns());
    int has_stopped = turn->stops_at_first && answer.first_ns != 0;
    if (!has_stopped) {
        TRY(code);
        TRY(read_result(&answer, &result));
    }
    result.first_seconds =
        seconds_between(started_ns, answer.first_ns != 0 ? answer.first_ns : answer.finish_ns);
    *out = result;
    return ERR_OK;
}

enum err bench_turn_expect(const struct bench_turn_result *result, enum bench_turn_tier tier,
                           const char *what) {
    if (result->tier != tier || result->is_rebuilt || result->reason[0] != '\0') {
        return err_fail(ERR_CONFLICT,
                        "%s: expected state from tier %s, got tier %s, %lld tokens reused, %lld "
                        "run%s%s%s",
                        what, tier_names[tier], tier_names[result->tier], result->tokens_reused,
                        result->tokens_run, result->is_rebuilt ? ", rebuilt" : "",
                        result->reason[0] != '\0' ? ", reason " : "", result->reason);
    }
    return ERR_OK;
}
