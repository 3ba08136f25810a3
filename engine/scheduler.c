/*
 * I1: `waiting` holds requests that hold nothing of the pools, oldest first; those set aside are
 *     put back in front, so that nobody overtakes them.
 * I2: `running` holds requests with a sequence that covers all of tokens[0, token_count), in order
 *     of admission; each has at least one token left to run.
 * I3: a request leaves by end_request alone, which gives back everything and tells its last event.
 *
 * A request's states: QUEUED -> RUNNING (admit) -> SET_ASIDE (set_aside_last) -> RUNNING (admit)
 * -> ENDED (end_request, from any).
 */
#include "engine/scheduler.h"

#include "base/fault.h"
#include "base/now.h"
#include "engine/residence.h"

#include <stdlib.h>
#include <string.h>

enum {
    DECODING_ROWS_MIN = 8,  /* prefill goes on beside decoding, however slow the machine */
    ROW_US_AT_START = 1500, /* a guess, replaced by what steps take */
    MEASURED_ROWS_MIN = 4,  /* smaller steps tell little about the cost of a row */
};

struct scheduler {
    struct engine_config config;
    struct hybrid_forward *forward;
    struct residence_context context;
    struct engine_request *waiting; /* first; linked by `next` */
    struct engine_request **running;
    int running_count;
    struct hybrid_forward_item *items; /* one a running request */
    struct engine_request **item_requests;
    struct batch_mark *marks;
    double row_us; /* measured cost of a prefill row */

    _Atomic uint64_t tokens_run;
    _Atomic uint64_t tokens_generated;
    _Atomic uint64_t steps;
    _Atomic uint64_t requests_started;
    _Atomic uint64_t requests_set_aside;
    _Atomic int running_now;
};

/* --- creation ---------------------------------------------------------------------------- */

static enum err create_parts(struct scheduler *scheduler) {
    const struct engine_config *config = &scheduler->config;
    size_t running_max = (size_t)config->running_max;
    scheduler->running = calloc(running_max, sizeof(*scheduler->running));
    scheduler->items = calloc(running_max, sizeof *scheduler->items);
    scheduler->item_requests = calloc(running_max, sizeof(*scheduler->item_requests));
    scheduler->marks = calloc(running_max, sizeof *scheduler->marks);
    if (scheduler->running == NULL || scheduler->items == NULL ||
        scheduler->item_requests == NULL || scheduler->marks == NULL) {
        return err_fail(ERR_NOMEM, "scheduler of %d requests", config->running_max);
    }
    TRY(hybrid_forward_create(
        &(struct hybrid_forward_config){
            .model = config->model,
            .pool = config->pool,
            .rows_max = config->step_rows_max,
            .sequences_max = config->running_max,
            .outputs_max = config->running_max,
            .marks_max = config->running_max,
            .context_max = config->context,
        },
        &scheduler->forward));
    scheduler->context = (struct residence_context){
        .pool = config->pool,
        .store = config->store,
        .stream = hybrid_forward_stream(scheduler->forward),
        .context = config->context,
    };
    return ERR_OK;
}

enum err scheduler_create(const struct engine_config *config, struct scheduler **out) {
    struct scheduler *scheduler = calloc(1, sizeof *scheduler);
    if (scheduler == NULL) {
        return err_fail(ERR_NOMEM, "scheduler");
    }
    scheduler->config = *config;
    scheduler->row_us = ROW_US_AT_START;
    enum err code = create_parts(scheduler);
    if (code != ERR_OK) {
        scheduler_destroy(scheduler);
        return code;
    }
    *out = scheduler;
    return ERR_OK;
}

void scheduler_destroy(struct scheduler *scheduler) {
    if (scheduler == NULL) {
        return;
    }
    assert(scheduler->waiting == NULL && scheduler->running_count == 0);
    hybrid_forward_destroy(scheduler->forward);
    free(scheduler->running);
    free(scheduler->items);
    free(scheduler->item_requests);
    free(scheduler->marks);
    free(scheduler);
}

/* --- lists ------------------------------------------------------------------------------- */

void scheduler_add(struct scheduler *scheduler, struct engine_request *request) {
    struct engine_request **end = &scheduler->waiting;
    while (*end != NULL) {
        end = &(*end)->next;
    }
    request->next = NULL;
    *end = request;
}

static void put_in_front(struct scheduler *scheduler, struct engine_request *request) {
    request->next = scheduler->waiting;
    scheduler->waiting = request;
}

