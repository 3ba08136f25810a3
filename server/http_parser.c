/*
 * State      | ends with                | next
 * HEAD       | an empty line            | BODY, CHUNK_SIZE or ENDED (read_head)
 * BODY       | Content-Length bytes     | ENDED
 * CHUNK_SIZE | LF                       | CHUNK_DATA, or TRAILER after size 0
 * CHUNK_DATA | the chunk's bytes        | CHUNK_CR
 * CHUNK_CR   | CR                       | CHUNK_LF
 * CHUNK_LF   | LF                       | CHUNK_SIZE
 * TRAILER    | an empty line            | ENDED
 *
 * I1: bytes behind a request are never taken: they are the next request's.
 * I2: a line ends with CR LF; a bare CR or LF in the head or in the framing is refused.
 * I3: a request has one length: two that differ, or a length beside chunks, are refused.
 */
#include "server/http_parser.h"

#include <string.h>
#include <strings.h>

enum state { HEAD, BODY, CHUNK_SIZE, CHUNK_DATA, CHUNK_CR, CHUNK_LF, TRAILER, ENDED };

void http_parser_init(struct http_parser *parser, struct http_request *request, size_t body_max) {
    *parser = (struct http_parser){.request = request, .body_max = body_max, .state = HEAD};
}

int http_parser_has_begun(const struct http_parser *parser) {
    return parser->state != HEAD || parser->request->head.len > 0;
}

static enum http_parser_outcome fail(struct http_parser *parser, int status, const char *message) {
    parser->state = ENDED;
    parser->status = status;
    parser->message = message;
    return HTTP_PARSER_FAILED;
}

static int is_token_character(unsigned char character) {
    return (character >= '0' && character <= '9') || (character >= 'A' && character <= 'Z') ||
           (character >= 'a' && character <= 'z') ||
           (character != '\0' && strchr("!#$%&'*+-.^_`|~", character) != NULL);
}

static int is_token(const char *text, size_t len) {
    for (size_t i = 0; i < len; i++) {
        if (!is_token_character((unsigned char)text[i])) {
            return 0;
        }
    }
    return len > 0;
}

/* "METHOD target HTTP/1.x"; cuts the line into strings. */
static enum http_parser_outcome read_request_line(struct http_parser *parser, char *line) {
    struct http_request *request = parser->request;
    char *target = strchr(line, ' ');
    char *version = target != NULL ? strchr(target + 1, ' ') : NULL;
    if (version == NULL || strchr(version + 1, ' ') != NULL ||
        !is_token(line, (size_t)(target - line)) || version == target + 1) {
        return fail(parser, 400, "the request line is malformed");
    }
    *target++ = '\0';
    *version++ = '\0';
    if (strncmp(version, "HTTP/", 5) != 0) {
        return fail(parser, 400, "the request line is malformed");
    }
    if (strcmp(version, "HTTP/1.1") != 0 && strcmp(version, "HTTP/1.0") != 0) {
        return fail(parser, 505, "only HTTP/1.1 and HTTP/1.0 are spoken here");
    }
    for (const char *at = target; *at != '\0'; at++) {
        if ((unsigned char)*at <= ' ' || (unsigned char)*at >= 0x7f || *at == '#') {
            return fail(parser, 400, "the request target holds a character that is not allowed");
        }
    }
    if (strncasecmp(target, "http://", 7) == 0 || strncasecmp(target, "https://", 8) == 0) {
        target = strstr(target, "://") + 3;
        target += strcspn(target, "/?");
    }
    if (*target != '/' && strcmp(target, "*") != 0) {
        return fail(parser, 400, "the request target is to begin with '/'");
    }
    char *query = strchr(target, '?');
    if (query != NULL) {
        *query++ = '\0';
    }
    request->method = line;
    request->path = target;
    request->query = query;
    request->minor_version = version[7] - '0';
    return HTTP_PARSER_MORE;
}

