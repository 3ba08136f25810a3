/*
 * A growing byte buffer with a cap. Embedded by value; owns its bytes.
 * Appending past max_bytes is ERR_FULL, a failed allocation ERR_NOMEM; both
 * leave the contents as they were. Not safe for use by two threads at once.
 */
#ifndef TERN_BASE_BUF_H
#define TERN_BASE_BUF_H

#include "base/err.h"

struct buf {
    uint8_t *data; /* NULL while capacity is 0 */
    size_t len;
    size_t capacity;
    size_t max_bytes;
};

void buf_init(struct buf *buf, size_t max_bytes);
void buf_done(struct buf *buf); /* also fits CLEANUP */

MUST_USE enum err buf_append(struct buf *buf, const void *bytes, size_t len);
MUST_USE enum err buf_append_text(struct buf *buf, const char *text);
MUST_USE enum err buf_printf(struct buf *buf, const char *format, ...) PRINTF_LIKE(2, 3);

/* Grows by LEN bytes of undefined content; *out points at them until the next append. */
MUST_USE enum err buf_extend(struct buf *buf, size_t len, uint8_t **out);

/* Terminates the content with a NUL that len does not count; *out is valid until the next append.
 */
MUST_USE enum err buf_text(struct buf *buf, const char **out);

/* Empties the buffer and keeps its memory. */
void buf_clear(struct buf *buf);

#endif