static void remove_running(struct scheduler *scheduler, int index) {
    scheduler->running_count--;
    memmove(&scheduler->running[index], &scheduler->running[index + 1],
            (size_t)(scheduler->running_count - index) * sizeof(*scheduler->running));
    atomic_store(&scheduler->running_now, scheduler->running_count);
}

/* --- ends -------------------------------------------------------------------------------- */

static void tell_finished(struct scheduler *scheduler, struct engine_request *request) {
    struct engine_outcome outcome = {
        .finish = request->finish,
        .generated = request->tokens + request->prompt_count,
        .generated_count = request_generated(request),
        .attached_length = request->attached_length,
        .tokens_run = request->tokens_run,
    };
    uint64_t now = now_monotonic_ns();
    outcome.prefill_ms = (double)(request->first_token_ns - request->started_ns) / 1e6;
    outcome.decode_ms = (double)(now - request->first_token_ns) / 1e6;
    crypto_hash_sha256_final(&request->digest, outcome.logits_digest);
    residence_make_heads(&scheduler->context, request, &outcome.turn_end, &outcome.prompt_end);
    residence_give(&scheduler->context, request);
    request->state = REQUEST_ENDED;
    request->events.finished(request->events.context, &outcome);
}

/* The request is in no list any more. ERR_OK: it has come to its own end. */
static void end_request(struct scheduler *scheduler, struct engine_request *request,
                        enum err code) {
    request_note_end(request->engine);
    if (code == ERR_OK) {
        tell_finished(scheduler, request);
    } else {
        residence_give(&scheduler->context, request);
        request->state = REQUEST_ENDED;
        request->events.failed(request->events.context, code);
    }
    request_release(request);
}

static void end_cancelled(struct scheduler *scheduler) {
    for (int i = scheduler->running_count - 1; i >= 0; i--) {
        struct engine_request *request = scheduler->running[i];
        if (atomic_load(&request->is_cancelled)) {
            remove_running(scheduler, i);
            end_request(scheduler, request, err_fail(ERR_CANCELLED, "the client is gone"));
        }
    }
    for (struct engine_request **at = &scheduler->waiting; *at != NULL;) {
        struct engine_request *request = *at;
        if (!atomic_load(&request->is_cancelled)) {
            at = &request->next;
            continue;
        }
        *at = request->next;
        end_request(scheduler, request, err_fail(ERR_CANCELLED, "the client is gone"));
    }
}

void scheduler_end_all(struct scheduler *scheduler, enum err code) {
    while (scheduler->running_count > 0) {
        struct engine_request *request = scheduler->running[scheduler->running_count - 1];
        remove_running(scheduler, scheduler->running_count - 1);
        end_request(scheduler, request, code);
    }
    while (scheduler->waiting != NULL) {
        struct engine_request *request = scheduler->waiting;
        scheduler->waiting = request->next;
        end_request(scheduler, request, code);
    }
}

/* --- admission and setting aside --------------------------------------------------------- */

static void begin(struct scheduler *scheduler, struct engine_request *request) {
    request->state = REQUEST_RUNNING;
    scheduler->running[scheduler->running_count++] = request; /* I2 */
    atomic_store(&scheduler->running_now, scheduler->running_count);
    if (request->has_started) {
        return;
    }
    request->has_started = 1;
    request->started_ns = now_monotonic_ns();
    atomic_fetch_add(&scheduler->requests_started, 1);
    request->events.started(request->events.context);
}

/* Oldest first, and none before an older one: the biggest request is served in its turn. */
static void admit(struct scheduler *scheduler) {
    while (scheduler->waiting != NULL && scheduler->running_count < scheduler->config.running_max) {
        struct engine_request *request = scheduler->waiting;
        enum err code = residence_take(&scheduler->context, request);
        if (code == ERR_FULL) {
            return;
        }
        scheduler->waiting = request->next;
        request->next = NULL;
        if (code != ERR_OK) {
            end_request(scheduler, request, code);
        } else {
            begin(scheduler, request);
        }
    }
}

/* The youngest gives way. A failed copy is a failed request. */
static void set_aside_last(struct scheduler *scheduler) {
    int last = scheduler->running_count - 1;
    struct engine_request *request = scheduler->running[last];
    remove_running(scheduler, last);
    enum err code = residence_set_aside(&scheduler->context, request);
    if (code != ERR_OK) {
        end_request(scheduler, request, code);
        return;
    }
    request->state = REQUEST_SET_ASIDE;
    atomic_fetch_add(&scheduler->requests_set_aside, 1);
    put_in_front(scheduler, request); /* I1 */
}

