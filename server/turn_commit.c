/*
 * A turn from the engine's last event to the client's: the ledger, the head, the
 * lease, the final chunk, in this order. One thread commits all turns; it waits
 * for nobody but the spill lag, because each stage is begun and its end comes back
 * as the next one.
 *
 * ENDED -> ledger_append_submit -> DURABLE -> store_publish, lease free -> finished,
 * or, where the client waits for its state, -> SPILLED -> finished.
 *
 * I1: the sink is told `finished` only after the ledger said that the turn is durable.
 * I2: heads are published only of turns that are in the ledger.
 * I3: nothing that happens to the client after the ledger transaction began discards the turn.
 */
#include "server/turn_state.h"

#include "base/fault.h"
#include "base/now.h"
#include "ledger/state_key.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { HOUSEKEEPING_MS = 1000, TOMBSTONES_AT_ONCE = 64 };

/* --- the record --------------------------------------------------------------------------------
 */

static json_t *message_json(const char *role, const char *content, size_t len) {
    return json_pack("{s:s, s:s%}", "role", role, "content", content, len);
}

/* The turn's messages and its answer, as the ledger keeps them. NULL: out of memory. */
static char *messages_json(const struct turn *turn) {
    json_t *array = json_array();
    int is_good = array != NULL;
    for (size_t i = 0; i < turn->request.message_count && is_good; i++) {
        const struct turn_message *message = &turn->request.messages[i];
        is_good = json_array_append_new(array, message_json(message->role, message->content,
                                                            message->content_len)) == 0;
    }
    const char *answer = turn->answer.len > 0 ? (const char *)turn->answer.data : "";
    is_good = is_good && json_array_append_new(
                             array, message_json("assistant", answer, turn->answer.len)) == 0;
    char *text = is_good ? json_dumps(array, JSON_COMPACT) : NULL;
    json_decref(array);
    return text;
}

static enum err fill_record(struct turn *turn) {
    turn->messages_json = messages_json(turn);
    if (turn->messages_json == NULL) {
        return err_fail(ERR_NOMEM, "the turn's messages");
    }
    turn->record = (struct turn_record){
        .parent_turn = turn->committed_turn,
        .base_tokens = turn->history_count,
        .prompt_end_tokens = turn->prompt_end,
        .pending_tokens = 1, /* the last sampled token was never run */
        .finish = turn->outcome.finish == ENGINE_FINISH_STOP ? TURN_RECORD_FINISH_STOP
                                                             : TURN_RECORD_FINISH_LENGTH,
        .started_ms = turn->started_ms,
        .prompt_ids = turn->ids.ids + turn->history_count,
        .prompt_count = turn->ids.count - turn->history_count,
        .generated_ids = turn->generated,
        .generated_count = (size_t)turn->outcome.generated_count,
        .messages = (const uint8_t *)turn->messages_json,
        .messages_bytes = strlen(turn->messages_json),
    };
    return ERR_OK;
}

/* The template's digest stands as the dialect's text: see check_dialect in turn.c. */
static enum err fill_append(struct turn *turn) {
    const struct turn_service *service = turn->service;
    const struct turn_request *request = &turn->request;
    TRY(fill_record(turn));
    turn->append = (struct ledger_append){
        .key = turn->key,
        .generation = turn->generation,
        .expected_turn = turn->committed_turn,
        .turn = &turn->record,
        .identity = {.tenant = request->tenant,
                     .tenant_bytes = strlen(request->tenant),
                     .salt = request->cache_salt,
                     .salt_bytes = strlen(request->cache_salt),
                     .id = request->conversation_id,
                     .id_bytes = strlen(request->conversation_id)},
    };
    tokenizer_digest(service->config.tokenizer, turn->append.dialect_digest);
    chat_template_digest(service->config.chat_template, turn->template_digest);
    turn->append.dialect = turn->template_digest;
    turn->append.dialect_bytes = sizeof turn->template_digest;
    return ERR_OK;
}

/* --- results -------------------------------------------------------------------------------------
 */

/* From the last token to the ledger's answer; 0 for a turn that leaves nothing behind. */
static uint64_t commit_ns(const struct turn *turn) {
    return turn->durable_ns > 0 ? turn->durable_ns - turn->ended_ns : 0;
}

