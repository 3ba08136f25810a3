#include "server/chat_response.h"

#include "server/json_text.h"

#include <inttypes.h>
#include <math.h>

static enum err append_opening(const struct chat_response *response, const char *object,
                               struct buf *out) {
    TRY(buf_append_text(out, "{\"id\":"));
    TRY(json_text_append_string(out, response->id));
    TRY(buf_printf(out, ",\"object\":\"%s\",\"created\":%" PRIu64 ",\"model\":", object,
                   response->created_s));
    TRY(json_text_append_string(out, response->model));
    return buf_append_text(out, ",\"system_fingerprint\":null,\"choices\":[");
}

static enum err append_usage(const struct turn_result *result, struct buf *out) {
    return buf_printf(out,
                      "\"usage\":{\"prompt_tokens\":%d,\"completion_tokens\":%d,"
                      "\"total_tokens\":%d,\"prompt_tokens_details\":{\"cached_tokens\":%d},"
                      "\"completion_tokens_details\":{\"reasoning_tokens\":0}}",
                      result->prompt_tokens, result->completion_tokens,
                      result->prompt_tokens + result->completion_tokens,
                      result->num_computed_tokens);
}

/* JSON has no infinity. */
static double finite_or_zero(double value) {
    return isfinite(value) ? value : 0.0;
}

static enum err append_tern(const struct turn_result *result, struct buf *out) {
    if (result->turn > 0) {
        TRY(buf_printf(out, "\"tern\":{\"turn\":%" PRIu64, result->turn));
    } else {
        TRY(buf_append_text(out, "\"tern\":{\"turn\":null"));
    }
    TRY(buf_printf(out, ",\"created\":%s,\"tier\":", result->is_created ? "true" : "false"));
    TRY(json_text_append_string(out, result->tier));
    TRY(buf_printf(
        out,
        ",\"num_computed_tokens\":%d,\"tokens_reused\":%d,\"tokens_run\":%d,"
        "\"bytes_read\":%" PRIu64 ",\"promote_ms\":%.3f,\"prefill_ms\":%.3f,\"decode_ms\":%.3f,"
        "\"commit_ms\":%.3f,"
        "\"durability\":\"%s\",\"rebuilt\":%s,\"reason\":",
        result->num_computed_tokens, result->tokens_reused, result->tokens_run, result->bytes_read,
        finite_or_zero(result->promote_ms), finite_or_zero(result->prefill_ms),
        finite_or_zero(result->decode_ms), finite_or_zero(result->commit_ms),
        result->is_durable ? "durable" : "volatile", result->is_rebuilt ? "true" : "false"));
    TRY(json_text_append_string(out, result->reason));
    if (result->has_logits_digest) {
        TRY(buf_append_text(out, ",\"logits_digest\":\""));
        for (size_t i = 0; i < sizeof result->logits_digest; i++) {
            TRY(buf_printf(out, "%02x", result->logits_digest[i]));
        }
        TRY(buf_append_text(out, "\""));
    }
    return buf_append_text(out, "}");
}

enum err chat_response_body(const struct chat_response *response, const char *text, size_t len,
                            const struct turn_result *result, struct buf *out) {
    TRY(append_opening(response, "chat.completion", out));
    TRY(buf_append_text(out, "{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":"));
    TRY(json_text_append(out, text, len));
    TRY(buf_append_text(out, ",\"refusal\":null},\"logprobs\":null,\"finish_reason\":"));
    TRY(json_text_append_string(out, result->finish_reason));
    TRY(buf_append_text(out, "}],"));
    TRY(append_usage(result, out));
    TRY(buf_append_text(out, ","));
    TRY(append_tern(result, out));
    return buf_append_text(out, "}");
}

/* --- a stream --------------------------------------------------------------------------- */

static enum err open_event(const struct chat_response *response, struct buf *out) {
    TRY(buf_append_text(out, "data: "));
    return append_opening(response, "chat.completion.chunk", out);
}

static enum err open_choice(const struct chat_response *response, struct buf *out) {
    TRY(open_event(response, out));
    return buf_append_text(out, "{\"index\":0,\"delta\":{");
}

/* Behind the delta's members. FINISH may be NULL. */
static enum err close_choice(const struct chat_response *response, const char *finish,
                             struct buf *out) {
    TRY(buf_append_text(out, "},\"logprobs\":null,\"finish_reason\":"));
    TRY(json_text_append_string(out, finish));
    TRY(buf_append_text(out, "}]"));
    return response->includes_usage ? buf_append_text(out, ",\"usage\":null") : ERR_OK;
}

static enum err close_event(struct buf *out) {
    return buf_append_text(out, "}\n\n");
}

enum err chat_response_begin(const struct chat_response *response, struct buf *out) {
    TRY(open_choice(response, out));
    TRY(buf_append_text(out, "\"role\":\"assistant\",\"content\":\"\",\"refusal\":null"));
    TRY(close_choice(response, NULL, out));
    return close_event(out);
}

enum err chat_response_text(const struct chat_response *response, const char *text, size_t len,
                            struct buf *out) {
    TRY(open_choice(response, out));
    TRY(buf_append_text(out, "\"content\":"));
    TRY(json_text_append(out, text, len));
    TRY(close_choice(response, NULL, out));
    return close_event(out);
}

enum err chat_response_end(const struct chat_response *response, const struct turn_result *result,
                           struct buf *out) {
    TRY(open_choice(response, out));
    TRY(close_choice(response, result->finish_reason, out));
    TRY(buf_append_text(out, ","));
    TRY(append_tern(result, out));
    TRY(close_event(out));
    if (response->includes_usage) {
        TRY(open_event(response, out));
        TRY(buf_append_text(out, "],"));
        TRY(append_usage(result, out));
        TRY(close_event(out));
    }
    return buf_append_text(out, "data: [DONE]\n\n");
}

enum err chat_response_error(const struct api_error *error, struct buf *out) {
    TRY(buf_append_text(out, "event: error\ndata: "));
    TRY(api_error_body(error, out));
    return buf_append_text(out, "\n\n");
}
