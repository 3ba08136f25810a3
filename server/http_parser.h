/*
 * HTTP/1.1 requests from a stream of bytes, in pieces of any size. Strict where
 * two readers could see two different requests (line ends, lengths, white space in
 * front of colons), with a bound on everything. No I/O. One parser per request.
 */
#ifndef TERN_SERVER_HTTP_PARSER_H
#define TERN_SERVER_HTTP_PARSER_H

#include "server/http_request.h"

enum {
    HTTP_PARSER_HEAD_MAX = 32 << 10, /* bytes of request line and fields together */
    HTTP_PARSER_LINE_MAX = 256,      /* bytes of a chunk's size line */
    HTTP_PARSER_TRAILER_MAX = 8 << 10,
};

enum http_parser_outcome {
    HTTP_PARSER_MORE,   /* all bytes were taken; more are needed */
    HTTP_PARSER_HEAD,   /* the head is complete; told once, before the first byte of the body */
    HTTP_PARSER_DONE,   /* the request is complete; bytes behind it were not taken */
    HTTP_PARSER_FAILED, /* `status` and `message` say what to answer; the connection is lost */
};

struct http_parser {
    struct http_request *request; /* borrowed */
    uint64_t body_max;
    int state;
    uint64_t left; /* bytes of the body, or of the chunk */
    int is_chunked;
    uint64_t chunk_size; /* as far as it was read */
    int digits;          /* of the chunk's size */
    size_t line_len;
    size_t trailer_len;
    int is_after_cr; /* in the framing of a body */
    int status;
    const char *message; /* static */
};

/* REQUEST has been initialised and stays until the parser is done with. */
void http_parser_init(struct http_parser *parser, struct http_request *request, size_t body_max);

/* Has a byte of the request been seen? */
int http_parser_has_begun(const struct http_parser *parser);

/* Takes *used of LEN bytes. After DONE or FAILED it is not to be called again. */
enum http_parser_outcome http_parser_feed(struct http_parser *parser, const char *bytes, size_t len,
                                          size_t *used);

#endif
