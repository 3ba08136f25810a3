/*
 * Streaming: tokens' bytes in, whole characters out. Bytes of an incomplete character are held
 * back until it is complete or cannot become one any more; then each maximal invalid part comes
 * out as U+FFFD. Embedded by value, zero-initialised, no memory of its own. However the bytes
 * are cut into pushes, the text is the same.
 */
#ifndef TERN_ENGINE_UTF8_STREAM_H
#define TERN_ENGINE_UTF8_STREAM_H

#include <stddef.h>
#include <stdint.h>

struct utf8_stream {
    uint8_t held[4]; /* the beginning of a character, at most 3 bytes */
    int held_count;
};

/* Appends at most 3 * len + 12 bytes of valid UTF-8 to OUT; returns how many. */
size_t utf8_stream_push(struct utf8_stream *stream, const char *bytes, size_t len, char *out);

/* The end of the text: what is still held comes out as U+FFFD; at most 12 bytes. */
size_t utf8_stream_finish(struct utf8_stream *stream, char *out);

#endif
