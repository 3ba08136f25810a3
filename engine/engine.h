/*
 * The engine: runs requests of many conversations on one model at once. A request
 * brings the ids of its whole context and, if there is one, a pinned head that
 * covers the first of them; the engine attaches the head, runs the rest in chunks
 * between the decode steps of others, samples, turns tokens into text, and ends
 * with the new heads, unpublished. It knows no conversation, no ledger, no HTTP.
 *
 * One engine thread issues all device work. engine_submit and engine_cancel may be
 * called from any thread; events come on the engine thread, one at a time for
 * each request, and their callback must not block or call back into the engine,
 * except engine_cancel.
 */
#ifndef TERN_ENGINE_ENGINE_H
#define TERN_ENGINE_ENGINE_H

#include "engine/hybrid_forward.h"
#include "engine/sampler.h"
#include "engine/tokenizer.h"
#include "store/store.h"

struct engine;
struct engine_request;

struct engine_config {
    const struct model *model;
    struct pool *pool;
    struct store *store;
    const struct tokenizer *tokenizer;
    int context;       /* tokens of any one request at most */
    int running_max;   /* requests that compute at once */
    int queue_max;     /* requests that wait; one more is ERR_FULL */
    int step_rows_max; /* tokens in a step */
    int step_ms;       /* what a step may take while others decode */
};

MUST_USE enum err engine_create(const struct engine_config *config, struct engine **out);

/* Cancels what still runs and joins the thread. */
void engine_destroy(struct engine *engine);

/* --- requests --------------------------------------------------------------------------- */

enum engine_finish { ENGINE_FINISH_STOP, ENGINE_FINISH_LENGTH };

/* What a request ends with. Heads are NULL where none was asked for. */
struct engine_outcome {
    enum engine_finish finish;
    const int32_t *generated; /* every sampled token, the end token too; valid in the callback */
    int generated_count;
    struct store_head *turn_end;   /* covers all but the last sampled token; the callee owns it */
    struct store_head *prompt_end; /* at the length that prompt_end asked for */
    int attached_length;           /* 0 when the head was evicted while the request waited */
    int tokens_run;                /* counted where steps are built */
    double prefill_ms;
    double decode_ms;
    uint8_t logits_digest[32];
};

struct engine_events {
    /* Attached and admitted. */
    void (*started)(void *context);
    /* Whole characters; stop strings and what follows them never come. */
    void (*text)(void *context, const char *text, size_t len);
    void (*finished)(void *context, const struct engine_outcome *outcome);
    /* ERR_CANCELLED, ERR_DEVICE, ERR_NOMEM; the message is err_message(). */
    void (*failed)(void *context, enum err code);
    void *context;
};

struct engine_params {
    const int32_t *tokens; /* the whole context: history, pending tokens, suffix; copied */
    int count;
    struct store_head *attach; /* pinned, of fewer than `count` tokens, or NULL; taken over */
    int prompt_end;            /* keep a head of this length, above the attached one; 0: none */
    int keeps_turn_end;        /* keep a head at the end */
    int max_tokens;
    int ignores_end;
    int wants_logits_digest;
    const char *const *stops;
    const size_t *stop_lens;
    size_t stop_count;
    struct sampler_params sampler;
    struct engine_events events;
};

/*
 * Queues a request. ERR_FULL when the queue is; ERR_INVALID for params out of range. On failure
 * nothing was taken over. The caller releases *out.
 */
MUST_USE enum err engine_submit(struct engine *engine, const struct engine_params *params,
                                struct engine_request **out);
void engine_cancel(struct engine_request *request);
void engine_request_release(struct engine_request *request);

/* --- counters --------------------------------------------------------------------------- */

struct engine_counters {
    uint64_t tokens_run;
    uint64_t tokens_generated;
    uint64_t steps;
    uint64_t requests_started;
    uint64_t requests_set_aside;
    int running;
    int queued;
};
void engine_get_counters(struct engine *engine, struct engine_counters *out);

#endif
