/*
 * The JSON body of POST /v1/chat/completions, read and checked, as a turn_request.
 * Known fields of a wrong type or value are refused by name, and so is an unknown one that
 * begins with "conversation_", since a typo there costs the context; other unknown
 * fields are ignored. null is the same as a field that is not there.
 *
 * Runs on a front thread. Owns all that its turn_request points at, except the tenant.
 */
#ifndef TERN_SERVER_CHAT_REQUEST_H
#define TERN_SERVER_CHAT_REQUEST_H

#include "server/api_error.h"

enum {
    CHAT_REQUEST_NAME_MAX = 512, /* bytes of a conversation_id or cache_salt */
    CHAT_REQUEST_MESSAGES_MAX = 16384,
    CHAT_REQUEST_BIASES_MAX = 1024,
    CHAT_REQUEST_STOP_BYTES_MAX = 1024, /* of one stop string */
    CHAT_REQUEST_VALUES_MAX = 1 << 18,  /* JSON values in a body, which bounds its memory */
    CHAT_REQUEST_DEPTH_MAX = 64,
};

struct chat_request {
    struct turn_request turn; /* its tenant is the caller's to set */
    int is_stream;
    int includes_usage; /* stream_options.include_usage */
};

/* On failure *error says what to answer. */
MUST_USE enum err chat_request_parse(const char *json, size_t len, struct chat_request **out,
                                     struct api_error *error);
void chat_request_destroy(struct chat_request *request); /* NULL is allowed */

/* Reads a conversation's id or salt from elsewhere: the same limits. Names PARAM if it fails. */
MUST_USE enum err chat_request_check_name(const char *name, size_t len, const char *param,
                                          struct api_error *error);

#endif
