#include "tests/conversation/talk.h"

#include <ftw.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct talk {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int is_started;
    int has_text;
    int is_over;
    void (*at_finish)(void *context);
    void *context;
    struct turn *turn;
    struct talk_answer answer;
};

struct talk_request talk_default(const char *id, const char *text) {
    return (struct talk_request){
        .id = id, .text = text, .max_tokens = 8, .ignores_end = 1, .expected_turn = -1};
}

static void on_started(void *context, const struct turn_start *start) {
    struct talk *talk = context;
    (void)start;
    pthread_mutex_lock(&talk->lock);
    talk->is_started = 1;
    pthread_cond_broadcast(&talk->changed);
    pthread_mutex_unlock(&talk->lock);
}

static void on_text(void *context, const char *text, size_t len) {
    struct talk *talk = context;
    size_t used = strlen(talk->answer.text);
    size_t room = sizeof talk->answer.text - used - 1;
    memcpy(talk->answer.text + used, text, len < room ? len : room);
    pthread_mutex_lock(&talk->lock);
    talk->has_text = 1;
    pthread_cond_broadcast(&talk->changed);
    pthread_mutex_unlock(&talk->lock);
}

static void end(struct talk *talk) {
    pthread_mutex_lock(&talk->lock);
    talk->is_started = 1;
    talk->is_over = 1;
    pthread_cond_broadcast(&talk->changed);
    pthread_mutex_unlock(&talk->lock);
}

static void on_finished(void *context, const struct turn_result *result) {
    struct talk *talk = context;
    talk->answer.result = *result;
    if (talk->at_finish != NULL) {
        talk->at_finish(talk->context);
    }
    end(talk);
}

static void on_failed(void *context, const struct turn_failure *failure) {
    struct talk *talk = context;
    talk->answer.is_failed = 1;
    talk->answer.http_status = failure->http_status;
    snprintf(talk->answer.code, sizeof talk->answer.code, "%s",
             failure->code != NULL ? failure->code : "");
    snprintf(talk->answer.text, sizeof talk->answer.text, "%s", failure->message);
    end(talk);
}

struct talk *talk_begin(struct stack *stack, const struct talk_request *request) {
    struct talk *talk = calloc(1, sizeof *talk);
    if (talk == NULL) {
        abort();
    }
    pthread_mutex_init(&talk->lock, NULL);
    pthread_cond_init(&talk->changed, NULL);
    talk->at_finish = request->at_finish;
    talk->context = request->context;
    struct turn_message message = {
        .role = "user", .content = request->text, .content_len = strlen(request->text)};
    struct turn_request turn = {
        .tenant = request->tenant != NULL ? request->tenant : "",
        .cache_salt = request->salt != NULL ? request->salt : "",
        .conversation_id = request->id,
        .messages = &message,
        .message_count = 1,
        .expected_turn = request->expected_turn,
        .requires_cache = request->requires_cache,
        .waits_for_state = request->waits_for_state,
        .ignores_end = request->ignores_end,
        .wants_logits_digest = 1,
        .max_tokens = request->max_tokens,
        .sampler = sampler_params_default(),
    };
    turn.sampler.temperature = request->temperature;
    turn.sampler.seed = request->seed;
    struct turn_sink sink = {.started = on_started,
                             .text = on_text,
                             .finished = on_finished,
                             .failed = on_failed,
                             .context = talk};
    turn_submit(stack->turns, &turn, &sink, &talk->turn);
    return talk;
}

void talk_cancel(struct talk *talk) {
    turn_cancel(talk->turn);
}

void talk_wait_started(struct talk *talk) {
    pthread_mutex_lock(&talk->lock);
    while (!talk->is_started) {
        pthread_cond_wait(&talk->changed, &talk->lock);
    }
    pthread_mutex_unlock(&talk->lock);
}

void talk_wait_text(struct talk *talk) {
    pthread_mutex_lock(&talk->lock);
    while (!talk->has_text && !talk->is_over) {
        pthread_cond_wait(&talk->changed, &talk->lock);
    }
    pthread_mutex_unlock(&talk->lock);
}

struct talk_answer talk_end(struct talk *talk) {
    pthread_mutex_lock(&talk->lock);
    while (!talk->is_over) {
        pthread_cond_wait(&talk->changed, &talk->lock);
    }
    pthread_mutex_unlock(&talk->lock);
    struct talk_answer answer = talk->answer;
    turn_release(talk->turn);
    pthread_cond_destroy(&talk->changed);
    pthread_mutex_destroy(&talk->lock);
    free(talk);
    return answer;
}

struct talk_answer talk_run(struct stack *stack, const struct talk_request *request) {
    return talk_end(talk_begin(stack, request));
}

struct stack_config talk_stack_config(const char *model_path, const char *directory) {
    struct stack_config config = stack_config_default();
    config.model_path = model_path;
    config.directory = directory;
    config.context = 2048;
    config.threads = 2;
    config.running_max = 8;
    config.host_bytes = (uint64_t)256 << 20;
    config.disk_bytes = (uint64_t)512 << 20;
    config.ledger_reserve_bytes = (uint64_t)4 << 20;
    return config;
}

struct stack *talk_open(const struct stack_config *config) {
    struct stack *stack = NULL;
    if (stack_open(config, &stack) != ERR_OK) {
        fprintf(stderr, "cannot open the stack: %s\n", err_message());
        exit(1);
    }
    return stack;
}

void talk_make_directory(char out[256]) {
    const char *base = getenv("TMPDIR");
    snprintf(out, 256, "%s/tern-talk-XXXXXX", base != NULL ? base : "/tmp");
    if (mkdtemp(out) == NULL) {
        perror(out);
        exit(1);
    }
}

static int remove_entry(const char *path, const struct stat *status, int type, struct FTW *ftw) {
    (void)status;
    (void)type;
    (void)ftw;
    return remove(path);
}

void talk_remove_directory(const char *directory) {
    nftw(directory, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
}
