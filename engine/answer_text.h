/*
 * The text of an answer as it is generated: tokens' bytes in, whole characters
 * out, nothing of a stop string ever. Text that could still turn out to begin a
 * stop string is held back until it cannot.
 *
 * One per request, one thread.
 */
#ifndef TERN_ENGINE_ANSWER_TEXT_H
#define TERN_ENGINE_ANSWER_TEXT_H

#include "base/buf.h"
#include "engine/tokenizer.h"

struct answer_text {
    struct utf8_stream stream;
    struct buf held;  /* characters not handed out yet */
    struct buf ready; /* what the last call handed out */
    char **stops;     /* owned */
    size_t *stop_lens;
    size_t stop_count;
    size_t stop_len_max;
    int is_stopped;
};

/* Copies the stops; empty ones are ERR_INVALID. */
MUST_USE enum err answer_text_init(struct answer_text *text, const char *const *stops,
                                   const size_t *stop_lens, size_t stop_count);
void answer_text_done(struct answer_text *text);

/*
 * Takes a token's bytes. *out holds *len bytes that may be sent now, valid until the next call.
 * After a stop string is_stopped is set, and nothing more comes.
 */
MUST_USE enum err answer_text_push(struct answer_text *text, const char *bytes, size_t byte_len,
                                   const char **out, size_t *len);

/* The answer has ended: what was held back comes out. */
MUST_USE enum err answer_text_finish(struct answer_text *text, const char **out, size_t *len);

#endif