static struct turn_result result_of(const struct turn *turn) {
    const struct engine_outcome *outcome = &turn->outcome;
    int attached = outcome->attached_length;
    struct turn_result result = {
        .turn = turn->appended.turn,
        .is_created = turn->is_created,
        .finish_reason = outcome->finish == ENGINE_FINISH_STOP ? "stop" : "length",
        .tier = tier_name(attached > 0 ? turn->found.tier : TIER_NONE),
        .prompt_tokens = (int)turn->ids.count,
        .completion_tokens = outcome->generated_count,
        .num_computed_tokens = attached,
        .tokens_reused = attached,
        .tokens_run = outcome->tokens_run,
        .bytes_read = turn->found.bytes_read,
        .promote_ms = turn->found.promote_ms,
        .prefill_ms = outcome->prefill_ms,
        .decode_ms = outcome->decode_ms,
        .commit_ms = (double)commit_ns(turn) * 1e-6,
        .is_durable = turn->waits_for_spill && turn->spill_code == ERR_OK,
        .is_rebuilt = attached < turn->head_length,
        .has_logits_digest = turn->request.wants_logits_digest,
    };
    if (result.is_rebuilt) {
        result.reason = turn->found.reason != NULL ? turn->found.reason : "state_evicted";
    } else if (turn->has_new_template) {
        result.reason = "template_changed";
    }
    memcpy(result.logits_digest, outcome->logits_digest, sizeof result.logits_digest);
    return result;
}

static void finish(struct turn *turn) {
    struct turn_service *service = turn->service;
    struct turn_result result = result_of(turn);
    enum tier tier = result.tokens_reused > 0 ? turn->found.tier : TIER_NONE;
    pthread_mutex_lock(&service->lock);
    service->counters.turns_committed++;
    service->counters.turns_rebuilt += (uint64_t)result.is_rebuilt;
    service->counters.conversations_created +=
        (uint64_t)(turn->is_created && turn->request.conversation_id != NULL);
    service->counters.tokens_reused[tier] += (uint64_t)result.tokens_reused;
    if (turn->durable_ns > 0) {
        histogram_observe(&service->counters.commit_seconds, (double)commit_ns(turn) * 1e-9);
    }
    pthread_mutex_unlock(&service->lock);
    turn_state_finish(turn, &result);
}

/* --- the stages
 * ------------------------------------------------------------------------------------ */

static void on_durable(void *context, enum err code, const char *message,
                       const struct ledger_appended *result) {
    struct turn *turn = context;
    turn->durable_ns = now_monotonic_ns();
    turn->ledger_code = code;
    if (code == ERR_OK) {
        turn->appended = *result;
    } else {
        snprintf(turn->end_message, sizeof turn->end_message, "%s", message);
    }
    turn_state_commit(turn, TURN_STAGE_DURABLE);
}

static void fail_ended(struct turn *turn, enum err code, const char *message) {
    struct turn_failure failure = turn_state_failure_of(code, message);
    turn_state_fail(turn, &failure);
}

static void run_ended(struct turn *turn) {
    if (turn->end_code != ERR_OK || atomic_load(&turn->is_cancelled)) {
        enum err code = turn->end_code != ERR_OK ? turn->end_code : ERR_CANCELLED;
        fail_ended(turn, code, turn->end_code != ERR_OK ? turn->end_message : "cancelled");
        return;
    }
    if (turn->request.conversation_id == NULL) {
        finish(turn); /* it leaves nothing behind */
        return;
    }
    store_wait_for_lag(turn->service->config.store);
    enum err code = fill_append(turn);
    if (code == ERR_OK) {
        code = ledger_append_submit(turn->service->config.ledger, &turn->append, on_durable, turn);
    }
    if (code != ERR_OK) {
        fail_ended(turn, code, err_message());
    }
}

/* Why the ledger refused a turn that had been accepted. */
static void fail_refused(struct turn *turn) {
    struct turn_failure failure = turn_state_failure_of(turn->ledger_code, turn->end_message);
    if (turn->ledger_code == ERR_CONFLICT || turn->ledger_code == ERR_NOT_FOUND) {
        failure = turn_state_failure(404, "conversation_not_found",
                                     "the conversation was deleted meanwhile");
        failure.type = "not_found_error";
        failure.never_retry = 1;
    } else if (turn->ledger_code == ERR_FULL) {
        failure = turn_state_failure(507, "storage_full", turn->end_message);
    } else if (turn->ledger_code == ERR_IO) {
        failure = turn_state_failure(503, "ledger_failed", turn->end_message);
    }
    turn_state_fail(turn, &failure);
}

static void on_spilled(void *context, enum err code) {
    struct turn *turn = context;
    turn->spill_code = code;
    turn_state_commit(turn, TURN_STAGE_SPILLED);
}

/* Hands HEAD over to the store. WAITS: on_spilled will follow. */
static void publish(struct turn *turn, struct store_head *head, const uint8_t *digest, int waits) {
    struct store_publish params = {.turn = turn->appended.turn};
    state_key_make(&turn->key, turn->appended.serial, params.key);
    memcpy(params.chain_digest, digest, sizeof params.chain_digest);
    if (waits) {
        params.must_spill = 1;
        params.spilled = on_spilled;
        params.context = turn;
    }
    store_publish(turn->service->config.store, head, &params);
}

