/*
 * A turn from its request to the engine: lease, ledger, ids, head, submission; and what the
 * engine tells of it.
 *
 * I1: the lease is taken before anything of the conversation is read, and given back by
 *     turn_state_release_holds alone.
 * I2: the ids given to the engine are the committed ids, as they are in the ledger, and the
 *     template's delta behind them; history is never rendered again.
 */
#include "server/turn_state.h"

#include "base/now.h"
#include "ledger/state_key.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    BUSY_RETRY_MS = 500,
    RECORD_BYTES_EXTRA = 16 << 10, /* of a turn's record beside ids and messages */
};

/* --- events of the engine --------------------------------------------------------------------- */

static void on_started(void *context) {
    struct turn *turn = context;
    struct turn_start start = {
        .turn = turn->request.conversation_id == NULL ? 0 : turn->committed_turn + 1,
        .is_created = turn->is_created,
    };
    turn->sink.started(turn->sink.context, &start);
}

static void on_text(void *context, const char *text, size_t len) {
    struct turn *turn = context;
    if (turn->end_code == ERR_OK) {
        turn->end_code = buf_append(&turn->answer, text, len);
    }
    turn->sink.text(turn->sink.context, text, len);
}

static void on_finished(void *context, const struct engine_outcome *outcome) {
    struct turn *turn = context;
    size_t bytes = (size_t)outcome->generated_count * sizeof *turn->generated;
    turn->outcome = *outcome;
    turn->generated = malloc(bytes);
    if (turn->generated == NULL) {
        turn->end_code = ERR_NOMEM;
        snprintf(turn->end_message, sizeof turn->end_message, "%d generated ids",
                 outcome->generated_count);
    } else {
        memcpy(turn->generated, outcome->generated, bytes);
        turn->outcome.generated = turn->generated;
    }
    turn->ended_ns = now_monotonic_ns();
    turn_state_commit(turn, TURN_STAGE_ENDED);
}

static void on_failed(void *context, enum err code) {
    struct turn *turn = context;
    turn->end_code = code;
    snprintf(turn->end_message, sizeof turn->end_message, "%s", err_message());
    turn->ended_ns = now_monotonic_ns();
    turn_state_commit(turn, TURN_STAGE_ENDED);
}

/* --- preparation: the conversation -------------------------------------------------------------
 */

static struct conversation_identity identity_of(const struct turn_request *request) {
    return (struct conversation_identity){
        .tenant = request->tenant,
        .tenant_bytes = strlen(request->tenant),
        .salt = request->cache_salt,
        .salt_bytes = strlen(request->cache_salt),
        .id = request->conversation_id,
        .id_bytes = strlen(request->conversation_id),
    };
}

/* Nonzero: the turn has been failed. */
static int take_lease(struct turn *turn) {
    struct turn_service *service = turn->service;
    struct conversation_identity identity = identity_of(&turn->request);
    enum err code = conversation_key_make(service->config.secret, &identity, &turn->key);
    if (code != ERR_OK) {
        char message[512];
        snprintf(message, sizeof message, "%s", err_message());
        struct turn_failure failure = turn_state_failure(400, NULL, message);
        failure.param = "conversation_id";
        turn_state_fail(turn, &failure);
        return 1;
    }
    code = lease_take(ledger_leases(service->config.ledger), &turn->key, &turn->generation);
    if (code == ERR_BUSY) {
        struct turn_failure failure = turn_state_failure(
            409, "conversation_busy", "another request is advancing this conversation");
        failure.type = "conflict_error";
        failure.retry_after_ms = BUSY_RETRY_MS;
        turn_state_fail(turn, &failure);
        return 1;
    }
    if (code != ERR_OK) {
        turn_state_fail_with_err(turn, code);
        return 1;
    }
    turn->has_lease = 1; /* I1 */
    return 0;
}

