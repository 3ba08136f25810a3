#include "tests/http/fake_turn.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { CONVERSATIONS_MAX = 64 };

struct conversation {
    char *key;
    uint64_t turn;
};

struct turn_service {
    pthread_mutex_t lock;
    pthread_cond_t is_idle;
    int running;
    int is_unhealthy;
    uint64_t tokens_run;
    struct turn *first; /* those that run */
    struct conversation conversations[CONVERSATIONS_MAX];
    size_t conversation_count;
};

struct turn {
    struct turn_service *service;
    struct turn *next;
    struct turn_sink sink;
    char *script;
    char *echo;
    uint64_t number;
    int wants_digest;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int references;
    int is_cancelled;
    const char *stage;
    int has_started;
    int has_ended;
    int tokens;
};

/* One write, so that lines of several threads do not mix. */
static void say(const char *format, ...) PRINTF_LIKE(1, 2);

static void say(const char *format, ...) {
    char line[256];
    va_list arguments;
    va_start(arguments, format);
    int len = vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    ssize_t written = write(STDOUT_FILENO, line, (size_t)len);
    (void)written;
}

/* --- conversations ------------------------------------------------------------------------ */

static char *key_of(const char *tenant, const char *salt, const char *id) {
    char *key = NULL;
    if (asprintf(&key, "%s/%s/%s", tenant, salt, id) < 0) {
        abort();
    }
    return key;
}

static struct conversation *find(struct turn_service *service, const char *key) {
    for (size_t i = 0; i < service->conversation_count; i++) {
        if (strcmp(service->conversations[i].key, key) == 0) {
            return &service->conversations[i];
        }
    }
    return NULL;
}

static uint64_t next_turn(struct turn_service *service, const struct turn_request *request) {
    if (request->conversation_id == NULL) {
        return 0;
    }
    char *key = key_of(request->tenant, request->cache_salt, request->conversation_id);
    pthread_mutex_lock(&service->lock);
    struct conversation *found = find(service, key);
    if (found == NULL && service->conversation_count < CONVERSATIONS_MAX) {
        found = &service->conversations[service->conversation_count++];
        *found = (struct conversation){.key = strdup(key)};
    }
    uint64_t turn = found == NULL ? 0 : ++found->turn;
    pthread_mutex_unlock(&service->lock);
    free(key);
    return turn;
}

enum err turn_delete_conversation(struct turn_service *service, const char *tenant,
                                  const char *cache_salt, const char *conversation_id,
                                  struct turn_delete_result *out, struct turn_failure *failure) {
    if (strcmp(conversation_id, "broken") == 0) {
        *failure = (struct turn_failure){.http_status = 503,
                                         .type = "server_error",
                                         .code = "ledger_failed",
                                         .message = "the ledger cannot be written",
                                         .committed_turn = -1,
                                         .rebuild_tokens = -1};
        return ERR_IO;
    }
    char *key = key_of(tenant, cache_salt, conversation_id);
    pthread_mutex_lock(&service->lock);
    struct conversation *found = find(service, key);
    if (found != NULL) {
        free(found->key);
        *found = service->conversations[--service->conversation_count];
    }
    out->was_found = found != NULL;
    pthread_mutex_unlock(&service->lock);
    free(key);
    return ERR_OK;
}

/* --- a turn ----------------------------------------------------------------------------------- */

static void give_up(struct turn *turn) {
    pthread_mutex_lock(&turn->lock);
    int left = --turn->references;
    pthread_mutex_unlock(&turn->lock);
    if (left > 0) {
        return;
    }
    pthread_cond_destroy(&turn->changed);
    pthread_mutex_destroy(&turn->lock);
    free(turn->script);
    free(turn->echo);
    free(turn);
}

