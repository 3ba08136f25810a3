#include "engine/utf8_stream.h"

#include "engine/utf8.h"

#include <string.h>

enum { REPLACEMENT_BYTES = 3 };

/* What is held is always incomplete, so it is one maximal subpart. */
static size_t replace(struct utf8_stream *stream, char *out) {
    memcpy(out, "\xef\xbf\xbd", REPLACEMENT_BYTES);
    stream->held_count = 0;
    return REPLACEMENT_BYTES;
}

static size_t push_byte(struct utf8_stream *stream, char byte, char *out) {
    size_t written = 0;
    for (;;) {
        stream->held[stream->held_count] = (uint8_t)byte;
        size_t len = (size_t)stream->held_count + 1;
        size_t taken;
        uint32_t codepoint;
        enum utf8_status status = utf8_next((const char *)stream->held, len, &taken, &codepoint);
        if (status == UTF8_INCOMPLETE) {
            stream->held_count++;
            return written;
        }
        if (status == UTF8_COMPLETE) {
            memcpy(out + written, stream->held, len);
            stream->held_count = 0;
            return written + len;
        }
        /* BYTE does not continue what is held: that is replaced, and BYTE begins anew. */
        int began_anew = stream->held_count == 0;
        written += replace(stream, out + written);
        if (began_anew) {
            return written;
        }
    }
}

size_t utf8_stream_push(struct utf8_stream *stream, const char *bytes, size_t len, char *out) {
    size_t written = 0;
    for (size_t i = 0; i < len; i++) {
        written += push_byte(stream, bytes[i], out + written);
    }
    return written;
}

size_t utf8_stream_finish(struct utf8_stream *stream, char *out) {
    return stream->held_count == 0 ? 0 : replace(stream, out);
}
