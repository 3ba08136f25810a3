/*
 * Text of which it is known who wrote it: the template itself, where special tokens count, or a
 * message, whose role and content are never more than text. Embedded by value; owns its bytes.
 * Not for two threads at once.
 */
#ifndef TERN_ENGINE_MARKED_TEXT_H
#define TERN_ENGINE_MARKED_TEXT_H

#include "base/buf.h"

struct marked_text_run {
    size_t begin;
    size_t end;
};

struct marked_text {
    struct buf text;
    struct marked_text_run *runs; /* what the template wrote: in order, none empty, none touching */
    size_t run_count;
    size_t run_capacity;
};

void marked_text_init(struct marked_text *marked, size_t max_bytes);
void marked_text_done(struct marked_text *marked); /* also fits CLEANUP */

/* Text of the template, and text of a message. On failure nothing was appended. */
MUST_USE enum err marked_text_append_own(struct marked_text *marked, const char *text, size_t len);
MUST_USE enum err marked_text_append_quoted(struct marked_text *marked, const char *text,
                                            size_t len);

#endif