/* Waits; 1: cancelled. MS < 0: until cancelled. */
static int wait_for_cancel(struct turn *turn, const char *stage, long ms) {
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += ms / 1000;
    until.tv_nsec += ms % 1000 * 1000000;
    if (until.tv_nsec >= 1000000000) {
        until.tv_sec++;
        until.tv_nsec -= 1000000000;
    }
    pthread_mutex_lock(&turn->lock);
    turn->stage = stage;
    int failure = 0;
    while (!turn->is_cancelled && failure == 0) {
        failure = ms < 0 ? pthread_cond_wait(&turn->changed, &turn->lock)
                         : pthread_cond_timedwait(&turn->changed, &turn->lock, &until);
    }
    int is_cancelled = turn->is_cancelled;
    pthread_mutex_unlock(&turn->lock);
    return is_cancelled;
}

static void fail(struct turn *turn, const struct turn_failure *failure) {
    turn->has_ended = 1;
    turn->sink.failed(turn->sink.context, failure);
}

static void start(struct turn *turn) {
    struct turn_start begun = {.turn = turn->number, .is_created = turn->number == 1};
    if (!turn->has_started) {
        turn->has_started = 1;
        pthread_mutex_lock(&turn->lock);
        turn->stage = "started";
        pthread_mutex_unlock(&turn->lock);
        turn->sink.started(turn->sink.context, &begun);
    }
}

static void text(struct turn *turn, const char *piece, size_t len) {
    start(turn);
    turn->tokens++;
    turn->sink.text(turn->sink.context, piece, len);
}

static void finish(struct turn *turn, const char *reason) {
    struct turn_result result = {.turn = turn->number,
                                 .is_created = turn->number == 1,
                                 .finish_reason = reason,
                                 .tier = turn->number > 1 ? "disk" : "none",
                                 .prompt_tokens = 11,
                                 .completion_tokens = turn->tokens,
                                 .num_computed_tokens = turn->number > 1 ? 7 : 0,
                                 .tokens_reused = turn->number > 1 ? 7 : 0,
                                 .tokens_run = turn->number > 1 ? 4 : 11,
                                 .bytes_read = turn->number > 1 ? 4096 : 0,
                                 .promote_ms = 0.5,
                                 .prefill_ms = 1.25,
                                 .decode_ms = 2.0,
                                 .commit_ms = 0.5,
                                 .is_durable = turn->number > 1,
                                 .has_logits_digest = turn->wants_digest};
    memset(result.logits_digest, 0xab, sizeof result.logits_digest);
    start(turn);
    turn->has_ended = 1;
    turn->sink.finished(turn->sink.context, &result);
}

static void repeat(struct turn *turn, char *arguments) {
    char *piece;
    long count = strtol(arguments, &piece, 10);
    piece += *piece == ' ';
    for (long i = 0; i < count && !wait_for_cancel(turn, "repeat", 0); i++) {
        text(turn, piece, strlen(piece));
    }
}

static void numbers(struct turn *turn, const char *arguments) {
    long count = strtol(arguments, NULL, 10);
    for (long i = 0; i < count; i++) {
        char piece[24];
        int len = snprintf(piece, sizeof piece, "%ld ", i);
        text(turn, piece, (size_t)len);
    }
}

static void fail_as(struct turn *turn, const char *kind, char *arguments) {
    struct turn_failure failure = {.committed_turn = -1, .rebuild_tokens = -1};
    char *rest = arguments;
    long number = strtol(arguments, &rest, 10);
    failure.http_status = 409;
    failure.type = "invalid_request_error";
    failure.message = "as the script says";
    if (strcmp(kind, "fail") == 0) {
        failure.http_status = (int)number;
        failure.type = number >= 500 ? "server_error" : "invalid_request_error";
        failure.code = *rest == ' ' ? rest + 1 : NULL;
    } else if (strcmp(kind, "conflict") == 0) {
        failure.code = "conversation_turn_conflict";
        failure.param = "conversation_expected_turn";
        failure.never_retry = 1;
        failure.committed_turn = number;
    } else if (strcmp(kind, "missing") == 0) {
        failure.code = "conversation_state_missing";
        failure.never_retry = 1;
        failure.rebuild_tokens = number;
    } else {
        failure.code = "conversation_busy";
        failure.retry_after_ms = 1500;
    }
    fail(turn, &failure);
}

