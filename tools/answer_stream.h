/*
 * The answer to a streamed chat completion as it comes in: its text piece by piece, then what the
 * server says about it. Whoever talks with a server reads through this. One thread.
 */
#ifndef TERN_TOOLS_ANSWER_STREAM_H
#define TERN_TOOLS_ANSWER_STREAM_H

#include "tools/http_client.h"

#include <jansson.h>

enum { ANSWER_STREAM_TURN_UNKNOWN = -1 };

struct answer_stream {
    /* Called for every piece of text; may be NULL. An error ends the reading and is returned. */
    enum err (*on_text)(void *context, const char *text, size_t len);
    void *context;

    uint64_t first_ns;        /* when the first text came; 0: none did */
    uint64_t last_ns;         /* when the last text came */
    uint64_t finish_ns;       /* when the chunk with finish_reason came; 0: it did not */
    json_t *tern;             /* the object in that chunk; NULL: none */
    char *reason;             /* finish_reason; NULL: none came */
    long long prompt_tokens;  /* 0: the server did not say */
    long long answer_tokens;  /* likewise */
    long long committed_turn; /* that an error names; ANSWER_STREAM_TURN_UNKNOWN */
    int is_conflict;          /* an error says that the conversation is at committed_turn */
    int is_done;              /* [DONE] came */
};

void answer_stream_init(struct answer_stream *answer);
void answer_stream_done(struct answer_stream *answer); /* also fits CLEANUP */

/*
 * Reads the response to its end. An error that the server reports is ERR_CONFLICT with is_conflict,
 * or ERR_INVALID, with the code and text as message; ERR_CLOSED if the stream ended early.
 */
MUST_USE enum err answer_stream_read(struct answer_stream *answer, struct http_client *client);

/* Member NAME of the object, which may be NULL; MISSING, or 0, if it is no text or number. */
const char *answer_stream_text(const json_t *object, const char *name, const char *missing);
long long answer_stream_integer(const json_t *object, const char *name);

#endif
