/*
 * I1: `incoming` is the only list that several threads touch, under the lock; a request in it
 *     belongs to the engine thread from the moment that thread takes it out.
 * I2: every request that engine_submit accepted gets exactly one of finished and failed.
 */
#include "engine/engine.h"

#include "engine/request.h"
#include "engine/scheduler.h"

#include <pthread.h>
#include <stdlib.h>
#include <time.h>

enum { BLOCKED_WAIT_MS = 2 };

struct engine {
    struct engine_config config;
    struct scheduler *scheduler;
    pthread_t thread;
    int has_thread;
    pthread_mutex_t lock; /* over what follows */
    pthread_cond_t wake;
    struct engine_request *incoming; /* newest first */
    int is_stopping;
    int has_cancels;    /* since the thread last looked */
    _Atomic int active; /* accepted and not yet ended */
};

/* --- the engine thread ------------------------------------------------------------------- */

static void wait_for_work(struct engine *engine, enum scheduler_progress progress) {
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += BLOCKED_WAIT_MS * 1000000L;
    if (until.tv_nsec >= 1000000000L) {
        until.tv_nsec -= 1000000000L;
        until.tv_sec++;
    }
    while (engine->incoming == NULL && !engine->is_stopping && !engine->has_cancels) {
        if (progress == SCHEDULER_IDLE) {
            pthread_cond_wait(&engine->wake, &engine->lock);
        } else if (pthread_cond_timedwait(&engine->wake, &engine->lock, &until) != 0) {
            return;
        }
    }
}

/* Hands what has come in to the scheduler, oldest first. */
static void take_incoming(struct engine *engine, struct engine_request *newest) {
    struct engine_request *oldest = NULL;
    while (newest != NULL) {
        struct engine_request *next = newest->next;
        newest->next = oldest;
        oldest = newest;
        newest = next;
    }
    while (oldest != NULL) {
        struct engine_request *next = oldest->next;
        scheduler_add(engine->scheduler, oldest);
        oldest = next;
    }
}

static void *run(void *context) {
    struct engine *engine = context;
    enum scheduler_progress progress = SCHEDULER_IDLE;
    for (;;) {
        pthread_mutex_lock(&engine->lock);
        if (progress != SCHEDULER_RAN) {
            wait_for_work(engine, progress);
        }
        struct engine_request *incoming = engine->incoming;
        int is_stopping = engine->is_stopping;
        engine->incoming = NULL;
        engine->has_cancels = 0;
        pthread_mutex_unlock(&engine->lock);
        take_incoming(engine, incoming);
        if (is_stopping) {
            scheduler_end_all(engine->scheduler, err_fail(ERR_CANCELLED, "the server is stopping"));
            return NULL;
        }
        progress = scheduler_step(engine->scheduler);
    }
}

/* --- creation ---------------------------------------------------------------------------- */

static enum err start(struct engine *engine) {
    TRY(scheduler_create(&engine->config, &engine->scheduler));
    if (pthread_create(&engine->thread, NULL, run, engine) != 0) {
        return err_fail(ERR_NOMEM, "engine thread");
    }
    engine->has_thread = 1;
    return ERR_OK;
}

enum err engine_create(const struct engine_config *config, struct engine **out) {
    if (config->running_max < 1 || config->queue_max < 0 ||
        config->step_rows_max < 2 * config->running_max || config->context < 2) {
        return err_fail(ERR_INVALID, "an engine of %d requests with steps of %d rows",
                        config->running_max, config->step_rows_max);
    }
    struct engine *engine = calloc(1, sizeof *engine);
    if (engine == NULL) {
        return err_fail(ERR_NOMEM, "engine");
    }
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_mutex_init(&engine->lock, NULL);
    pthread_cond_init(&engine->wake, &attributes);
    pthread_condattr_destroy(&attributes);
    engine->config = *config;
    enum err code = start(engine);
    if (code != ERR_OK) {
        engine_destroy(engine);
        return code;
    }
    *out = engine;
    return ERR_OK;
}

void engine_destroy(struct engine *engine) {
    if (engine == NULL) {
        return;
    }
    if (engine->has_thread) {
        pthread_mutex_lock(&engine->lock);
        engine->is_stopping = 1;
        pthread_cond_signal(&engine->wake);
        pthread_mutex_unlock(&engine->lock);
        pthread_join(engine->thread, NULL);
    }
    scheduler_destroy(engine->scheduler);
    pthread_cond_destroy(&engine->wake);
    pthread_mutex_destroy(&engine->lock);
    free(engine);
}

/* --- requests ---------------------------------------------------------------------------- */

static enum err check_params(const struct engine *engine, const struct engine_params *params) {
    const struct model_shape *shape = &engine->config.model->shape;
    int attached = params->attach == NULL ? 0 : store_head_length(params->attach);
    if (params->count < 1 || params->max_tokens < 1 ||
        params->count > engine->config.context - params->max_tokens) {
        return err_fail(ERR_INVALID, "%d tokens and %d more in a context of %d", params->count,
                        params->max_tokens, engine->config.context);
    }
    /* The last token is always run for its logits: a head must end before it. */
    if (attached >= params->count || params->prompt_end >= params->count ||
        (params->prompt_end > 0 && params->prompt_end <= attached)) {
        return err_fail(ERR_INVALID, "a head of %d and a prompt end of %d in %d tokens", attached,
                        params->prompt_end, params->count);
    }
    for (int i = 0; i < params->count; i++) {
        if (params->tokens[i] < 0 || params->tokens[i] >= shape->vocabulary) {
            return err_fail(ERR_INVALID, "token id %d is not in the vocabulary of %d",
                            (int)params->tokens[i], shape->vocabulary);
        }
    }
    return ERR_OK;
}

enum err engine_submit(struct engine *engine, const struct engine_params *params,
                       struct engine_request **out) {
    struct engine_request *request = NULL;
    TRY(check_params(engine, params));
    TRY(request_create(engine, params, engine->config.model->shape.vocabulary, &request));
    pthread_mutex_lock(&engine->lock);
    int active = atomic_load(&engine->active);
    int is_full = active >= engine->config.queue_max + engine->config.running_max;
    if (is_full || engine->is_stopping) {
        pthread_mutex_unlock(&engine->lock);
        request->attach = NULL; /* stays the caller's */
        request_release(request);
        if (is_full) {
            return err_fail(ERR_FULL, "%d requests run or wait already", active);
        }
        return err_fail(ERR_CLOSED, "the server is stopping");
    }
    atomic_fetch_add(&request->references, 1);
    *out = request;
    atomic_fetch_add(&engine->active, 1);
    request->next = engine->incoming;
    engine->incoming = request;
    pthread_cond_signal(&engine->wake);
    pthread_mutex_unlock(&engine->lock);
    return ERR_OK;
}

void engine_cancel(struct engine_request *request) {
    struct engine *engine = request->engine;
    atomic_store(&request->is_cancelled, 1);
    pthread_mutex_lock(&engine->lock);
    engine->has_cancels = 1;
    pthread_cond_signal(&engine->wake);
    pthread_mutex_unlock(&engine->lock);
}

void request_note_end(struct engine *engine) {
    atomic_fetch_sub(&engine->active, 1);
}

void engine_request_release(struct engine_request *request) {
    request_release(request);
}

void engine_get_counters(struct engine *engine, struct engine_counters *out) {
    *out = (struct engine_counters){0};
    scheduler_get_counters(engine->scheduler, out);
    int waiting = atomic_load(&engine->active) - out->running;
    out->queued = waiting > 0 ? waiting : 0; /* the two are not read at one moment */
}
