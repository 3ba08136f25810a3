#include "tools/restore_floor.h"

#include "base/now.h"
#include "store/head_reader.h"
#include "tools/store_view.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

enum { PASSES = 3, BLOCKS_AT_ONCE = 8 };

/* One pass over a head; its workers take pieces of it in turn, the state, the largest, first. */
struct pass {
    struct state_env *env;
    const struct head_plan *plan;
    size_t object_bytes;
    atomic_ullong next_piece;
};

struct worker {
    struct pass *pass;
    struct head_reader *reader;
    uint8_t *object;
    pthread_t thread;
    enum err code;
    char message[256];
};

static enum err place(void *context, const struct record_object_key *key, void **destination) {
    struct worker *worker = context;
    (void)key;
    *destination = worker->object;
    return ERR_OK;
}

/* Piece 0 is state and tail, piece n the n-th few blocks; ERR_NOT_FOUND behind the last. */
static enum err read_piece(struct worker *worker, uint64_t piece) {
    const struct record_head *head = &worker->pass->plan->head;
    struct head_want want = {.tail = 1, .state = 1};
    if (piece > 0) {
        want = (struct head_want){.first_block = (piece - 1) * BLOCKS_AT_ONCE,
                                  .end_block = piece * BLOCKS_AT_ONCE};
        if (want.first_block >= head->block_count) {
            return ERR_NOT_FOUND;
        }
    }
    struct head_sink sink = {.place = place, .context = worker};
    struct head_failure failure;
    return head_reader_stream(worker->reader, worker->pass->plan, &want, &sink, &failure);
}

static void *work(void *context) {
    struct worker *worker = context;
    while (worker->code == ERR_OK) {
        worker->code = read_piece(worker, atomic_fetch_add(&worker->pass->next_piece, 1));
    }
    if (worker->code == ERR_NOT_FOUND) {
        worker->code = ERR_OK;
    } else {
        strncpy(worker->message, err_message(), sizeof worker->message - 1);
    }
    return NULL;
}

static enum err run_workers(struct worker *workers, int count) {
    int started = 0;
    enum err code = ERR_OK;
    for (; started < count && code == ERR_OK; started++) {
        if (pthread_create(&workers[started].thread, NULL, work, &workers[started]) != 0) {
            code = err_fail(ERR_NOMEM, "a thread cannot be started");
            break;
        }
    }
    for (int i = 0; i < started; i++) {
        pthread_join(workers[i].thread, NULL);
        if (code == ERR_OK && workers[i].code != ERR_OK) {
            code = err_fail(workers[i].code, "%s", workers[i].message);
        }
    }
    return code;
}

static enum err time_pass(struct pass *pass, struct worker *workers, int count,
                          double *seconds_out) {
    atomic_store(&pass->next_piece, 0);
    uint64_t started_ns = now_monotonic_ns();
    TRY(run_workers(workers, count));
    *seconds_out = (double)(now_monotonic_ns() - started_ns) * 1e-9;
    return ERR_OK;
}

static enum err best_of(struct pass *pass, struct worker *workers, int count, double *seconds_out) {
    double best = 0;
    for (int i = 0; i < PASSES; i++) {
        double seconds;
        TRY(time_pass(pass, workers, count, &seconds));
        best = i == 0 || seconds < best ? seconds : best;
    }
    *seconds_out = best;
    return ERR_OK;
}

static enum err prepare(struct pass *pass, struct worker *workers, int count) {
    for (int i = 0; i < count; i++) {
        workers[i].pass = pass;
        workers[i].object = malloc(pass->object_bytes + 1);
        if (workers[i].object == NULL) {
            return err_fail(ERR_NOMEM, "no memory for objects of %zu bytes", pass->object_bytes);
        }
        TRY(head_reader_create(pass->env, pass->object_bytes, &workers[i].reader));
    }
    return ERR_OK;
}

static enum err measure_plan(struct pass *pass, struct restore_floor *floor) {
    struct worker workers[RESTORE_FLOOR_THREADS_MAX] = {0};
    double warm;
    enum err code = prepare(pass, workers, floor->threads);
    code = code == ERR_OK ? time_pass(pass, workers, 1, &warm) : code;
    if (code == ERR_OK) {
        floor->coded_bytes = head_reader_bytes(workers[0].reader);
        code = best_of(pass, workers, 1, &floor->seconds_single);
    }
    code = code == ERR_OK ? best_of(pass, workers, floor->threads, &floor->seconds_threads) : code;
    for (int i = 0; i < floor->threads; i++) {
        head_reader_destroy(workers[i].reader);
        free(workers[i].object);
    }
    return code;
}

static enum err newest_head(const struct store_view *view,
                            const struct conversation_record *conversation,
                            struct record_head *out) {
    struct record_head *heads CLEANUP(object_free) = NULL;
    size_t count = 0;
    int has_found = 0;
    TRY(store_view_heads(view, conversation, &heads, &count));
    for (size_t i = 0; i < count; i++) {
        if (heads[i].key.kind == RECORD_TURN_END &&
            (!has_found || heads[i].key.turn > out->key.turn)) {
            *out = heads[i];
            has_found = 1;
        }
    }
    return has_found ? ERR_OK : err_fail(ERR_NOT_FOUND, "the conversation has no head on disk");
}

static enum err measure_head(const struct store_view *view, const struct record_head *head,
                             struct restore_floor *floor) {
    struct head_plan *plan;
    TRY(head_plan_create(view->state, head, &plan));
    struct pass pass = {.env = view->state, .plan = plan};
    pass.object_bytes =
        (size_t)(head->block_bytes > head->state_bytes ? head->block_bytes : head->state_bytes);
    floor->tokens = head->length;
    floor->raw_bytes =
        (head->block_count + (head->tail_coded_bytes > 0)) * head->block_bytes + head->state_bytes;
    enum err code = measure_plan(&pass, floor);
    head_plan_destroy(plan);
    return code;
}

enum err restore_floor_measure(const char *store, const char *conversation, int threads,
                               struct restore_floor *out) {
    struct store_view view;
    struct conversation_record record;
    struct record_head head = {0};
    struct conversation_identity identity = store_view_identity(NULL, NULL, conversation);
    struct restore_floor floor = {.threads = threads};
    assert(threads >= 1 && threads <= RESTORE_FLOOR_THREADS_MAX);
    TRY(store_view_open(store, &view));
    enum err code = store_view_find(&view, &identity, &record);
    if (code == ERR_OK) {
        code = newest_head(&view, &record, &head);
        turn_record_conversation_done(&record);
    }
    code = code == ERR_OK ? measure_head(&view, &head, &floor) : code;
    store_view_close(&view);
    TRY(code);
    *out = floor;
    return ERR_OK;
}
