#include "store/disk_writer.h"

#include "base/fault.h"
#include "store/room.h"
#include "store/state_drop.h"

#include <stdlib.h>
#include <string.h>

enum {
    ATTEMPTS_MAX = 3,
    QUARANTINE_MAX = 1024, /* records; the first ones make room for new ones */
};

struct disk_writer {
    struct state_env *env;
    struct spiller *spiller;
    uint64_t largest_pages;
    uint64_t evictions;
};

enum err disk_writer_create(const struct disk_writer_config *config, struct disk_writer **out) {
    struct disk_writer *writer =
        fault_fails("disk_writer.alloc") ? NULL : calloc(1, sizeof *writer);
    if (writer == NULL) {
        return err_fail(ERR_NOMEM, "state: no memory for the writer");
    }
    writer->env = config->env;
    writer->largest_pages = config->largest_pages;
    enum err code = spiller_create(config->env, config->object_bytes_max, &writer->spiller);
    if (code != ERR_OK) {
        free(writer);
        return code;
    }
    *out = writer;
    return ERR_OK;
}

void disk_writer_destroy(struct disk_writer *writer) {
    if (writer != NULL) {
        spiller_destroy(writer->spiller);
        free(writer);
    }
}

size_t disk_writer_memory_bytes(const struct disk_writer *writer) {
    return sizeof *writer + spiller_memory_bytes(writer->spiller);
}

void disk_writer_counts(const struct disk_writer *writer, struct disk_writer_counts *out) {
    *out = (struct disk_writer_counts){.evictions = writer->evictions,
                                       .spill_bytes = spiller_bytes(writer->spiller)};
}

/* --- spills ---------------------------------------------------------------------------- */

static enum err make_room(struct disk_writer *writer, const struct room_request *request) {
    struct room_result result = {0};
    enum err code = room_make(writer->env, request, &result);
    writer->evictions += result.heads_evicted;
    return code;
}

/* Plans the tasks and makes room for what is left of them; *pages_out is what was asked for. */
static enum err plan_and_make_room(struct disk_writer *writer, struct spiller_task *tasks,
                                   size_t count, uint64_t pages_more, uint64_t *pages_out) {
    const struct spill_job *jobs[SPILLER_GROUP_MAX];
    assert(count <= SPILLER_GROUP_MAX);
    uint64_t room = 0;
    for (;;) {
        uint64_t pages = pages_more;
        size_t job_count = 0;
        for (size_t i = 0; i < count; i++) {
            spiller_plan(writer->spiller, &tasks[i]);
            if (!tasks[i].is_finished) {
                pages += tasks[i].pages_max;
                jobs[job_count++] = tasks[i].job;
            }
        }
        if (job_count == 0 || pages <= room) {
            *pages_out = pages;
            return ERR_OK;
        }
        /* Evicting may take blocks that a job builds on, and more of it has to be written then. */
        TRY(make_room(writer, &(struct room_request){.pages = pages,
                                                     .largest_pages = writer->largest_pages,
                                                     .jobs = jobs,
                                                     .job_count = job_count}));
        room = pages;
    }
}

static enum err spill_group(struct disk_writer *writer, struct spiller_task *tasks, size_t count,
                            uint64_t pages_more) {
    uint64_t pages = 0;
    TRY(plan_and_make_room(writer, tasks, count, pages_more, &pages));
    TRY(spiller_write(writer->spiller, tasks, count));
    for (size_t i = 0; i < count; i++) {
        if (tasks[i].pages_max > writer->largest_pages && tasks[i].outcome == SPILL_DURABLE) {
            writer->largest_pages = tasks[i].pages_max;
        }
    }
    return ERR_OK;
}

/* The free pages were counted, but lay in pieces too small for runs: each further attempt makes
 * twice as much room. */
static void spill_one(struct disk_writer *writer, struct spiller_task *task) {
    uint64_t pages_more = 0;
    enum err code = ERR_OK;
    for (int attempt = 0; attempt < ATTEMPTS_MAX && !task->is_finished; attempt++) {
        code = spill_group(writer, task, 1, pages_more);
        if (code != ERR_FULL) {
            break;
        }
        pages_more = (pages_more + task->pages_max) * 2;
    }
    if (!task->is_finished) {
        spiller_task_fail(task, code);
    }
}

void disk_writer_spill(struct disk_writer *writer, struct spiller_task *tasks, size_t count) {
    if (count > 1 && spill_group(writer, tasks, count, 0) == ERR_OK) {
        return;
    }
    for (size_t i = 0; i < count; i++) {
        spill_one(writer, &tasks[i]);
    }
}

/* --- removals -------------------------------------------------------------------------- */

/* Runs ACT in a transaction of its own. */
static enum err in_transaction(struct disk_writer *writer,
                               enum err (*act)(struct state_txn *txn, void *context),
                               void *context) {
    struct state_txn *txn;
    TRY(state_env_begin_write(writer->env, &txn));
    enum err code = act(txn, context);
    if (code != ERR_OK) {
        state_env_abort(txn);
        return code;
    }
    return state_env_commit(txn);
}

