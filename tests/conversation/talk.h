/*
 * Turns, held synchronously against a stack in this process: for tests that look
 * at what a conversation's state gives, without HTTP.
 */
#ifndef TERN_TESTS_TALK_H
#define TERN_TESTS_TALK_H

#include "server/stack.h"

struct talk_request {
    const char *tenant; /* NULL: "" */
    const char *salt;   /* NULL: "" */
    const char *id;     /* NULL: no conversation */
    const char *text;   /* one user message */
    int max_tokens;
    int ignores_end;
    int64_t expected_turn; /* -1: not said */
    int requires_cache;
    int waits_for_state;
    float temperature;
    uint64_t seed;
    /* Called while the sink is told `finished`, on the service's thread; NULL: nothing. */
    void (*at_finish)(void *context);
    void *context;
};

/* What talk_default leaves open is greedy, of 8 tokens, not ended by an end token. */
struct talk_request talk_default(const char *id, const char *text);

struct talk_answer {
    int is_failed;
    int http_status;
    char code[64];
    struct turn_result result;
    char text[4096];
};

/* One turn under way. */
struct talk;
struct talk *talk_begin(struct stack *stack, const struct talk_request *request);
void talk_cancel(struct talk *talk);
void talk_wait_text(struct talk *talk);         /* until some of the answer is there, or its end */
void talk_wait_started(struct talk *talk);      /* until its first event of any kind */
struct talk_answer talk_end(struct talk *talk); /* waits, and frees it */

/* talk_begin and talk_end. */
struct talk_answer talk_run(struct stack *stack, const struct talk_request *request);

/* A stack over the model file in DIRECTORY, small budgets; exits the process on failure. */
struct stack_config talk_stack_config(const char *model_path, const char *directory);
struct stack *talk_open(const struct stack_config *config);

/* A fresh folder under $TMPDIR or /tmp; talk_remove_directory removes it with all that is in it. */
void talk_make_directory(char out[256]);
void talk_remove_directory(const char *directory);

#endif
