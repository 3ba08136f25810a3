/*
 * What a chat completion answers, byte for byte as OpenAI's clients read it: the whole
 * body, and the events of a stream. Appends to a buffer, knows no connection. Any thread.
 */
#ifndef TERN_SERVER_CHAT_RESPONSE_H
#define TERN_SERVER_CHAT_RESPONSE_H

#include "base/buf.h"
#include "server/api_error.h"
#include "server/turn.h"

/* What all parts of one answer share; strings are borrowed. */
struct chat_response {
    const char *id; /* "chatcmpl-..." */
    uint64_t created_s;
    const char *model;
    int includes_usage; /* a stream ends with an event that holds it */
};

MUST_USE enum err chat_response_body(const struct chat_response *response, const char *text,
                                     size_t len, const struct turn_result *result, struct buf *out);

/* The events of a stream, in this order: begin, any number of text, end. */
MUST_USE enum err chat_response_begin(const struct chat_response *response, struct buf *out);
MUST_USE enum err chat_response_text(const struct chat_response *response, const char *text,
                                     size_t len, struct buf *out);
/* finish_reason and the tern object, the usage if it is included, and [DONE]. */
MUST_USE enum err chat_response_end(const struct chat_response *response,
                                    const struct turn_result *result, struct buf *out);
/* Instead of end: an event "error", and no [DONE]. */
MUST_USE enum err chat_response_error(const struct api_error *error, struct buf *out);

#endif