/*
 * A deletion that came between the ledger's transaction and the publication has revoked the lease
 * and may have looked for heads already. One that comes later finds what was published.
 */
static void withdraw_if_deleted(struct turn *turn) {
    struct turn_service *service = turn->service;
    uint8_t key[STORE_KEY_BYTES];
    if (lease_is_current(ledger_leases(service->config.ledger), &turn->key, turn->generation)) {
        return;
    }
    state_key_make(&turn->key, turn->appended.serial, key);
    /* What cannot be removed now is never found: no later conversation has this key. */
    enum err code = store_delete(service->config.store, key);
    (void)code;
}

static void run_durable(struct turn *turn) {
    struct store_head *turn_end = turn->outcome.turn_end;
    struct store_head *prompt_end = turn->outcome.prompt_end;
    if (turn->ledger_code != ERR_OK) {
        fail_refused(turn);
        return;
    }
    FAULT_KILL("turn.committed");
    turn->outcome.turn_end = NULL;
    turn->outcome.prompt_end = NULL;
    turn->waits_for_spill = turn->request.waits_for_state && turn_end != NULL;
    if (turn_end != NULL) {
        publish(turn, turn_end, turn->appended.head_digest, turn->waits_for_spill);
    }
    if (prompt_end != NULL) {
        publish(turn, prompt_end, turn->appended.prompt_end_digest, 0);
    }
    withdraw_if_deleted(turn);
    FAULT_KILL("turn.published");
    if (turn->waits_for_spill) {
        turn_state_release_holds(turn); /* others may go on; only the final chunk waits */
    } else {
        finish(turn);
    }
}

static void run_stage(struct turn *turn) {
    switch (turn->stage) {
    case TURN_STAGE_ENDED:
        run_ended(turn);
        break;
    case TURN_STAGE_DURABLE:
        run_durable(turn);
        break;
    case TURN_STAGE_SPILLED:
        finish(turn);
        break;
    }
}

/* --- the thread
 * -------------------------------------------------------------------------------------- */

void turn_state_commit(struct turn *turn, enum turn_stage stage) {
    struct turn_service *service = turn->service;
    pthread_mutex_lock(&service->lock);
    turn->stage = stage;
    STAILQ_INSERT_TAIL(&service->commits, turn, commit_queue);
    pthread_cond_broadcast(&service->wake);
    pthread_mutex_unlock(&service->lock);
}

static struct timespec in_ms(uint64_t ms) {
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    uint64_t ns = (uint64_t)until.tv_nsec + ms % 1000 * 1000000u;
    until.tv_sec += (time_t)(ms / 1000 + ns / 1000000000u);
    until.tv_nsec = (long)(ns % 1000000000u);
    return until;
}

/* NULL: nothing is to be committed, and it is time for housekeeping or for stopping. */
static struct turn *take_next(struct turn_service *service, int *is_stopping) {
    struct timespec until = in_ms(HOUSEKEEPING_MS);
    pthread_mutex_lock(&service->lock);
    while (STAILQ_EMPTY(&service->commits) && !service->is_stopping &&
           pthread_cond_timedwait(&service->wake, &service->lock, &until) == 0) {
    }
    struct turn *turn = STAILQ_FIRST(&service->commits);
    if (turn != NULL) {
        STAILQ_REMOVE_HEAD(&service->commits, commit_queue);
    }
    *is_stopping = service->is_stopping;
    pthread_mutex_unlock(&service->lock);
    return turn;
}

/*
 * Removes the state of what the ledger has deleted. A tombstone whose turns are still being removed
 * stays, and is met again.
 */
static enum err clear_tombstones(struct turn_service *service) {
    struct ledger_record_tombstone tombstones[TOMBSTONES_AT_ONCE];
    uint64_t after = 0;
    for (;;) {
        size_t count = 0;
        TRY(ledger_tombstones_list(service->config.ledger, after, TOMBSTONES_AT_ONCE, tombstones,
                                   &count));
        for (size_t i = 0; i < count; i++) {
            uint8_t key[STORE_KEY_BYTES];
            after = tombstones[i].serial;
            if (!tombstones[i].turns_are_removed) {
                continue;
            }
            state_key_make(&tombstones[i].key, tombstones[i].serial, key);
            TRY(store_delete(service->config.store, key));
            enum err code = ledger_tombstone_remove(service->config.ledger, after);
            if (code != ERR_OK && code != ERR_BUSY && code != ERR_NOT_FOUND) {
                return code;
            }
        }
        if (count < TOMBSTONES_AT_ONCE) {
            return ERR_OK;
        }
    }
}

