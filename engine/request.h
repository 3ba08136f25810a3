/*
 * A request inside the engine: its params, where it stands, and all it holds of
 * the pools. Internal to engine/: engine.c queues requests, scheduler.c runs them.
 */
#ifndef TERN_ENGINE_REQUEST_H
#define TERN_ENGINE_REQUEST_H

#include "engine/answer_text.h"
#include "engine/engine.h"

#include <sodium.h>
#include <stdatomic.h>

enum request_state {
    REQUEST_QUEUED,    /* holds nothing but perhaps a pinned head */
    REQUEST_RUNNING,   /* has a sequence; prefilling until its whole context is computed */
    REQUEST_SET_ASIDE, /* ran before; its state is in host memory, or is to be computed again */
    REQUEST_ENDED,     /* its last event has been told */
};

struct engine_request {
    struct engine *engine;
    _Atomic int references; /* the caller's and the engine's */
    _Atomic int is_cancelled;
    enum request_state state; /* the engine thread's, as all below */
    struct engine_request *next;

    /* the params, copied */
    struct engine_events events;
    struct store_head *attach; /* pinned until it is attached, then a parent of what is made */
    int is_attach_unpinned;
    int prompt_end;
    int keeps_turn_end;
    int max_tokens;
    int ignores_end;
    int wants_logits_digest;

    /* tokens[0, prompt_count) are the context, then what was generated */
    int32_t *tokens;
    int prompt_count;
    int token_count;

    struct sequence sequence;
    int32_t prompt_end_slot; /* taken at admission, filled by a mark, given to the head; or -1 */
    int32_t turn_end_slot;   /* taken at admission, so that the end never lacks one; or -1 */
    int32_t spare_blocks[2]; /* likewise, for the tails of the two heads; -1: none */
    int is_prompt_end_marked;
    int attached_length;
    int has_started;

    /* set aside: what the sequence held, in host memory */
    void *aside;
    size_t aside_bytes;
    int aside_length; /* tokens that `aside` covers */

    struct sampler *sampler;
    struct answer_text text;
    crypto_hash_sha256_state digest;
    int tokens_run;
    uint64_t started_ns;
    uint64_t first_token_ns;
    enum engine_finish finish;
};

/* Tokens that are sampled so far. */
static inline int request_generated(const struct engine_request *request) {
    return request->token_count - request->prompt_count;
}

/* Does the request's next step end with logits: is nothing but the last token left to run? */
static inline int request_is_decoding(const struct engine_request *request) {
    return request->token_count > request->prompt_count &&
           request->sequence.length == request->token_count - 1;
}

MUST_USE enum err request_create(struct engine *engine, const struct engine_params *params,
                                 int vocabulary, struct engine_request **out);
void request_release(struct engine_request *request);

/* The scheduler tells the engine that a request is about to be told its last event. */
void request_note_end(struct engine *engine);

#endif
