/*
 * A turn's life: submission, failures, cancelling, and its end. What lies between is in
 * turn_prepare.c (to the engine) and turn_commit.c (from it).
 *
 * I1: the sink is told exactly one of failed and finished; whoever tells it ends the turn.
 */
#include "server/turn_state.h"

#include "base/now.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    TEXTS_BYTES_MAX = 64 << 20,
    FULL_RETRY_MS = 1000,
};

/* --- failures -------------------------------------------------------------------------------- */

struct turn_failure turn_state_failure(int http_status, const char *code, const char *message) {
    return (struct turn_failure){
        .http_status = http_status,
        .type = http_status >= 500 ? "server_error" : "invalid_request_error",
        .code = code,
        .message = message,
        .committed_turn = -1,
        .rebuild_tokens = -1,
    };
}

struct turn_failure turn_state_failure_of(enum err code, const char *message) {
    struct turn_failure failure;
    switch (code) {
    case ERR_INVALID:
        return turn_state_failure(400, NULL, message);
    case ERR_FULL:
        failure = turn_state_failure(429, "queue_full", message);
        failure.type = "rate_limit_error";
        failure.retry_after_ms = FULL_RETRY_MS;
        return failure;
    case ERR_CANCELLED:
    case ERR_CLOSED:
        failure = turn_state_failure(503, "server_stopping", message);
        failure.retry_after_ms = FULL_RETRY_MS;
        return failure;
    case ERR_CORRUPT:
    case ERR_FORMAT:
        return turn_state_failure(500, "conversation_damaged", message);
    case ERR_DEVICE:
        return turn_state_failure(503, "device_failed", message);
    default:
        return turn_state_failure(500, "internal_error", message);
    }
}

void turn_state_fail_with(struct turn *turn, int http_status, const char *code,
                          const char *message) {
    struct turn_failure failure = turn_state_failure(http_status, code, message);
    turn_state_fail(turn, &failure);
}

void turn_state_fail_with_err(struct turn *turn, enum err code) {
    char message[512];
    snprintf(message, sizeof message, "%s", err_message());
    struct turn_failure failure = turn_state_failure_of(code, message);
    turn_state_fail(turn, &failure);
}

/* --- life ------------------------------------------------------------------------------------- */

static void destroy(struct turn *turn) {
    turn_state_free_request(turn);
    token_list_done(&turn->ids);
    buf_done(&turn->texts);
    buf_done(&turn->answer);
    free(turn->generated);
    free(turn->messages_json);
    pthread_mutex_destroy(&turn->lock);
    free(turn);
}

void turn_release(struct turn *turn) {
    if (turn != NULL && atomic_fetch_sub(&turn->references, 1) == 1) {
        destroy(turn);
    }
}

void turn_state_release_holds(struct turn *turn) {
    struct turn_service *service = turn->service;
    store_head_release(turn->outcome.turn_end);
    store_head_release(turn->outcome.prompt_end);
    turn->outcome.turn_end = NULL;
    turn->outcome.prompt_end = NULL;
    store_head_release(turn->found.head);
    turn->found.head = NULL;
    if (turn->room_bytes > 0) {
        ledger_room_release(service->config.ledger, turn->room_bytes);
        turn->room_bytes = 0;
    }
    if (turn->has_lease) {
        lease_release(ledger_leases(service->config.ledger), &turn->key, turn->generation);
        turn->has_lease = 0;
    }
}

/* The service lets go of a turn whose sink has been told. */
static void leave(struct turn *turn) {
    struct turn_service *service = turn->service;
    pthread_mutex_lock(&turn->lock);
    struct engine_request *running = turn->running;
    turn->running = NULL;
    pthread_mutex_unlock(&turn->lock);
    if (running != NULL) {
        engine_request_release(running);
    }
    pthread_mutex_lock(&service->lock);
    TAILQ_REMOVE(&service->active, turn, active);
    service->counters.active--;
    pthread_cond_broadcast(&service->wake);
    pthread_mutex_unlock(&service->lock);
    turn_release(turn);
}

void turn_state_fail(struct turn *turn, const struct turn_failure *failure) {
    struct turn_service *service = turn->service;
    turn_state_release_holds(turn);
    pthread_mutex_lock(&service->lock);
    if (atomic_load(&turn->is_cancelled)) {
        service->counters.turns_cancelled++;
    } else {
        service->counters.turns_failed++;
    }
    pthread_mutex_unlock(&service->lock);
    turn->sink.failed(turn->sink.context, failure);
    leave(turn);
}

void turn_state_finish(struct turn *turn, const struct turn_result *result) {
    turn_state_release_holds(turn);
    turn->sink.finished(turn->sink.context, result);
    leave(turn);
}

void turn_cancel(struct turn *turn) {
    atomic_store(&turn->is_cancelled, 1);
    pthread_mutex_lock(&turn->lock);
    if (turn->running != NULL) {
        engine_cancel(turn->running);
    }
    pthread_mutex_unlock(&turn->lock);
}

/* --- submission
 * --------------------------------------------------------------------------------------- */

static struct turn *create(struct turn_service *service, const struct turn_sink *sink) {
    struct turn *turn = calloc(1, sizeof *turn);
    if (turn == NULL) {
        return NULL;
    }
    turn->service = service;
    atomic_init(&turn->references, 2);
    atomic_init(&turn->is_cancelled, 0);
    turn->sink = *sink;
    turn->started_ms = now_wall_ms();
    buf_init(&turn->texts, TEXTS_BYTES_MAX);
    buf_init(&turn->answer, TURN_STATE_ANSWER_BYTES_MAX);
    pthread_mutex_init(&turn->lock, NULL);
    pthread_mutex_lock(&service->lock);
    TAILQ_INSERT_TAIL(&service->active, turn, active);
    service->counters.active++;
    pthread_mutex_unlock(&service->lock);
    return turn;
}

void turn_submit(struct turn_service *service, const struct turn_request *request,
                 const struct turn_sink *sink, struct turn **out) {
    struct turn *turn = create(service, sink);
    *out = turn;
    if (turn == NULL) {
        struct turn_failure failure =
            turn_state_failure(503, "out_of_memory", "there is no memory for another turn");
        sink->failed(sink->context, &failure);
        return;
    }
    enum err code = turn_state_copy_request(turn, request);
    if (code == ERR_OK) {
        code = front_submit(service->config.front, turn_state_prepare, turn);
    }
    if (code != ERR_OK) {
        turn_state_fail_with_err(turn, code);
    }
}
