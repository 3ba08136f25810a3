/*
 * Server-sent events out of bytes as they arrive (WHATWG, "Server-sent events"): lines that end in
 * \n, \r or \r\n, comments skipped, data lines joined by \n. Ids and retry times are not kept.
 * Embedded by value, one thread.
 */
#ifndef TERN_TOOLS_SSE_H
#define TERN_TOOLS_SSE_H

#include "base/buf.h"

enum { SSE_EVENT_BYTES_MAX = 4 << 20 };

struct sse_event {
    const char *name; /* "message" if the event has none; NUL-terminated, as data */
    const char *data;
    size_t len;
};

struct sse {
    struct buf line;
    struct buf name;
    struct buf data;
    int has_data;
    int is_after_cr;  /* a \n that comes now belongs to the line break before */
    int is_past_line; /* the first line, which a byte order mark may begin, is over */
};

void sse_init(struct sse *sse);
void sse_done(struct sse *sse); /* also fits CLEANUP */

/*
 * Takes bytes; calls TAKE for every event that they complete. An event that the stream ends in
 * the middle of is dropped. ERR_FULL for an event beyond SSE_EVENT_BYTES_MAX; an error of TAKE
 * ends the pushing and is returned.
 */
MUST_USE enum err sse_push(struct sse *sse, const char *bytes, size_t len,
                           enum err (*take)(void *context, const struct sse_event *event),
                           void *context);

#endif