/* What fails here is met again a second later, and shows in the ledger's and store's counters. */
static void keep_house(struct turn_service *service) {
    store_spill_idle(service->config.store);
    enum err readers = ledger_readers_check(service->config.ledger, NULL);
    enum err tombstones = clear_tombstones(service);
    (void)readers;
    (void)tombstones;
}

static void *run(void *context) {
    struct turn_service *service = context;
    uint64_t house_ms = now_monotonic_ms();
    for (;;) {
        int is_stopping = 0;
        struct turn *turn = take_next(service, &is_stopping);
        if (turn != NULL) {
            run_stage(turn);
        } else if (is_stopping) {
            return NULL;
        }
        if (now_monotonic_ms() - house_ms >= HOUSEKEEPING_MS) {
            keep_house(service);
            house_ms = now_monotonic_ms();
        }
    }
}

/* --- the service
 * -------------------------------------------------------------------------------------- */

enum err turn_service_create(const struct turn_service_config *config, struct turn_service **out) {
    struct turn_service *service = calloc(1, sizeof *service);
    if (service == NULL) {
        return err_fail(ERR_NOMEM, "turn service");
    }
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_mutex_init(&service->lock, NULL);
    pthread_cond_init(&service->wake, &attributes);
    pthread_condattr_destroy(&attributes);
    service->config = *config;
    STAILQ_INIT(&service->commits);
    TAILQ_INIT(&service->active);
    enum err code = clear_tombstones(service);
    if (code == ERR_OK && pthread_create(&service->commit_thread, NULL, run, service) != 0) {
        code = err_fail(ERR_NOMEM, "commit thread");
    }
    if (code != ERR_OK) {
        turn_service_destroy(service);
        return code;
    }
    service->has_commit_thread = 1;
    *out = service;
    return ERR_OK;
}

void turn_service_destroy(struct turn_service *service) {
    if (service == NULL) {
        return;
    }
    pthread_mutex_lock(&service->lock);
    while (!TAILQ_EMPTY(&service->active)) {
        pthread_cond_wait(&service->wake, &service->lock);
    }
    service->is_stopping = 1;
    pthread_cond_broadcast(&service->wake);
    pthread_mutex_unlock(&service->lock);
    if (service->has_commit_thread) {
        pthread_join(service->commit_thread, NULL);
    }
    pthread_cond_destroy(&service->wake);
    pthread_mutex_destroy(&service->lock);
    free(service);
}

void turn_service_cancel_all(struct turn_service *service) {
    struct turn *turn;
    pthread_mutex_lock(&service->lock);
    TAILQ_FOREACH(turn, &service->active, active) {
        turn_cancel(turn);
    }
    pthread_mutex_unlock(&service->lock);
}

int turn_service_active(struct turn_service *service) {
    pthread_mutex_lock(&service->lock);
    int active = service->counters.active;
    pthread_mutex_unlock(&service->lock);
    return active;
}

void turn_service_get_counters(struct turn_service *service, struct turn_service_counters *out) {
    pthread_mutex_lock(&service->lock);
    *out = service->counters;
    pthread_mutex_unlock(&service->lock);
}

/* --- deletion
 * ------------------------------------------------------------------------------------------ */

enum err turn_delete_conversation(struct turn_service *service, const char *tenant,
                                  const char *cache_salt, const char *conversation_id,
                                  struct turn_delete_result *out, struct turn_failure *failure) {
    struct conversation_identity identity = {
        .tenant = tenant,
        .tenant_bytes = strlen(tenant),
        .salt = cache_salt,
        .salt_bytes = strlen(cache_salt),
        .id = conversation_id,
        .id_bytes = strlen(conversation_id),
    };
    struct conversation_key key;
    uint64_t serial = 0;
    uint8_t state_key[STORE_KEY_BYTES];
    enum err code = conversation_key_make(service->config.secret, &identity, &key);
    if (code == ERR_OK) {
        code = ledger_delete(service->config.ledger, &key, &serial);
    }
    if (code == ERR_NOT_FOUND) {
        out->was_found = 0;
        return ERR_OK;
    }
    if (code == ERR_OK) {
        state_key_make(&key, serial, state_key);
        code = store_delete(service->config.store, state_key);
    }
    if (code != ERR_OK) {
        *failure = turn_state_failure_of(code, err_message());
        return code;
    }
    out->was_found = 1;
    pthread_mutex_lock(&service->lock);
    service->counters.conversations_deleted++;
    pthread_mutex_unlock(&service->lock);
    return ERR_OK;
}
