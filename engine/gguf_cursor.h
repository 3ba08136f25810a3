/*
 * Reads little-endian values off a range of memory, never past its end: a read
 * that does not fit is ERR_FORMAT with the position and what was wanted, and
 * moves nothing. Internal to the GGUF reader.
 */
#ifndef TERN_ENGINE_GGUF_CURSOR_H
#define TERN_ENGINE_GGUF_CURSOR_H

#include "engine/gguf.h"

struct gguf_cursor {
    const uint8_t *data;
    size_t bytes;
    size_t at; /* at most `bytes` */
};

size_t gguf_cursor_left(const struct gguf_cursor *cursor);

/* COUNT bytes; *out points into the range. WHAT names them in the message. */
MUST_USE enum err gguf_cursor_take(struct gguf_cursor *cursor, uint64_t count, const char *what,
                                   const uint8_t **out);
MUST_USE enum err gguf_cursor_u32(struct gguf_cursor *cursor, const char *what, uint32_t *out);
MUST_USE enum err gguf_cursor_u64(struct gguf_cursor *cursor, const char *what, uint64_t *out);

/* A length of 8 bytes and that many bytes. */
MUST_USE enum err gguf_cursor_string(struct gguf_cursor *cursor, const char *what,
                                     struct gguf_string *out);

/* Unchecked, for bytes that a cursor has passed. */
uint32_t gguf_cursor_load_u32(const uint8_t *at);
uint64_t gguf_cursor_load_u64(const uint8_t *at);

#endif
