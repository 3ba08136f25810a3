#include "server/api_error.h"

#include "server/json_text.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { BODY_MAX = 8 << 10, FIELDS_MAX = 5 };

static void copy_text(char *to, size_t size, const char *from) {
    snprintf(to, size, "%s", from != NULL ? from : "");
}

void api_error_set(struct api_error *error, int status, const char *code, const char *param,
                   const char *format, ...) {
    va_list arguments;
    *error = (struct api_error){.status = status, .committed_turn = -1, .rebuild_tokens = -1};
    copy_text(error->code, sizeof error->code, code);
    copy_text(error->param, sizeof error->param, param);
    va_start(arguments, format);
    vsnprintf(error->message, sizeof error->message, format, arguments);
    va_end(arguments);
}

void api_error_from_failure(struct api_error *error, const struct turn_failure *failure) {
    int status =
        failure->http_status >= 400 && failure->http_status <= 599 ? failure->http_status : 500;
    api_error_set(error, status, failure->code, failure->param, "%s",
                  failure->message != NULL ? failure->message : "");
    if (failure->type != NULL && strcmp(failure->type, "server_error") == 0) {
        error->type = "server_error";
    } else if (failure->type != NULL && strcmp(failure->type, "invalid_request_error") == 0) {
        error->type = "invalid_request_error";
    }
    error->retry_after_ms = failure->retry_after_ms;
    error->never_retry = failure->never_retry;
    error->committed_turn = failure->committed_turn;
    error->rebuild_tokens = failure->rebuild_tokens;
}

static const char *type_of(const struct api_error *error) {
    if (error->type != NULL) {
        return error->type;
    }
    if (error->status == 429) {
        return "rate_limit_error";
    }
    return error->status < 500 ? "invalid_request_error" : "server_error";
}

static const char *text_or_null(const char *text) {
    return text[0] != '\0' ? text : NULL;
}

enum err api_error_body(const struct api_error *error, struct buf *out) {
    TRY(buf_append_text(out, "{\"error\":{\"message\":"));
    TRY(json_text_append_string(out, error->message));
    TRY(buf_append_text(out, ",\"type\":"));
    TRY(json_text_append_string(out, type_of(error)));
    TRY(buf_append_text(out, ",\"param\":"));
    TRY(json_text_append_string(out, text_or_null(error->param)));
    TRY(buf_append_text(out, ",\"code\":"));
    TRY(json_text_append_string(out, text_or_null(error->code)));
    if (error->committed_turn >= 0) {
        TRY(buf_printf(out, ",\"committed_turn\":%" PRId64, error->committed_turn));
    }
    if (error->rebuild_tokens >= 0) {
        TRY(buf_printf(out, ",\"rebuild_tokens\":%" PRId64, error->rebuild_tokens));
    }
    return buf_append_text(out, "}}");
}

void api_error_respond(const struct api_error *error, struct http_exchange *exchange) {
    static const char no_memory[] = "{\"error\":{\"message\":\"out of memory\",\"type\":"
                                    "\"server_error\",\"param\":null,\"code\":null}}";
    struct http_field fields[FIELDS_MAX];
    char seconds[16];
    char milliseconds[16];
    size_t count = 0;
    if (error->retry_after_ms > 0) {
        snprintf(seconds, sizeof seconds, "%d", (error->retry_after_ms - 1) / 1000 + 1);
        snprintf(milliseconds, sizeof milliseconds, "%d", error->retry_after_ms);
        fields[count++] = (struct http_field){.name = "Retry-After", .value = seconds};
        fields[count++] = (struct http_field){.name = "retry-after-ms", .value = milliseconds};
    }
    if (error->never_retry) {
        fields[count++] = (struct http_field){.name = "x-should-retry", .value = "false"};
    }
    if (error->status == 401) {
        fields[count++] = (struct http_field){.name = "WWW-Authenticate", .value = "Bearer"};
    }
    if (error->allow != NULL) {
        fields[count++] = (struct http_field){.name = "Allow", .value = error->allow};
    }
    struct http_head head = {.status = error->status,
                             .content_type = "application/json",
                             .fields = fields,
                             .field_count = count};
    struct buf body;
    buf_init(&body, BODY_MAX);
    if (api_error_body(error, &body) == ERR_OK) {
        http_exchange_respond(exchange, &head, body.data, body.len);
    } else {
        http_exchange_respond(exchange, &head, no_memory, sizeof no_memory - 1);
    }
    buf_done(&body);
}
