/*
 * One blocking HTTP/1.1 request and its response, body in any of its three framings. No TLS, no
 * redirects, no reuse of connections. One thread.
 */
#ifndef TERN_TOOLS_HTTP_CLIENT_H
#define TERN_TOOLS_HTTP_CLIENT_H

#include "base/err.h"

enum { HTTP_CLIENT_HOST_BYTES = 256, HTTP_CLIENT_PATH_BYTES = 1024 };

struct http_client_url {
    char host[HTTP_CLIENT_HOST_BYTES]; /* without the brackets of an IPv6 address */
    char port[8];
    char path[HTTP_CLIENT_PATH_BYTES]; /* "" or "/prefix", without a slash at its end */
};

/* http://HOST[:PORT][/PREFIX]; ERR_INVALID says what is wrong, ERR_UNSUPPORTED for https. */
MUST_USE enum err http_client_parse_url(const char *text, struct http_client_url *out);

struct http_client_request {
    const struct http_client_url *url;
    const char *path;    /* behind the URL's own: "/v1/models" */
    const char *api_key; /* NULL: none */
    const char *body;    /* JSON; NULL: a GET, else a POST */
    size_t body_len;
    int cancel_fd; /* gives up when this becomes readable; -1: never */
};

struct http_client;

/*
 * Connects, sends the request and reads the response's head. ERR_IO names the host; ERR_CANCELLED,
 * here and below, when cancel_fd became readable; ERR_FORMAT for what is not HTTP.
 */
MUST_USE enum err http_client_open(const struct http_client_request *request,
                                   struct http_client **out);

/* Closes the connection, whether or not the body was read to its end. Accepts NULL. */
void http_client_close(struct http_client *client);

int http_client_status(const struct http_client *client);

/*
 * Reads what there is of the body, at least one byte; *len is 0 at its end. ERR_CLOSED when the
 * connection ended before the body did.
 */
MUST_USE enum err http_client_read(struct http_client *client, char *bytes, size_t capacity,
                                   size_t *len);

#endif
