/*
 * One turn of a conversation from request to committed answer: lease, ledger,
 * lookup, run, publish. The only file that knows ledger, store and engine
 * together; HTTP above it, and nothing of HTTP in it.
 *
 * A turn is submitted from any thread and runs asynchronously: its preparation
 * (rendering, tokenizing, lookup, promotion) and its commit on front threads, its
 * tokens on the engine's. What happens is told to the turn's sink, one call at a
 * time, on threads of the service; a sink must not block.
 *
 * Calls to a sink: failed (before anything else), or started, any number of text,
 * then finished or failed. After finished or failed nothing more is called. When
 * finished is called the turn is durable in the ledger, its head is published and
 * its lease is free.
 */
#ifndef TERN_SERVER_TURN_H
#define TERN_SERVER_TURN_H

#include "engine/sampler.h"

struct turn;
struct turn_service;

/* --- what a client asks for ------------------------------------------------------------ */

struct turn_message {
    const char *role;    /* UTF-8 */
    const char *content; /* UTF-8, content_len bytes, may hold NUL */
    size_t content_len;
};

enum { TURN_STOPS_MAX = 16 };

struct turn_request {
    const char *tenant;                  /* "" without authentication */
    const char *cache_salt;              /* "" when the request names none */
    const char *conversation_id;         /* NULL: no conversation, nothing is kept */
    const struct turn_message *messages; /* with an id: the suffix */
    size_t message_count;
    int64_t expected_turn; /* the committed turn that the client knows; -1: not said */
    int requires_cache;    /* never create, never rebuild */
    int waits_for_state;   /* durability "state": finished only after the spill has committed */
    int ignores_end;       /* ignore_eos */
    int wants_logits_digest;
    int max_tokens; /* 0: what the context leaves */
    const char *const *stops;
    const size_t *stop_lens;
    size_t stop_count;
    struct sampler_params sampler;
};

/* --- what the client is told ----------------------------------------------------------- */

/* Known before the first token: enough for a response head. */
struct turn_start {
    uint64_t turn; /* the number that this turn will have; 0 without a conversation */
    int is_created;
};

struct turn_result {
    uint64_t turn;
    int is_created;
    const char *finish_reason; /* "stop" or "length" */
    const char *tier;          /* "device", "host", "disk", "none" */
    int prompt_tokens;         /* the whole context before the answer */
    int completion_tokens;     /* every sampled token, the end token too */
    int num_computed_tokens;   /* at attach */
    int tokens_reused;
    int tokens_run; /* counted where the engine runs them */
    uint64_t bytes_read;
    double promote_ms;
    double prefill_ms;
    double decode_ms;
    double commit_ms; /* from the last token to the ledger's answer */
    int is_durable;   /* state, not ledger: the ledger always is */
    int is_rebuilt;
    const char *reason; /* of a miss or a rebuild, or NULL */
    int has_logits_digest;
    uint8_t logits_digest[32]; /* SHA-256 over the F32 logits rows that were sampled from */
};

struct turn_failure {
    int http_status;   /* 400, 404, 409, 429, 500, 503, 507 */
    const char *type;  /* OpenAI's: "invalid_request_error", "server_error", ... */
    const char *code;  /* "conversation_busy", ...; NULL: none */
    const char *param; /* the request field at fault; NULL: none */
    const char *message;
    int retry_after_ms;     /* > 0: Retry-After and retry-after-ms */
    int never_retry;        /* x-should-retry: false */
    int64_t committed_turn; /* >= 0 with turn_conflict, and where a client can use it */
    int64_t rebuild_tokens; /* >= 0 with conversation_state_missing */
};

struct turn_sink {
    void (*started)(void *context, const struct turn_start *start);
    void (*text)(void *context, const char *text, size_t len); /* whole UTF-8 characters */
    void (*finished)(void *context, const struct turn_result *result);
    void (*failed)(void *context, const struct turn_failure *failure);
    void *context;
};

/* --- turns ------------------------------------------------------------------------------ */

/*
 * Copies REQUEST and begins. Everything that can go wrong, a full queue too, is told to the sink,
 * perhaps before this returns. The caller owns *out and releases it with turn_release; until
 * then turn_cancel may be called, on any thread.
 */
void turn_submit(struct turn_service *service, const struct turn_request *request,
                 const struct turn_sink *sink, struct turn **out);

/*
 * The client is gone: unless the ledger transaction has begun, the turn is discarded, and its
 * lease, slots and blocks are free within one step. The sink is still told failed or finished.
 */
void turn_cancel(struct turn *turn);

/* Gives the caller's hold back; the turn goes on if it has not ended, with the sink. */
void turn_release(struct turn *turn);

/* Deletes a conversation: tombstone, then state in every tier. Blocking; from a front thread. */
struct turn_delete_result {
    int was_found;
};
MUST_USE enum err turn_delete_conversation(struct turn_service *service, const char *tenant,
                                           const char *cache_salt, const char *conversation_id,
                                           struct turn_delete_result *out,
                                           struct turn_failure *failure);

#endif
