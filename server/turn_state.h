/*
 * A turn on its way: what turn.c begins and ends, turn_prepare.c prepares and
 * turn_commit.c commits. Internal to these files.
 *
 * A turn belongs to one thread at a time: the front thread that prepares it, the
 * engine thread from engine_submit to its last event, then the commit thread.
 * Only is_cancelled, running and references are touched from outside.
 */
#ifndef TERN_SERVER_TURN_STATE_H
#define TERN_SERVER_TURN_STATE_H

#include "base/buf.h"
#include "server/turn_service.h"

#include <pthread.h>
#include <stdatomic.h>
#include <sys/queue.h>

enum { TURN_STATE_CANDIDATES_MAX = 4, TURN_STATE_ANSWER_BYTES_MAX = 64 << 20 };

/* What the commit thread does next with a turn. */
enum turn_stage {
    TURN_STAGE_ENDED,   /* the engine is done: write the ledger, or give up */
    TURN_STAGE_DURABLE, /* the ledger is done: publish */
    TURN_STAGE_SPILLED, /* the state that was waited for is written, or never will be */
};

struct turn {
    struct turn_service *service;
    _Atomic int references; /* the caller's and the service's */
    _Atomic int is_cancelled;
    struct turn_sink sink;

    /* the request, copied; texts lie in `texts` */
    struct turn_request request;
    struct buf texts;

    /* what preparation found */
    struct conversation_key key;
    uint64_t generation; /* of the lease */
    int has_lease;
    uint64_t room_bytes; /* booked in the ledger */
    uint64_t serial;     /* of the conversation; 0: it is being created */
    uint32_t committed_turn;
    int is_created;
    int has_new_template;  /* since the conversation began */
    size_t history_count;  /* ids before this turn's */
    struct token_list ids; /* history and this turn's prompt */
    size_t prompt_end;     /* length of the line before the generation prompt */
    int head_length;       /* of the best head that there could be; 0: none */
    struct store_found found;
    uint64_t started_ms;

    /* the run */
    pthread_mutex_t lock; /* over `running` */
    struct engine_request *running;
    struct buf answer;
    int32_t *generated;
    enum err end_code;
    char end_message[256];
    struct engine_outcome outcome;

    /* the commit */
    uint64_t ended_ns;   /* the last token was sampled */
    uint64_t durable_ns; /* the ledger had answered; 0: not asked */
    enum turn_stage stage;
    STAILQ_ENTRY(turn) commit_queue;
    TAILQ_ENTRY(turn) active;
    struct turn_record record;
    char *messages_json;
    uint8_t template_digest[32];
    struct ledger_append append;
    enum err ledger_code;
    struct ledger_appended appended;
    int waits_for_spill;
    enum err spill_code;
};

STAILQ_HEAD(turn_state_queue, turn);
TAILQ_HEAD(turn_state_list, turn);

struct turn_service {
    struct turn_service_config config;
    pthread_t commit_thread;
    int has_commit_thread;
    pthread_mutex_t lock; /* over what follows */
    pthread_cond_t wake;
    int is_stopping;
    struct turn_state_queue commits;
    struct turn_state_list active;
    struct turn_service_counters counters;
};

/* The turn's own copy of REQUEST (turn_copy.c). On failure what was copied is freed with the turn.
 */
MUST_USE enum err turn_state_copy_request(struct turn *turn, const struct turn_request *request);
void turn_state_free_request(struct turn *turn);

/* Takes a turn, as `void *`, up to the engine (turn_prepare.c); on a front thread. */
void turn_state_prepare(void *context);

/* Hands the turn to the commit thread. Any thread. */
void turn_state_commit(struct turn *turn, enum turn_stage stage);

/* Tells the sink and ends the turn: lease, room, heads, pins and all else are given back first. */
void turn_state_fail(struct turn *turn, const struct turn_failure *failure);
void turn_state_finish(struct turn *turn, const struct turn_result *result);

/* Gives back the lease, the room, and heads that were not published. */
void turn_state_release_holds(struct turn *turn);

/* A failure that an error code of the engine, the ledger or the store amounts to. */
struct turn_failure turn_state_failure_of(enum err code, const char *message);

/* turn_state_fail with nothing but the essentials, and with this thread's last error. */
void turn_state_fail_with(struct turn *turn, int http_status, const char *code,
                          const char *message);
void turn_state_fail_with_err(struct turn *turn, enum err code);

/* A failure with nothing but the essentials. */
struct turn_failure turn_state_failure(int http_status, const char *code, const char *message);

#endif
