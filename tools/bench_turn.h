/*
 * One streamed turn with a server, timed by its client, and what the server says about it. Any
 * number of threads may hold turns at once.
 */
#ifndef TERN_TOOLS_BENCH_TURN_H
#define TERN_TOOLS_BENCH_TURN_H

#include "tools/bench_server.h"

/* Answers are greedy, so that a run can be repeated. */
struct bench_turn {
    const char *conversation; /* NULL: nothing is kept */
    const char *salt;         /* NULL: none */
    const char *message;
    long long max_tokens;
    int ignores_end; /* the answer has max_tokens tokens, end tokens or not */
    /* The answer is this token again and again, one that is a text by itself: else the first text
     * may be that of a later token, where the first ones are parts of a character or have no text.
     */
    int has_answer_token;
    int32_t answer_token;
    int is_durable;    /* the end of the answer waits until the state is on disk */
    int must_be_new;   /* a conversation that is there already is an error, and left alone */
    int must_be_there; /* neither create the conversation nor rebuild its state */
    /* Leaves at the first text, as a client that goes away: the conversation stays as it was, and
     * nothing but first_seconds is known. */
    int stops_at_first;
};

/* A token for answers, a word of the model's vocabulary; MODEL as for model_file_open. */
MUST_USE enum err bench_turn_answer_token(const char *model, int32_t *out);

enum bench_turn_tier {
    BENCH_TURN_NONE,
    BENCH_TURN_DEVICE,
    BENCH_TURN_HOST,
    BENCH_TURN_DISK,
    BENCH_TURN_TIERS,
};
const char *bench_turn_tier_name(enum bench_turn_tier tier);

struct bench_turn_result {
    /* From the connection's begin to the first text; where the answer had none, to its end. */
    double first_seconds;
    double seconds; /* to the last byte */
    enum bench_turn_tier tier;
    int is_created;
    int is_rebuilt;
    char reason[64]; /* why state was not taken; empty: it was */
    long long turn;
    long long tokens_reused;
    long long tokens_run;
    long long bytes_read;
    double promote_ms;
    double prefill_ms;
    double decode_ms;
    long long prompt_tokens;
    long long answer_tokens;
};

/* A server's refusal is an error, with its text as message. */
MUST_USE enum err bench_turn_run(const struct bench_server *server, const struct bench_turn *turn,
                                 struct bench_turn_result *out);

/* ERR_CONFLICT, naming WHAT, unless the state came from TIER whole and without a rebuild. */
MUST_USE enum err bench_turn_expect(const struct bench_turn_result *result,
                                    enum bench_turn_tier tier, const char *what);

#endif
