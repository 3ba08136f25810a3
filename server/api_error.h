/*
 * Errors as OpenAI's clients know them: status, {"error": {message, type, param, code}} and the
 * headers that tell a client whether and when to try again. Plain values, any thread.
 */
#ifndef TERN_SERVER_API_ERROR_H
#define TERN_SERVER_API_ERROR_H

#include "server/http_exchange.h"
#include "server/turn.h"

struct api_error {
    int status;
    const char *type; /* static; NULL: what goes with the status */
    char code[48];    /* "": null */
    char param[96];   /* "": null */
    char message[512];
    int retry_after_ms;     /* > 0: Retry-After and retry-after-ms */
    int never_retry;        /* x-should-retry: false */
    int64_t committed_turn; /* >= 0: in the body */
    int64_t rebuild_tokens; /* >= 0: in the body */
    const char *allow;      /* the header of a 405; static */
};

/* CODE and PARAM may be NULL. */
void api_error_set(struct api_error *error, int status, const char *code, const char *param,
                   const char *format, ...) PRINTF_LIKE(5, 6);

/* Copies all that FAILURE says. */
void api_error_from_failure(struct api_error *error, const struct turn_failure *failure);

/* The JSON object with the member "error". */
MUST_USE enum err api_error_body(const struct api_error *error, struct buf *out);

void api_error_respond(const struct api_error *error, struct http_exchange *exchange);

#endif