/* One instruction; 1: the turn was cancelled. */
static int play(struct turn *turn, char *line) {
    char *arguments = strchr(line, ' ');
    if (arguments != NULL) {
        *arguments++ = '\0';
    } else {
        arguments = line + strlen(line);
    }
    if (strcmp(line, "start") == 0) {
        start(turn);
    } else if (strcmp(line, "text") == 0) {
        char *escaped;
        while ((escaped = strstr(arguments, "\\n")) != NULL) {
            *escaped = '\n';
            memmove(escaped + 1, escaped + 2, strlen(escaped + 2) + 1);
        }
        text(turn, arguments, strlen(arguments));
    } else if (strcmp(line, "repeat") == 0) {
        repeat(turn, arguments);
    } else if (strcmp(line, "numbers") == 0) {
        numbers(turn, arguments);
    } else if (strcmp(line, "echo") == 0) {
        text(turn, turn->echo, strlen(turn->echo));
    } else if (strcmp(line, "finish") == 0) {
        finish(turn, strcmp(arguments, "length") == 0 ? "length" : "stop");
    } else if (strcmp(line, "sleep") == 0) {
        return wait_for_cancel(turn, turn->has_started ? "started" : "queued",
                               strtol(arguments, NULL, 10));
    } else if (strcmp(line, "wait") == 0) {
        return wait_for_cancel(turn, turn->has_started ? "started" : "queued", -1);
    } else if (strcmp(line, "stubborn") == 0) {
        usleep((useconds_t)strtol(arguments, NULL, 10) * 1000);
    } else if (strcmp(line, "fail") == 0 || strcmp(line, "conflict") == 0 ||
               strcmp(line, "missing") == 0 || strcmp(line, "busy") == 0) {
        fail_as(turn, line, arguments);
    }
    return 0;
}

static void *run(void *context) {
    struct turn *turn = context;
    struct turn_service *service = turn->service;
    char *rest = NULL;
    int is_cancelled = 0;
    for (char *line = strtok_r(turn->script, "\n", &rest); line != NULL && !turn->has_ended;
         line = strtok_r(NULL, "\n", &rest)) {
        is_cancelled = play(turn, line);
        if (is_cancelled) {
            struct turn_failure failure = {.http_status = 500,
                                           .message = "cancelled",
                                           .committed_turn = -1,
                                           .rebuild_tokens = -1};
            fail(turn, &failure);
        }
    }
    if (!turn->has_ended) {
        finish(turn, "stop");
    }
    say("ended\n");
    pthread_mutex_lock(&service->lock);
    for (struct turn **at = &service->first; *at != NULL; at = &(*at)->next) {
        if (*at == turn) {
            *at = turn->next;
            break;
        }
    }
    service->tokens_run += (uint64_t)turn->tokens;
    pthread_mutex_unlock(&service->lock);
    give_up(turn);
    pthread_mutex_lock(&service->lock);
    service->running--;
    pthread_cond_broadcast(&service->is_idle);
    pthread_mutex_unlock(&service->lock);
    return NULL;
}