/* Nonzero: failed. *conversation is filled unless the conversation is new. */
static int read_conversation(struct turn *turn, struct conversation_record *conversation) {
    const struct turn_request *request = &turn->request;
    enum err code =
        ledger_conversation_read(turn->service->config.ledger, &turn->key, conversation);
    if (code == ERR_NOT_FOUND) {
        if (request->expected_turn > 0 || request->requires_cache) {
            struct turn_failure failure =
                turn_state_failure(404, "conversation_not_found", "there is no such conversation");
            failure.type = "not_found_error";
            failure.param = "conversation_id";
            failure.never_retry = 1;
            turn_state_fail(turn, &failure);
            return 1;
        }
        turn->is_created = 1;
        return 0;
    }
    if (code != ERR_OK) {
        turn_state_fail_with_err(turn, code);
        return 1;
    }
    turn->serial = conversation->serial;
    turn->committed_turn = conversation->turn;
    if (request->expected_turn >= 0 && request->expected_turn != (int64_t)conversation->turn) {
        char message[128];
        snprintf(message, sizeof message, "the conversation is at turn %u, not %lld",
                 (unsigned)conversation->turn, (long long)request->expected_turn);
        struct turn_failure failure =
            turn_state_failure(409, "conversation_turn_conflict", message);
        failure.type = "conflict_error";
        failure.param = "conversation_expected_turn";
        failure.never_retry = 1;
        failure.committed_turn = conversation->turn;
        turn_state_fail(turn, &failure);
        return 1;
    }
    return 0;
}

/* The dialect's text: what a conversation was rendered with beside its tokenizer. */
static void template_digest_of(const struct turn_service *service, uint8_t out[32]) {
    chat_template_digest(service->config.chat_template, out);
}

/* Another tokenizer gives other ids for the same text; another template applies from here on. */
static int check_dialect(struct turn *turn, const struct conversation_record *conversation) {
    uint8_t tokenizer_now[32], template_now[32];
    CLEANUP(buf_done) struct buf dialect;
    buf_init(&dialect, 1 << 20);
    tokenizer_digest(turn->service->config.tokenizer, tokenizer_now);
    template_digest_of(turn->service, template_now);
    if (memcmp(tokenizer_now, conversation->dialect_digest, sizeof tokenizer_now) != 0) {
        struct turn_failure failure = turn_state_failure(
            409, "conversation_incompatible",
            "the conversation was held with another tokenizer; send its full history anew");
        failure.type = "conflict_error";
        failure.never_retry = 1;
        turn_state_fail(turn, &failure);
        return 1;
    }
    enum err code =
        ledger_dialect_read(turn->service->config.ledger, &turn->key, turn->serial, &dialect);
    if (code != ERR_OK) {
        turn_state_fail_with_err(turn, code);
        return 1;
    }
    turn->has_new_template = dialect.len != sizeof template_now ||
                             memcmp(dialect.data, template_now, sizeof template_now) != 0;
    return 0;
}

/* --- preparation: ids ---------------------------------------------------------------------------
 */

static enum err render(struct turn *turn, const struct turn_record *last, struct prompt_ids *out) {
    const struct turn_request *request = &turn->request;
    struct chat_message *messages = calloc(request->message_count + 1, sizeof *messages);
    if (messages == NULL) {
        return err_fail(ERR_NOMEM, "%zu messages", request->message_count);
    }
    for (size_t i = 0; i < request->message_count; i++) {
        messages[i] = (struct chat_message){
            .role = request->messages[i].role,
            .role_len = strlen(request->messages[i].role),
            .content = request->messages[i].content,
            .content_len = request->messages[i].content_len,
        };
    }
    enum err code;
    if (last == NULL) {
        code = chat_template_first(turn->service->config.chat_template, messages,
                                   request->message_count, out);
    } else {
        struct chat_answer_end end = {.last_id = -1};
        if (last->generated_count > 0) {
            end.last_id = last->generated_ids[last->generated_count - 1];
            end.is_ended = tokenizer_ends_generation(turn->service->config.tokenizer, end.last_id);
        }
        code = chat_template_delta(turn->service->config.chat_template, messages,
                                   request->message_count, &end, out);
    }
    free(messages);
    return code;
}

/* Appends this turn's ids to the history. LAST: the committed turn, or NULL. */
static enum err append_prompt(struct turn *turn, const struct turn_record *last) {
    struct prompt_ids prompt = {0};
    turn->history_count = turn->ids.count;
    enum err code = render(turn, last, &prompt);
    if (code == ERR_OK) {
        code = token_list_append(&turn->ids, prompt.list.ids, prompt.list.count); /* I2 */
    }
    turn->prompt_end = turn->history_count + prompt.prompt_end;
    prompt_ids_done(&prompt);
    return code;
}

/* Nonzero: failed. Settles max_tokens. */
static int check_length(struct turn *turn) {
    size_t context = (size_t)turn->service->config.context;
    size_t count = turn->ids.count;
    size_t wanted = (size_t)turn->request.max_tokens;
    if (count < context && wanted <= context - count) {
        if (turn->request.max_tokens == 0) {
            turn->request.max_tokens = (int)(context - count);
        }
        return 0;
    }
    char message[256];
    snprintf(message, sizeof message,
             "this model's context is %zu tokens; the conversation and the new messages are %zu, "
             "and %zu more were asked for",
             context, count, wanted);
    struct turn_failure failure = turn_state_failure(400, "context_length_exceeded", message);
    failure.param = "messages";
    turn_state_fail(turn, &failure);
    return 1;
}