/*
 * I2 for requests that have sampled a token since: each gets room for it, if need be at the
 * expense of the youngest. A request alone always fits: engine_submit saw to that.
 */
static void grow_all(struct scheduler *scheduler) {
    for (int i = 0; i < scheduler->running_count; i++) {
        struct engine_request *request = scheduler->running[i];
        int missing = request->token_count - request->sequence.length;
        if (missing != 1) {
            continue;
        }
        while (i < scheduler->running_count &&
               residence_grow(&scheduler->context, request) == ERR_FULL) {
            set_aside_last(scheduler);
        }
    }
}

/* --- a step ------------------------------------------------------------------------------ */

/* Rows that prefill may take so that a step with decoding requests stays short. */
static int prefill_budget(const struct scheduler *scheduler, int decoding) {
    int rows_max = scheduler->config.step_rows_max;
    if (decoding == 0) {
        return rows_max;
    }
    double rows = (double)scheduler->config.step_ms * 1000.0 * 0.8 / scheduler->row_us;
    int budget = rows > (double)rows_max ? rows_max : (int)rows;
    budget = budget < DECODING_ROWS_MIN ? DECODING_ROWS_MIN : budget;
    return budget < rows_max - decoding ? budget : rows_max - decoding;
}

/* COUNT next tokens of REQUEST as item INDEX of the step. */
static void add_item(struct scheduler *scheduler, struct engine_request *request, int index,
                     int count) {
    int start = request->sequence.length;
    int end = start + count;
    struct hybrid_forward_item *item = &scheduler->items[index];
    *item = (struct hybrid_forward_item){
        .sequence = &request->sequence,
        .tokens = request->tokens + start,
        .count = count,
        .outputs = end == request->token_count,
    };
    if (request->prompt_end > start && request->prompt_end <= end) {
        request->is_prompt_end_marked = 1;
        if (request->prompt_end_slot >= 0) {
            scheduler->marks[index] = (struct batch_mark){
                .row = request->prompt_end - start - 1,
                .slot = request->prompt_end_slot,
            };
            item->marks = &scheduler->marks[index];
            item->mark_count = 1;
        }
    }
    scheduler->item_requests[index] = request;
    request->tokens_run += count;
}

/* Every decoding request's token, then prefill chunks, oldest first. Returns the rows. */
static int build_step(struct scheduler *scheduler, int *item_count) {
    int items = 0, rows = 0, decoding = 0;
    for (int i = 0; i < scheduler->running_count; i++) {
        struct engine_request *request = scheduler->running[i];
        if (request->token_count - request->sequence.length == 1) {
            add_item(scheduler, request, items++, 1);
            rows++;
            decoding += request_is_decoding(request);
        }
    }
    int left = prefill_budget(scheduler, decoding);
    left = left < scheduler->config.step_rows_max - rows ? left
                                                         : scheduler->config.step_rows_max - rows;
    for (int i = 0; i < scheduler->running_count && left > 0; i++) {
        struct engine_request *request = scheduler->running[i];
        int missing = request->token_count - request->sequence.length;
        if (missing > 1) {
            int count = missing < left ? missing : left;
            add_item(scheduler, request, items++, count);
            rows += count;
            left -= count;
        }
    }
    *item_count = items;
    return rows;
}

static void measure(struct scheduler *scheduler, int rows, uint64_t elapsed_ns) {
    if (rows < MEASURED_ROWS_MIN) {
        return;
    }
    double row_us = (double)elapsed_ns / 1e3 / (double)rows;
    scheduler->row_us = 0.75 * scheduler->row_us + 0.25 * row_us;
}

/* --- what a step gave -------------------------------------------------------------------- */

static enum err push_text(struct scheduler *scheduler, struct engine_request *request,
                          int32_t token) {
    const char *bytes = NULL, *text = NULL;
    size_t byte_len = 0, len = 0;
    TRY(tokenizer_piece(scheduler->config.tokenizer, token, 0, &bytes, &byte_len));
    TRY(answer_text_push(&request->text, bytes, byte_len, &text, &len));
    if (len > 0) {
        request->events.text(request->events.context, text, len);
    }
    return ERR_OK;
}

