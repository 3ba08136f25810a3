/*
 * A request as it was received: its head cut into parts, and its whole body.
 * Filled by http_parser.h; read-only afterwards, from any thread. Knows the
 * grammar of targets and header fields, not what they mean.
 */
#ifndef TERN_SERVER_HTTP_REQUEST_H
#define TERN_SERVER_HTTP_REQUEST_H

#include "base/buf.h"

enum { HTTP_FIELDS_MAX = 100 };

struct http_field {
    const char *name; /* into the head, as received */
    const char *value;
};

struct http_request {
    struct buf head; /* owns what the pointers below point at */
    const char *method;
    const char *path;  /* with percent signs; begins with '/', or is "*" */
    const char *query; /* behind the '?', or NULL */
    int minor_version; /* of HTTP/1 */
    struct http_field fields[HTTP_FIELDS_MAX];
    size_t field_count;
    int keeps_alive; /* the client can go on with this connection */
    int expects_continue;
    int has_body;
    struct buf body;
};

void http_request_init(struct http_request *request, size_t head_max, size_t body_max);
void http_request_done(struct http_request *request);

/* The value of the first field of this name, in any case; NULL if there is none. */
const char *http_request_field(const struct http_request *request, const char *name);

/* Is METHOD the request's? HEAD counts as GET. */
int http_request_is(const struct http_request *request, const char *method);

/*
 * Undoes percent-encoding of TEXT up to LEN bytes, '+' too where IS_QUERY. ERR_INVALID for broken
 * escapes and for what does not decode to UTF-8 without NUL. The caller frees *out.
 */
MUST_USE enum err http_request_decode(const char *text, size_t len, int is_query, char **out);

/*
 * Reads a query that may hold one parameter, NAME. *out: its value, NULL if it is not there; the
 * caller frees it. ERR_INVALID for any other parameter, and for one given twice.
 */
MUST_USE enum err http_request_query(const struct http_request *request, const char *name,
                                     char **out);

#endif