/* "name: value"; cuts the line into strings. */
static enum http_parser_outcome read_field(struct http_parser *parser, char *line, size_t len) {
    struct http_request *request = parser->request;
    char *colon = memchr(line, ':', len);
    if (colon == NULL || !is_token(line, (size_t)(colon - line))) {
        return fail(parser, 400, "a header field is malformed");
    }
    if (request->field_count == HTTP_FIELDS_MAX) {
        return fail(parser, 431, "the request has too many header fields");
    }
    char *value = colon + 1;
    char *end = line + len;
    while (value < end && (*value == ' ' || *value == '\t')) {
        value++;
    }
    while (end > value && (end[-1] == ' ' || end[-1] == '\t')) {
        end--;
    }
    for (const char *at = value; at < end; at++) {
        if (((unsigned char)*at < ' ' && *at != '\t') || *at == 0x7f) {
            return fail(parser, 400, "a header field holds a control character");
        }
    }
    *colon = '\0';
    *end = '\0';
    request->fields[request->field_count++] = (struct http_field){.name = line, .value = value};
    return HTTP_PARSER_MORE;
}

/* Digits and nothing else; 0 on anything that is no length. */
static int parse_length(const char *text, uint64_t *out) {
    uint64_t value = 0;
    size_t len = strlen(text);
    if (len == 0 || len > 18) {
        return 0;
    }
    for (size_t i = 0; i < len; i++) {
        if (text[i] < '0' || text[i] > '9') {
            return 0;
        }
        value = value * 10 + (uint64_t)(text[i] - '0');
    }
    *out = value;
    return 1;
}

/* Is WORD one of the comma-separated words of VALUE? */
static int has_word(const char *value, const char *word) {
    size_t word_len = strlen(word);
    while (*value != '\0') {
        value += strspn(value, ", \t");
        size_t len = strcspn(value, ", \t");
        if (len == word_len && strncasecmp(value, word, len) == 0) {
            return 1;
        }
        value += len;
    }
    return 0;
}

struct meaning {
    int host_count;
    int has_length;
    uint64_t length;
    int has_encoding;
};

/* What the fields that this layer obeys say. */
static enum http_parser_outcome read_meaning(struct http_parser *parser, struct meaning *meaning) {
    struct http_request *request = parser->request;
    for (size_t i = 0; i < request->field_count; i++) {
        const char *name = request->fields[i].name;
        const char *value = request->fields[i].value;
        if (strcasecmp(name, "host") == 0) {
            meaning->host_count++;
        } else if (strcasecmp(name, "content-length") == 0) {
            uint64_t length;
            if (!parse_length(value, &length)) {
                return fail(parser, 400, "Content-Length is not a number");
            }
            if (meaning->has_length && length != meaning->length) {
                return fail(parser, 400, "Content-Length is given twice");
            }
            meaning->has_length = 1;
            meaning->length = length;
        } else if (strcasecmp(name, "transfer-encoding") == 0) {
            if (meaning->has_encoding || strcasecmp(value, "chunked") != 0) {
                return fail(parser, 501, "of the transfer encodings only 'chunked' is known");
            }
            meaning->has_encoding = 1;
        } else if (strcasecmp(name, "connection") == 0) {
            if (has_word(value, "close")) {
                request->keeps_alive = 0;
            } else if (request->minor_version == 0 && has_word(value, "keep-alive")) {
                request->keeps_alive = 1;
            }
        } else if (strcasecmp(name, "expect") == 0) {
            if (strcasecmp(value, "100-continue") != 0) {
                return fail(parser, 417, "of Expect only '100-continue' is known");
            }
            request->expects_continue = request->minor_version > 0;
        }
    }
    return HTTP_PARSER_MORE;
}

