/*
 * Any bytes as HTTP, cut where the first byte says. However they are cut, the same comes out; and
 * the parser takes no byte of the next request.
 */
#include "server/http_parser.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

enum { BODY_MAX = 4096 };

struct result {
    enum http_parser_outcome outcome;
    int status;
    size_t taken;
    struct http_request request;
};

static void check(int is_true) {
    if (!is_true) {
        abort();
    }
}

static void parse(const char *text, size_t len, size_t piece, struct result *result) {
    struct http_parser parser;
    memset(result, 0, sizeof *result);
    http_request_init(&result->request, HTTP_PARSER_HEAD_MAX, BODY_MAX);
    http_parser_init(&parser, &result->request, BODY_MAX);
    result->outcome = HTTP_PARSER_MORE;
    int heads = 0;
    while ((result->outcome == HTTP_PARSER_MORE && result->taken < len) ||
           result->outcome == HTTP_PARSER_HEAD) {
        size_t left = len - result->taken;
        size_t used;
        result->outcome =
            http_parser_feed(&parser, text + result->taken, left < piece ? left : piece, &used);
        check(used <= left);
        heads += result->outcome == HTTP_PARSER_HEAD;
        result->taken += used;
        result->status = parser.status;
    }
    check(heads <= 1 && result->request.body.len <= BODY_MAX);
    check(result->outcome != HTTP_PARSER_DONE || heads == 1);
    check(result->outcome != HTTP_PARSER_FAILED || result->status >= 400);
}

static void check_request(const struct http_request *request) {
    char *path = NULL;
    char *salt = NULL;
    check(request->path[0] == '/' || strcmp(request->path, "*") == 0);
    if (http_request_decode(request->path, strlen(request->path), 0, &path) == ERR_OK) {
        check(strlen(path) <= strlen(request->path));
        free(path);
    }
    if (http_request_query(request, "cache_salt", &salt) == ERR_OK) {
        free(salt);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    if (bytes == 0) {
        return 0;
    }
    char *text = malloc(bytes);
    if (text == NULL) {
        return 0;
    }
    memcpy(text, data + 1, bytes - 1);
    struct result whole;
    struct result cut;
    parse(text, bytes - 1, bytes, &whole);
    parse(text, bytes - 1, (size_t)data[0] % 64 + 1, &cut);
    check(whole.outcome == cut.outcome && whole.status == cut.status);
    if (whole.outcome == HTTP_PARSER_DONE) {
        check(whole.taken == cut.taken && whole.request.body.len == cut.request.body.len);
        check(whole.request.body.len == 0 ||
              memcmp(whole.request.body.data, cut.request.body.data, whole.request.body.len) == 0);
        check(whole.request.field_count == cut.request.field_count);
        check_request(&whole.request);
    }
    http_request_done(&whole.request);
    http_request_done(&cut.request);
    free(text);
    return 0;
}