static enum err finish_text(struct engine_request *request) {
    const char *text = NULL;
    size_t len = 0;
    TRY(answer_text_finish(&request->text, &text, &len));
    if (len > 0) {
        request->events.text(request->events.context, text, len);
    }
    return ERR_OK;
}

/* Samples the next token of REQUEST from LOGITS. *is_done: the answer has come to its end. */
static enum err take_token(struct scheduler *scheduler, struct engine_request *request,
                           const float *logits, int *is_done) {
    int32_t token = -1;
    size_t row_bytes = (size_t)scheduler->config.model->shape.vocabulary * sizeof *logits;
    if (request->wants_logits_digest) {
        crypto_hash_sha256_update(&request->digest, (const unsigned char *)logits, row_bytes);
    }
    TRY(sampler_sample(request->sampler, logits, &token));
    if (request_generated(request) == 0) {
        request->first_token_ns = now_monotonic_ns();
    }
    request->tokens[request->token_count++] = token;
    atomic_fetch_add(&scheduler->tokens_generated, 1);
    int ends =
        !request->ignores_end && tokenizer_ends_generation(scheduler->config.tokenizer, token);
    if (!ends) {
        TRY(push_text(scheduler, request, token));
    }
    int is_stopped = ends || request->text.is_stopped;
    *is_done = is_stopped || request_generated(request) == request->max_tokens;
    request->finish = is_stopped ? ENGINE_FINISH_STOP : ENGINE_FINISH_LENGTH;
    return *is_done ? finish_text(request) : ERR_OK;
}

/* A request of the step is running. */
static int running_index(const struct scheduler *scheduler, const struct engine_request *request) {
    int i = 0;
    while (i < scheduler->running_count && scheduler->running[i] != request) {
        i++;
    }
    assert(i < scheduler->running_count);
    return i;
}

static void take_outputs(struct scheduler *scheduler, int item_count) {
    int output = 0;
    for (int i = 0; i < item_count; i++) {
        struct engine_request *request = scheduler->item_requests[i];
        if (scheduler->items[i].outputs == 0) {
            continue;
        }
        int is_done = 0;
        enum err code = take_token(scheduler, request,
                                   hybrid_forward_logits(scheduler->forward, output++), &is_done);
        if (code != ERR_OK || is_done) {
            remove_running(scheduler, running_index(scheduler, request));
            end_request(scheduler, request, code); /* I3 */
        }
    }
}

/* After a failed step nothing that was in it can be trusted. */
static void end_items(struct scheduler *scheduler, int item_count, enum err code) {
    for (int i = 0; i < item_count; i++) {
        struct engine_request *request = scheduler->item_requests[i];
        remove_running(scheduler, running_index(scheduler, request));
        end_request(scheduler, request, code);
    }
}

enum scheduler_progress scheduler_step(struct scheduler *scheduler) {
    int item_count = 0;
    end_cancelled(scheduler);
    grow_all(scheduler);
    admit(scheduler);
    if (scheduler->running_count == 0) {
        return scheduler->waiting == NULL ? SCHEDULER_IDLE : SCHEDULER_BLOCKED;
    }
    uint64_t begun_ns = now_monotonic_ns();
    int rows = build_step(scheduler, &item_count);
    enum err code = hybrid_forward_enqueue(scheduler->forward, scheduler->items, item_count);
    if (rows > item_count) {
        FAULT_KILL("engine.prefill");
    } else {
        FAULT_KILL("engine.decode");
    }
    if (code == ERR_OK) {
        code = hybrid_forward_wait(scheduler->forward);
    }
    if (code != ERR_OK) {
        end_items(scheduler, item_count, code);
        return SCHEDULER_RAN;
    }
    atomic_fetch_add(&scheduler->steps, 1);
    atomic_fetch_add(&scheduler->tokens_run, (uint64_t)rows);
    measure(scheduler, rows, now_monotonic_ns() - begun_ns);
    take_outputs(scheduler, item_count);
    return SCHEDULER_RAN;
}

void scheduler_get_counters(struct scheduler *scheduler, struct engine_counters *out) {
    out->tokens_run = atomic_load(&scheduler->tokens_run);
    out->tokens_generated = atomic_load(&scheduler->tokens_generated);
    out->steps = atomic_load(&scheduler->steps);
    out->requests_started = atomic_load(&scheduler->requests_started);
    out->requests_set_aside = atomic_load(&scheduler->requests_set_aside);
    out->running = atomic_load(&scheduler->running_now);
}