static enum http_parser_outcome read_framing(struct http_parser *parser) {
    struct http_request *request = parser->request;
    struct meaning meaning = {0};
    request->keeps_alive = request->minor_version > 0;
    enum http_parser_outcome outcome = read_meaning(parser, &meaning);
    if (outcome == HTTP_PARSER_FAILED) {
        return outcome;
    }
    if (meaning.host_count > 1 || (meaning.host_count == 0 && request->minor_version > 0)) {
        return fail(parser, 400, "one Host field is expected");
    }
    if (meaning.has_encoding && (meaning.has_length || request->minor_version == 0)) {
        return fail(parser, 400, "a transfer encoding beside Content-Length or in HTTP/1.0");
    }
    if (meaning.has_length && meaning.length > parser->body_max) {
        return fail(parser, 413, "the body is larger than this server takes");
    }
    parser->is_chunked = meaning.has_encoding;
    parser->left = meaning.length;
    request->has_body = parser->is_chunked || parser->left > 0;
    parser->state = !request->has_body ? ENDED : parser->is_chunked ? CHUNK_SIZE : BODY;
    return HTTP_PARSER_HEAD;
}

/* The head is whole in request->head, its empty line too. */
static enum http_parser_outcome read_head(struct http_parser *parser) {
    char *line = (char *)parser->request->head.data;
    char *end = line + parser->request->head.len - 2;
    int is_first = 1;
    while (line < end) {
        char *line_end = memchr(line, '\r', (size_t)(end - line));
        size_t len = (size_t)(line_end - line);
        *line_end = '\0';
        enum http_parser_outcome outcome = HTTP_PARSER_FAILED;
        if (memchr(line, '\0', len) != NULL) {
            outcome = fail(parser, 400, "the head holds a NUL");
        } else if (is_first) {
            outcome = read_request_line(parser, line);
        } else {
            outcome = read_field(parser, line, len);
        }
        if (outcome == HTTP_PARSER_FAILED) {
            return outcome;
        }
        is_first = 0;
        line = line_end + 2;
    }
    return read_framing(parser);
}

/* Takes bytes up to the empty line. Line ends are checked on the way (I2). */
static enum http_parser_outcome feed_head(struct http_parser *parser, const char *bytes, size_t len,
                                          size_t *used) {
    struct buf *head = &parser->request->head;
    size_t taken = 0;
    while (taken < len) {
        const char *newline = memchr(bytes + taken, '\n', len - taken);
        size_t piece = newline != NULL ? (size_t)(newline - bytes) + 1 - taken : len - taken;
        const char *from = bytes + taken;
        taken += piece;
        *used = taken;
        if (piece > HTTP_PARSER_HEAD_MAX - head->len) {
            return fail(parser, 431, "the request's head is too large");
        }
        if (buf_append(head, from, piece) != ERR_OK) {
            return fail(parser, 503, "the server is out of memory");
        }
        const char *text = (const char *)head->data;
        if (newline == NULL) {
            break;
        }
        if (head->len < 2 || text[head->len - 2] != '\r') {
            return fail(parser, 400, "a line of the head does not end with CR LF");
        }
        if (head->len == 2) {
            buf_clear(head); /* an empty line in front of a request is let pass, as the RFC asks */
            continue;
        }
        if (text[head->len - 3] == '\n') {
            for (size_t i = 0; i + 1 < head->len; i++) {
                if (text[i] == '\r' && text[i + 1] != '\n') {
                    return fail(parser, 400, "a bare CR in the head");
                }
            }
            return read_head(parser);
        }
    }
    return HTTP_PARSER_MORE;
}

static int hex_value(char digit) {
    const char *digits = "0123456789abcdef";
    char lower = digit >= 'A' && digit <= 'F' ? (char)(digit + 32) : digit;
    const char *found = lower != '\0' ? strchr(digits, lower) : NULL;
    return found != NULL ? (int)(found - digits) : -1;
}