static int is_refused(enum err code) {
    return code == ERR_CORRUPT || code == ERR_FORMAT || code == ERR_UNSUPPORTED;
}

static enum err remove_head(struct state_txn *txn, void *context) {
    const struct record_head_key *key = context;
    struct record_head head;
    enum err code = state_table_get_head(txn, key, &head);
    if (is_refused(code)) {
        return state_table_remove_head(txn, key);
    }
    if (code != ERR_OK) {
        return code == ERR_NOT_FOUND ? ERR_OK : code;
    }
    return state_drop_head(txn, &head);
}

enum err disk_writer_remove_head(struct disk_writer *writer, const struct record_head_key *key) {
    struct record_head_key copy = *key;
    return in_transaction(writer, remove_head, &copy);
}

struct removal {
    const uint8_t *conversation;
    int is_done;
};

static enum err remove_conversation(struct state_txn *txn, void *context) {
    struct removal *removal = context;
    return state_drop_conversation(txn, removal->conversation, &removal->is_done);
}

enum err disk_writer_remove_conversation(struct disk_writer *writer, const uint8_t *conversation) {
    struct removal removal = {.conversation = conversation};
    while (!removal.is_done) {
        FAULT_KILL("delete.before");
        TRY(in_transaction(writer, remove_conversation, &removal));
        FAULT_KILL("delete.after");
    }
    return ERR_OK;
}

struct quarantining {
    const struct record_head_key *key;
    const struct record_quarantine *quarantine;
};

static void close_cursor(struct state_cursor **cursor) {
    state_env_cursor_close(*cursor);
}

static enum err bound_quarantine(struct state_txn *txn) {
    uint64_t count;
    TRY(state_env_count(txn, STATE_QUARANTINE, &count));
    if (count < QUARANTINE_MAX) {
        return ERR_OK;
    }
    struct state_cursor *cursor CLEANUP(close_cursor) = NULL;
    TRY(state_env_cursor_open(txn, STATE_QUARANTINE, &cursor));
    struct state_bytes key;
    struct state_bytes value;
    TRY(state_env_first(cursor, &key, &value));
    return state_env_remove_at(cursor);
}

static enum err quarantine(struct state_txn *txn, void *context) {
    const struct quarantining *work = context;
    struct record_head_key key = *work->key;
    TRY(remove_head(txn, &key));
    if (work->quarantine->object.part == RECORD_BLOCK) {
        TRY(state_drop_blocks(txn, work->quarantine->object.lineage,
                              work->quarantine->object.index));
    }
    TRY(bound_quarantine(txn));
    uint8_t encoded[RECORD_HEAD_KEY_BYTES];
    uint8_t record[RECORD_QUARANTINE_BYTES];
    record_head_key_encode(work->key, encoded);
    record_quarantine_encode(encoded, work->quarantine, record);
    return state_env_put(txn, STATE_QUARANTINE, (struct state_bytes){encoded, sizeof encoded},
                         (struct state_bytes){record, sizeof record});
}

enum err disk_writer_quarantine(struct disk_writer *writer, const struct record_head_key *head,
                                const struct record_quarantine *record) {
    struct quarantining work = {.key = head, .quarantine = record};
    return in_transaction(writer, quarantine, &work);
}

enum err disk_writer_evict(struct disk_writer *writer, uint64_t bytes,
                           uint64_t *heads_evicted_out) {
    struct state_env_usage usage;
    TRY(state_env_usage(writer->env, &usage));
    uint64_t used = usage.file_pages - usage.free_pages;
    uint64_t pages = bytes / STATE_ENV_PAGE_BYTES + 1;
    struct room_result result = {0};
    enum err code = room_shrink(writer->env, used > pages ? used - pages : 0, &result);
    writer->evictions += result.heads_evicted;
    if (code != ERR_OK && code != ERR_FULL) {
        return code;
    }
    *heads_evicted_out = result.heads_evicted;
    return ERR_OK;
}

/* --- recency and collection --------------------------------------------------------------- */

struct touching {
    const struct disk_writer_touch *touches;
    size_t count;
};

static enum err touch(struct state_txn *txn, void *context) {
    const struct touching *work = context;
    for (size_t i = 0; i < work->count; i++) {
        struct record_head head;
        enum err code = state_table_get_head(txn, &work->touches[i].key, &head);
        if (code == ERR_NOT_FOUND || is_refused(code)) {
            continue;
        }
        TRY(code);
        head.hits += work->touches[i].hits;
        if (work->touches[i].used_ms > head.used_ms) {
            head.used_ms = work->touches[i].used_ms;
        }
        TRY(state_table_put_head(txn, &head));
    }
    return ERR_OK;
}

enum err disk_writer_touch(struct disk_writer *writer, const struct disk_writer_touch *touches,
                           size_t count) {
    struct touching work = {.touches = touches, .count = count};
    return in_transaction(writer, touch, &work);
}

enum err disk_writer_collect(struct disk_writer *writer, int *is_done_out) {
    struct state_drop_step step = {.bytes_max = ROOM_STEP_BYTES};
    struct state_drop_result result;
    TRY(state_drop_collect_step(writer->env, &step, &result));
    *is_done_out = result.is_done;
    return ERR_OK;
}
