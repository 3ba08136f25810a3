#include "engine/gguf_cursor.h"

#include <inttypes.h>
#include <string.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__,
               "values are read as they lie in the file");
_Static_assert(sizeof(size_t) == 8, "offsets of the format are 64 bits wide");

size_t gguf_cursor_left(const struct gguf_cursor *cursor) {
    return cursor->bytes - cursor->at;
}

enum err gguf_cursor_take(struct gguf_cursor *cursor, uint64_t count, const char *what,
                          const uint8_t **out) {
    if (count > gguf_cursor_left(cursor)) {
        return err_fail(ERR_FORMAT,
                        "%s at byte %zu takes %" PRIu64 " bytes, expected at most the %zu that "
                        "the file still has",
                        what, cursor->at, count, gguf_cursor_left(cursor));
    }
    *out = cursor->data + cursor->at;
    cursor->at += (size_t)count;
    return ERR_OK;
}

uint32_t gguf_cursor_load_u32(const uint8_t *at) {
    uint32_t value;
    memcpy(&value, at, sizeof value);
    return value;
}

uint64_t gguf_cursor_load_u64(const uint8_t *at) {
    uint64_t value;
    memcpy(&value, at, sizeof value);
    return value;
}

enum err gguf_cursor_u32(struct gguf_cursor *cursor, const char *what, uint32_t *out) {
    const uint8_t *at = NULL;
    TRY(gguf_cursor_take(cursor, sizeof *out, what, &at));
    *out = gguf_cursor_load_u32(at);
    return ERR_OK;
}

enum err gguf_cursor_u64(struct gguf_cursor *cursor, const char *what, uint64_t *out) {
    const uint8_t *at = NULL;
    TRY(gguf_cursor_take(cursor, sizeof *out, what, &at));
    *out = gguf_cursor_load_u64(at);
    return ERR_OK;
}

enum err gguf_cursor_string(struct gguf_cursor *cursor, const char *what, struct gguf_string *out) {
    struct gguf_cursor trial = *cursor;
    uint64_t len = 0;
    const uint8_t *text = NULL;
    TRY(gguf_cursor_u64(&trial, what, &len));
    TRY(gguf_cursor_take(&trial, len, what, &text));
    out->text = (const char *)text;
    out->len = (size_t)len;
    *cursor = trial;
    return ERR_OK;
}