/* One byte of "SIZE[;extension] CR LF". line_len counts what stands behind the digits. */
static enum http_parser_outcome feed_size(struct http_parser *parser, char byte) {
    int value = parser->line_len == 0 ? hex_value(byte) : -1;
    if (value >= 0) {
        if (++parser->digits > 12) {
            return fail(parser, 413, "a chunk is larger than this server takes");
        }
        parser->chunk_size = parser->chunk_size * 16 + (uint64_t)value;
        return HTTP_PARSER_MORE;
    }
    if (byte == '\n' && parser->line_len > 0 && parser->is_after_cr) {
        parser->is_after_cr = 0;
        if (parser->chunk_size > parser->body_max - parser->request->body.len) {
            return fail(parser, 413, "the body is larger than this server takes");
        }
        parser->left = parser->chunk_size;
        parser->state = parser->left > 0 ? CHUNK_DATA : TRAILER;
        parser->chunk_size = 0;
        parser->digits = 0;
        parser->line_len = 0;
        return HTTP_PARSER_MORE;
    }
    int is_first = parser->line_len++ == 0;
    int is_expected = byte == '\r' || (is_first ? byte == ';' || byte == ' ' || byte == '\t'
                                                : (unsigned char)byte >= ' ' || byte == '\t');
    if (parser->digits == 0 || !is_expected || parser->is_after_cr ||
        parser->line_len > HTTP_PARSER_LINE_MAX) {
        return fail(parser, 400, "a chunk's size is malformed");
    }
    parser->is_after_cr = byte == '\r';
    return HTTP_PARSER_MORE;
}

/* Trailers are read over. trailer_len counts their bytes, line_len those of the present line. */
static enum http_parser_outcome feed_trailer(struct http_parser *parser, char byte) {
    if (++parser->trailer_len > HTTP_PARSER_TRAILER_MAX) {
        return fail(parser, 431, "the trailers are too large");
    }
    if (byte == '\n') {
        if (!parser->is_after_cr) {
            return fail(parser, 400, "a line of the trailers does not end with CR LF");
        }
        parser->is_after_cr = 0;
        if (parser->line_len == 0) {
            parser->state = ENDED;
        }
        parser->line_len = 0;
        return HTTP_PARSER_MORE;
    }
    if (parser->is_after_cr) {
        return fail(parser, 400, "a bare CR in the trailers");
    }
    parser->is_after_cr = byte == '\r';
    parser->line_len += byte != '\r';
    return HTTP_PARSER_MORE;
}

static enum http_parser_outcome feed_data(struct http_parser *parser, const char *bytes, size_t len,
                                          size_t *used) {
    size_t taken = len < parser->left ? len : (size_t)parser->left;
    if (buf_append(&parser->request->body, bytes, taken) != ERR_OK) {
        return fail(parser, 503, "the server is out of memory");
    }
    parser->left -= taken;
    *used = taken;
    if (parser->left == 0) {
        parser->state = parser->is_chunked ? CHUNK_CR : ENDED;
    }
    return HTTP_PARSER_MORE;
}

static enum http_parser_outcome feed_body(struct http_parser *parser, const char *bytes, size_t len,
                                          size_t *used) {
    *used = 1;
    switch ((enum state)parser->state) {
    case BODY:
    case CHUNK_DATA:
        return feed_data(parser, bytes, len, used);
    case CHUNK_SIZE:
        return feed_size(parser, bytes[0]);
    case CHUNK_CR:
    case CHUNK_LF:
        if (bytes[0] != (parser->state == CHUNK_CR ? '\r' : '\n')) {
            return fail(parser, 400, "a chunk does not end where its size says");
        }
        parser->state = parser->state == CHUNK_CR ? CHUNK_LF : CHUNK_SIZE;
        return HTTP_PARSER_MORE;
    case TRAILER:
        return feed_trailer(parser, bytes[0]);
    case HEAD:
    case ENDED:
        break;
    }
    assert(!"a body byte outside a body");
    return HTTP_PARSER_FAILED;
}

enum http_parser_outcome http_parser_feed(struct http_parser *parser, const char *bytes, size_t len,
                                          size_t *used) {
    *used = 0;
    if (parser->state == HEAD) {
        return feed_head(parser, bytes, len, used);
    }
    while (parser->state != ENDED && *used < len) {
        size_t taken = 0;
        enum http_parser_outcome outcome = feed_body(parser, bytes + *used, len - *used, &taken);
        *used += taken;
        if (outcome == HTTP_PARSER_FAILED) {
            return outcome;
        }
    }
    return parser->state == ENDED ? HTTP_PARSER_DONE : HTTP_PARSER_MORE;
}