/* Nonzero: failed. */
static int book_room(struct turn *turn) {
    struct ledger *ledger = turn->service->config.ledger;
    if (ledger_is_failed(ledger)) {
        turn_state_fail_with(
            turn, 503, "ledger_failed",
            "a sync of the ledger failed; no turn is taken until the server is restarted");
        return 1;
    }
    size_t ids = turn->ids.count - turn->history_count + (size_t)turn->request.max_tokens;
    uint64_t bytes = 4 * (uint64_t)ids + 8 * (uint64_t)turn->texts.len +
                     4 * (uint64_t)turn->request.max_tokens + RECORD_BYTES_EXTRA;
    enum err code = ledger_room_take(ledger, bytes);
    if (code == ERR_FULL) {
        turn_state_fail_with(turn, 507, "storage_full", "the ledger has no room for another turn");
        return 1;
    }
    if (code != ERR_OK) {
        turn_state_fail_with_err(turn, code);
        return 1;
    }
    turn->room_bytes = bytes;
    return 0;
}

/* --- preparation: the head -----------------------------------------------------------------------
 */

/* Heads of one committed turn, from its record. */
static size_t add_candidates(const struct turn_record *record, struct store_candidate *out,
                             size_t count) {
    struct store_candidate end = {
        .kind = STORE_KIND_TURN_END,
        .turn = record->turn,
        .length = (int)(record->end_tokens - record->pending_tokens),
    };
    memcpy(end.chain_digest, record->head_digest, sizeof end.chain_digest);
    out[count++] = end;
    if (record->prompt_end_tokens > 0) {
        struct store_candidate prompt = {
            .kind = STORE_KIND_PROMPT_END,
            .turn = record->turn,
            .length = (int)record->prompt_end_tokens,
        };
        memcpy(prompt.chain_digest, record->prompt_end_digest, sizeof prompt.chain_digest);
        out[count++] = prompt;
    }
    return count;
}

/* The heads of the last two turns, which is where a head is unless spills fell behind. */
static void find_recent(struct turn *turn, const struct turn_record *last,
                        struct store_want *want) {
    struct store_candidate candidates[TURN_STATE_CANDIDATES_MAX];
    struct turn_record before = {0};
    size_t count = add_candidates(last, candidates, 0);
    turn->head_length = candidates[0].length;
    if (last->turn > 1 && ledger_turn_read(turn->service->config.ledger, &turn->key, turn->serial,
                                           last->turn - 1, &before) == ERR_OK) {
        count = add_candidates(&before, candidates, count);
        turn_record_done(&before);
    }
    want->candidates = candidates;
    want->candidate_count = count;
    store_find(turn->service->config.store, want, &turn->found);
}

/* Spills of heads that were superseded while they waited are dropped, so what a crash left may be
 * older: whatever lies on disk, newest first. */
static void find_older(struct turn *turn, const struct turn_record *last, struct store_want *want) {
    struct store *store = turn->service->config.store;
    const char *reason = turn->found.reason;
    uint64_t bytes_read = turn->found.bytes_read;
    uint64_t at = last->turn;
    while (turn->found.head == NULL && at > 1 &&
           (at = store_newest_on_disk(store, want->key, at - 1)) > 0) {
        struct store_candidate candidates[TURN_STATE_CANDIDATES_MAX];
        struct turn_record record = {0};
        if (ledger_turn_read(turn->service->config.ledger, &turn->key, turn->serial, (uint32_t)at,
                             &record) != ERR_OK) {
            break;
        }
        add_candidates(&record, candidates, 0);
        turn_record_done(&record);
        want->candidates = candidates;
        want->candidate_count = 1; /* of that turn only the turn end lies on disk */
        store_find(store, want, &turn->found);
        bytes_read += turn->found.bytes_read;
    }
    turn->found.reason = reason;
    turn->found.bytes_read = bytes_read;
}

