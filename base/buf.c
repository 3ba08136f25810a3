#include "base/buf.h"

#include "base/fault.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { FIRST_CAPACITY_BYTES = 64 };

void buf_init(struct buf *buf, size_t max_bytes) {
    *buf = (struct buf){.max_bytes = max_bytes};
}

void buf_done(struct buf *buf) {
    free(buf->data);
    buf->data = NULL;
    buf->len = 0;
    buf->capacity = 0;
}

/* Makes room for LEN more bytes and one terminator. */
static enum err reserve(struct buf *buf, size_t len) {
    if (len > buf->max_bytes - buf->len) {
        return err_fail(ERR_FULL, "buffer of at most %zu bytes is full", buf->max_bytes);
    }
    size_t needed = buf->len + len + 1;
    if (needed <= buf->capacity) {
        return ERR_OK;
    }
    size_t capacity = buf->capacity < FIRST_CAPACITY_BYTES ? FIRST_CAPACITY_BYTES : buf->capacity;
    while (capacity < needed) {
        capacity = capacity > SIZE_MAX / 2 ? needed : capacity * 2;
    }
    uint8_t *data = fault_fails("buf.realloc") ? NULL : realloc(buf->data, capacity);
    if (data == NULL) {
        return err_fail(ERR_NOMEM, "buffer of %zu bytes", capacity);
    }
    buf->data = data;
    buf->capacity = capacity;
    return ERR_OK;
}

enum err buf_extend(struct buf *buf, size_t len, uint8_t **out) {
    TRY(reserve(buf, len));
    *out = buf->data + buf->len;
    buf->len += len;
    return ERR_OK;
}

enum err buf_append(struct buf *buf, const void *bytes, size_t len) {
    uint8_t *place;
    TRY(buf_extend(buf, len, &place));
    if (len > 0) {
        memcpy(place, bytes, len);
    }
    return ERR_OK;
}

enum err buf_append_text(struct buf *buf, const char *text) {
    return buf_append(buf, text, strlen(text));
}

enum err buf_printf(struct buf *buf, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(NULL, 0, format, arguments);
    va_end(arguments);
    if (length < 0) {
        return err_fail(ERR_INVALID, "format '%s' cannot be printed", format);
    }
    TRY(reserve(buf, (size_t)length));
    va_start(arguments, format);
    vsnprintf((char *)buf->data + buf->len, (size_t)length + 1, format, arguments);
    va_end(arguments);
    buf->len += (size_t)length;
    return ERR_OK;
}

enum err buf_text(struct buf *buf, const char **out) {
    TRY(reserve(buf, 0));
    buf->data[buf->len] = '\0';
    *out = (const char *)buf->data;
    return ERR_OK;
}

void buf_clear(struct buf *buf) {
    buf->len = 0;
}
