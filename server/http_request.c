#include "server/http_request.h"

#include "engine/utf8.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

void http_request_init(struct http_request *request, size_t head_max, size_t body_max) {
    memset(request, 0, sizeof *request);
    buf_init(&request->head, head_max);
    buf_init(&request->body, body_max);
}

void http_request_done(struct http_request *request) {
    buf_done(&request->head);
    buf_done(&request->body);
}

const char *http_request_field(const struct http_request *request, const char *name) {
    for (size_t i = 0; i < request->field_count; i++) {
        if (strcasecmp(request->fields[i].name, name) == 0) {
            return request->fields[i].value;
        }
    }
    return NULL;
}

int http_request_is(const struct http_request *request, const char *method) {
    return strcmp(request->method, method) == 0 ||
           (strcmp(method, "GET") == 0 && strcmp(request->method, "HEAD") == 0);
}

static int hex_digit(char digit) {
    if (digit >= '0' && digit <= '9') {
        return digit - '0';
    }
    if (digit >= 'a' && digit <= 'f') {
        return digit - 'a' + 10;
    }
    if (digit >= 'A' && digit <= 'F') {
        return digit - 'A' + 10;
    }
    return -1;
}

enum err http_request_decode(const char *text, size_t len, int is_query, char **out) {
    char *decoded = malloc(len + 1);
    if (decoded == NULL) {
        return err_fail(ERR_NOMEM, "%zu bytes of a target", len);
    }
    size_t used = 0;
    int is_valid = 1;
    for (size_t i = 0; i < len && is_valid; i++) {
        char character = text[i];
        if (character == '%') {
            int high = len - i > 2 ? hex_digit(text[i + 1]) : -1;
            int low = len - i > 2 ? hex_digit(text[i + 2]) : -1;
            is_valid = high >= 0 && low >= 0;
            character = (char)(unsigned char)(is_valid ? high * 16 + low : 0);
            i += 2;
        } else if (character == '+' && is_query) {
            character = ' ';
        }
        is_valid = is_valid && character != '\0';
        decoded[used++] = character;
    }
    if (!is_valid || utf8_valid_prefix(decoded, used) != used) {
        free(decoded);
        return err_fail(ERR_INVALID, "the URL holds a broken percent escape, or no UTF-8");
    }
    decoded[used] = '\0';
    *out = decoded;
    return ERR_OK;
}

enum err http_request_query(const struct http_request *request, const char *name, char **out) {
    char *value = NULL;
    const char *at = request->query != NULL ? request->query : "";
    while (*at != '\0') {
        size_t len = strcspn(at, "&");
        const char *equals = memchr(at, '=', len);
        size_t name_len = equals != NULL ? (size_t)(equals - at) : len;
        if (name_len != strlen(name) || memcmp(at, name, name_len) != 0 || equals == NULL) {
            free(value);
            return err_fail(ERR_INVALID,
                            "the query parameter '%.*s' is not known here: %s=VALUE "
                            "is all that is",
                            (int)(name_len < 64 ? name_len : 64), at, name);
        }
        if (value != NULL) {
            free(value);
            return err_fail(ERR_INVALID, "the query parameter '%s' is given twice", name);
        }
        TRY(http_request_decode(equals + 1, len - name_len - 1, 1, &value));
        at += len;
        at += *at == '&';
    }
    *out = value;
    return ERR_OK;
}