/* Looks for the newest head that the ledger vouches for. Nonzero: failed. */
static int find_head(struct turn *turn, const struct turn_record *last) {
    struct store_want want;
    state_key_make(&turn->key, turn->serial, want.key);
    find_recent(turn, last, &want);
    if (turn->found.head == NULL) {
        find_older(turn, last, &want);
    }
    int is_best =
        turn->found.head != NULL && store_head_length(turn->found.head) == turn->head_length;
    if (turn->request.requires_cache && !is_best) {
        int kept = turn->found.head == NULL ? 0 : store_head_length(turn->found.head);
        struct turn_failure failure =
            turn_state_failure(409, "conversation_state_missing",
                               "the conversation's state is not there; it can be rebuilt");
        failure.type = "conflict_error";
        failure.param = "conversation_require_cache";
        failure.never_retry = 1;
        failure.rebuild_tokens = turn->head_length - kept;
        failure.committed_turn = turn->committed_turn;
        turn_state_fail(turn, &failure);
        return 1;
    }
    return 0;
}

/* --- preparation: the whole
 * ------------------------------------------------------------------------ */

/* Reads what is committed and adds this turn's ids. Nonzero: failed. */
static int prepare_known(struct turn *turn, const struct conversation_record *conversation) {
    struct ledger *ledger = turn->service->config.ledger;
    struct turn_record last = {0};
    int32_t *history = NULL;
    size_t history_count = 0;
    if (check_dialect(turn, conversation)) {
        return 1;
    }
    enum err code = ledger_turn_read(ledger, &turn->key, turn->serial, conversation->turn, &last);
    if (code == ERR_OK) {
        code = ledger_ids_read(ledger, &turn->key, turn->serial, conversation->turn, &history,
                               &history_count);
    }
    if (code == ERR_OK) {
        code = token_list_append(&turn->ids, history, history_count);
    }
    free(history);
    if (code == ERR_OK) {
        code = append_prompt(turn, &last);
    }
    int is_failed = 1;
    if (code != ERR_OK) {
        turn_state_fail_with_err(turn, code);
    } else {
        is_failed = check_length(turn) || book_room(turn) || find_head(turn, &last);
    }
    turn_record_done(&last);
    return is_failed;
}

static int prepare_new(struct turn *turn) {
    enum err code = append_prompt(turn, NULL);
    if (code != ERR_OK) {
        turn_state_fail_with_err(turn, code);
        return 1;
    }
    return check_length(turn) || (turn->request.conversation_id != NULL && book_room(turn));
}

static enum err submit(struct turn *turn) {
    struct store_head *head = turn->found.head;
    int attached = head == NULL ? 0 : store_head_length(head);
    int keeps = turn->request.conversation_id != NULL;
    struct engine_params params = {
        .tokens = turn->ids.ids,
        .count = (int)turn->ids.count,
        .attach = head,
        .prompt_end =
            keeps && (int)turn->prompt_end > attached && turn->prompt_end < turn->ids.count
                ? (int)turn->prompt_end
                : 0,
        .keeps_turn_end = keeps,
        .max_tokens = turn->request.max_tokens,
        .ignores_end = turn->request.ignores_end,
        .wants_logits_digest = turn->request.wants_logits_digest,
        .stops = turn->request.stops,
        .stop_lens = turn->request.stop_lens,
        .stop_count = turn->request.stop_count,
        .sampler = turn->request.sampler,
        .events = {.started = on_started,
                   .text = on_text,
                   .finished = on_finished,
                   .failed = on_failed,
                   .context = turn},
    };
    /* Under the lock, so that a cancel comes before the request is known or finds it. */
    turn->found.head = NULL; /* the engine's from here on; before it can tell an event */
    pthread_mutex_lock(&turn->lock);
    enum err code = atomic_load(&turn->is_cancelled)
                        ? err_fail(ERR_CANCELLED, "the client is gone")
                        : engine_submit(turn->service->config.engine, &params, &turn->running);
    pthread_mutex_unlock(&turn->lock);
    if (code != ERR_OK) {
        turn->found.head = head; /* not taken over */
    }
    return code;
}

void turn_state_prepare(void *context) {
    struct turn *turn = context;
    struct conversation_record conversation = {0};
    int is_failed = 0;
    atomic_fetch_add(&turn->references, 1); /* the turn may end while this still unwinds */
    if (turn->request.conversation_id == NULL) {
        is_failed = prepare_new(turn);
    } else if (take_lease(turn) || read_conversation(turn, &conversation)) {
        is_failed = 1;
    } else {
        is_failed = turn->is_created ? prepare_new(turn) : prepare_known(turn, &conversation);
    }
    turn_record_conversation_done(&conversation);
    if (!is_failed) {
        /* Once submitted the turn is the engine's: nothing of it is touched here any more. */
        enum err code = submit(turn);
        if (code != ERR_OK) {
            turn_state_fail_with_err(turn, code);
        }
    }
    turn_release(turn);
}