/* Floats as doubles would print them are not what clients wrote: six digits are enough. */
static char *describe(const struct turn_request *request) {
    const struct sampler_params *sampler = &request->sampler;
    char *text_out = NULL;
    const char *id = request->conversation_id;
    if (asprintf(&text_out,
                 "{\"tenant\":\"%s\",\"salt\":\"%s\",\"id\":\"%s\",\"messages\":%zu,"
                 "\"role\":\"%s\",\"expected_turn\":%lld,\"requires_cache\":%d,"
                 "\"waits_for_state\":%d,\"ignores_end\":%d,\"max_tokens\":%d,\"stops\":%zu,"
                 "\"temperature\":%.6g,\"top_p\":%.6g,\"top_k\":%d,\"min_p\":%.6g,"
                 "\"presence\":%.6g,\"frequency\":%.6g,\"repetition\":%.6g,\"seed\":%llu,"
                 "\"biases\":%zu}",
                 request->tenant, request->cache_salt, id != NULL ? id : "", request->message_count,
                 request->messages[0].role, (long long)request->expected_turn,
                 request->requires_cache, request->waits_for_state, request->ignores_end,
                 request->max_tokens, request->stop_count, (double)sampler->temperature,
                 (double)sampler->top_p, sampler->top_k, (double)sampler->min_p,
                 (double)sampler->presence_penalty, (double)sampler->frequency_penalty,
                 (double)sampler->repetition_penalty, (unsigned long long)sampler->seed,
                 sampler->bias_count) < 0) {
        abort();
    }
    return text_out;
}

void turn_submit(struct turn_service *service, const struct turn_request *request,
                 const struct turn_sink *sink, struct turn **out) {
    const struct turn_message *last = &request->messages[request->message_count - 1];
    struct turn *turn = calloc(1, sizeof *turn);
    pthread_t thread;
    turn->service = service;
    turn->sink = *sink;
    turn->script = strndup(last->content, last->content_len);
    turn->echo = describe(request);
    turn->number = next_turn(service, request);
    turn->wants_digest = request->wants_logits_digest;
    turn->stage = "queued";
    turn->references = 2;
    pthread_mutex_init(&turn->lock, NULL);
    pthread_cond_init(&turn->changed, NULL);
    pthread_mutex_lock(&service->lock);
    turn->next = service->first;
    service->first = turn;
    service->running++;
    service->is_unhealthy = strncmp(turn->script, "unhealthy", 9) == 0;
    pthread_mutex_unlock(&service->lock);
    say("submitted\n");
    if (pthread_create(&thread, NULL, run, turn) != 0) {
        abort();
    }
    pthread_detach(thread);
    *out = turn;
}

void turn_cancel(struct turn *turn) {
    pthread_mutex_lock(&turn->lock);
    if (!turn->is_cancelled) {
        say("cancelled %s\n", turn->stage);
    }
    turn->is_cancelled = 1;
    pthread_cond_broadcast(&turn->changed);
    pthread_mutex_unlock(&turn->lock);
}

void turn_release(struct turn *turn) {
    give_up(turn);
}

/* --- the service -------------------------------------------------------------------------- */

enum err fake_turn_create(struct turn_service **out) {
    struct turn_service *service = calloc(1, sizeof *service);
    if (service == NULL) {
        return err_fail(ERR_NOMEM, "fake turn service");
    }
    pthread_mutex_init(&service->lock, NULL);
    pthread_cond_init(&service->is_idle, NULL);
    *out = service;
    return ERR_OK;
}

void fake_turn_destroy(struct turn_service *service) {
    pthread_mutex_lock(&service->lock);
    for (struct turn *turn = service->first; turn != NULL; turn = turn->next) {
        turn_cancel(turn);
    }
    while (service->running > 0) {
        pthread_cond_wait(&service->is_idle, &service->lock);
    }
    pthread_mutex_unlock(&service->lock);
    for (size_t i = 0; i < service->conversation_count; i++) {
        free(service->conversations[i].key);
    }
    pthread_cond_destroy(&service->is_idle);
    pthread_mutex_destroy(&service->lock);
    free(service);
}

void fake_turn_snapshot(void *context, struct server_snapshot *out) {
    struct turn_service *service = context;
    pthread_mutex_lock(&service->lock);
    out->is_serving = !service->is_unhealthy;
    if (service->is_unhealthy) {
        snprintf(out->reasons[0], sizeof out->reasons[0], "the ledger cannot be synced");
        out->reason_count = 1;
    }
    out->running = service->running;
    out->tokens_run = service->tokens_run;
    out->tiers[SERVER_SNAPSHOT_DISK].tokens_reused = 70;
    pthread_mutex_unlock(&service->lock);
}
