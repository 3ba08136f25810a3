/*
 * I1: fetch, encode and anything else that takes long happen with no transaction open.
 * I2: a head record is written in the transaction that writes the last of its objects, or in a
 *     later one; so a visible head is whole.
 * I3: if a group takes more than one transaction, the first one lists all objects of the group as
 *     garbage and the last one takes them off the list. A crash between leaves nothing but
 *     listed garbage.
 * I4: garbage of every lineage that is written to has been collected before (state_drop.c, I3).
 * I5: new lineages and heads are written before the heads that they replace are dropped, so that
 *     what both share is covered at all times.
 *
 * Where a group goes:
 *   spiller_plan -> encode_task -> flush(not last)* -> flush(last) -> finish_task
 */
#include "store/spiller.h"

#include "base/fault.h"
#include "base/now.h"
#include "store/coded_object.h"
#include "store/state_drop.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    SLICES_MAX = 2048, /* objects in the arena: as many small ones as fill a step */
    TREE_PAGES = 48,   /* of B-trees, records and free list that a task's transactions touch */
    COLLECT_STEP_BYTES = 64 * 1024 * 1024,
};

/* One encoded object in the arena. */
struct slice {
    struct record_object_key key;
    size_t offset;
    size_t stored_bytes; /* whole runs */
};

struct spiller {
    struct state_env *env;
    struct codec *codec;
    uint8_t *arena;
    size_t arena_max;
    size_t arena_used;
    struct slice slices[SLICES_MAX];
    size_t slice_count;
    int is_listed; /* I3: this group's objects are on the garbage list */
    uint64_t bytes_written;
};

struct group {
    struct spiller_task *tasks;
    size_t count;
};

static void end_txn(struct state_txn **txn) {
    state_env_abort(*txn);
}

enum err spiller_create(struct state_env *env, size_t object_bytes_max, struct spiller **out) {
    struct spiller *spiller = fault_fails("spiller.alloc") ? NULL : calloc(1, sizeof *spiller);
    if (spiller == NULL) {
        return err_fail(ERR_NOMEM, "spill: no memory for the writer");
    }
    spiller->env = env;
    size_t bound = coded_object_bound(object_bytes_max);
    spiller->arena_max = bound > SPILLER_STEP_BYTES ? bound : SPILLER_STEP_BYTES;
    spiller->arena = fault_fails("spiller.alloc") ? NULL : malloc(spiller->arena_max);
    enum err code = spiller->arena != NULL
                        ? codec_create(&spiller->codec)
                        : err_fail(ERR_NOMEM, "spill: no memory for %zu bytes of coded objects",
                                   spiller->arena_max);
    if (code != ERR_OK) {
        spiller_destroy(spiller);
        return code;
    }
    *out = spiller;
    return ERR_OK;
}

void spiller_destroy(struct spiller *spiller) {
    if (spiller != NULL) {
        codec_destroy(spiller->codec);
        free(spiller->arena);
        free(spiller);
    }
}

size_t spiller_memory_bytes(const struct spiller *spiller) {
    return sizeof *spiller + spiller->arena_max + codec_memory_bytes(spiller->codec);
}

uint64_t spiller_bytes(const struct spiller *spiller) {
    return spiller->bytes_written;
}

void spiller_task_done(struct spiller_task *task) {
    free(task->write_from);
    free(task->stored_bytes);
    task->write_from = NULL;
    task->stored_bytes = NULL;
}

static void finish(struct spiller_task *task, enum spill_outcome outcome) {
    task->is_finished = 1;
    task->outcome = outcome;
    task->code = ERR_OK;
    task->message[0] = '\0';
}

void spiller_task_fail(struct spiller_task *task, enum err code) {
    finish(task, SPILL_FAILED);
    task->code = code;
    snprintf(task->message, sizeof task->message, "%s", err_message());
}

/* --- planning -------------------------------------------------------------------------- */

/* Finishes the task if the heads on disk leave nothing to do. */
static enum err compare_heads(struct state_txn *txn, struct spiller_task *task) {
    const struct record_head *head = &task->job->head;
    struct record_head_key newest = head->key;
    newest.turn = UINT64_MAX;
    struct record_head stored[STATE_TABLE_HEADS_MAX];
    size_t count = 0;
    TRY(state_table_list_heads(txn, &newest, stored, ARRAY_LEN(stored), &count, NULL));
    size_t newer = 0;
    for (size_t i = 0; i < count; i++) {
        newer += stored[i].key.turn > head->key.turn;
        if (stored[i].key.turn != head->key.turn || stored[i].lineage != head->lineage) {
            continue;
        }
        if (stored[i].length != head->length ||
            memcmp(stored[i].chain_digest, head->chain_digest, RECORD_DIGEST_BYTES) != 0) {
            return err_fail(ERR_CONFLICT,
                            "spill: turn %llu of lineage %llu is on disk with other tokens",
                            (unsigned long long)head->key.turn, (unsigned long long)head->lineage);
        }
        finish(task, SPILL_DURABLE); /* published again at an unchanged position */
        return ERR_OK;
    }
    if (newer >= SPILLER_HEADS_KEPT && (task->job->flags & SPILL_REPLACES_NEWER) == 0) {
        finish(task, SPILL_SUPERSEDED);
    }
    return ERR_OK;
}

/* What of segment I is missing on disk; ERR_CONFLICT if the job can't deliver it. */
static enum err plan_segment(struct state_txn *txn, struct spiller_task *task, size_t i) {
    const struct spill_job *job = task->job;
    const struct spill_segment *segment = &job->segments[i];
    struct record_lineage lineage;
    uint64_t stored = segment->first_block;
    enum err code = state_table_get_lineage(txn, segment->lineage, &lineage);
    if (code == ERR_OK) {
        uint64_t parent = i > 0 ? job->segments[i - 1].lineage : 0;
        if (lineage.parent != parent || lineage.first_block != segment->first_block ||
            memcmp(lineage.state_digest, job->head.key.state_digest, RECORD_DIGEST_BYTES) != 0) {
            return err_fail(ERR_CONFLICT, "spill: lineage %llu is on disk with another parent",
                            (unsigned long long)segment->lineage);
        }
        stored = lineage.end_block;
    } else if (code != ERR_NOT_FOUND) {
        return code;
    }
    if (stored < segment->end_block && stored < segment->held_from) {
        return err_fail(ERR_CONFLICT,
                        "spill: lineage %llu: blocks up to %llu are on disk, the job has those "
                        "from %llu on",
                        (unsigned long long)segment->lineage, (unsigned long long)stored,
                        (unsigned long long)segment->held_from);
    }
    task->write_from[i] = stored < segment->end_block ? stored : segment->end_block;
    task->stored_bytes[i] = 0;
    uint64_t blocks = segment->end_block - task->write_from[i];
    task->pages_max += blocks * coded_object_extent(coded_object_bound(job->head.block_bytes) -
                                                    OBJECT_RUN_LARGE_BYTES)
                                    .pages;
    return ERR_OK;
}

static enum err plan(struct spiller *spiller, struct spiller_task *task) {
    const struct spill_job *job = task->job;
    TRY(spill_check(job));
    size_t bound =
        coded_object_bound(job->head.block_bytes > job->head.state_bytes ? job->head.block_bytes
                                                                         : job->head.state_bytes);
    if (bound > spiller->arena_max) {
        return err_fail(ERR_INVALID, "spill: an object of up to %zu coded bytes, the most is %zu",
                        bound, spiller->arena_max);
    }
    if (task->write_from == NULL) {
        task->write_from = calloc(job->segment_count, sizeof *task->write_from);
        task->stored_bytes = fault_fails("spiller.alloc")
                                 ? NULL
                                 : calloc(job->segment_count, sizeof *task->stored_bytes);
        if (task->write_from == NULL || task->stored_bytes == NULL) {
            return err_fail(ERR_NOMEM, "spill: no memory for a job");
        }
    }
    task->head = job->head;
    task->head.tail_coded_bytes = 0;
    task->head.state_coded_bytes = 0;
    task->pages_max = TREE_PAGES;
    struct state_txn *txn CLEANUP(end_txn) = NULL;
    TRY(state_env_begin_read(spiller->env, &txn));
    TRY(compare_heads(txn, task));
    if (task->is_finished) {
        return ERR_OK;
    }
    for (size_t i = 0; i < job->segment_count; i++) {
        TRY(plan_segment(txn, task, i));
    }
    if (job->head.tail_tokens > 0 && job->head.block_bytes > 0) {
        task->pages_max +=
            coded_object_extent(coded_object_bound(job->head.block_bytes) - OBJECT_RUN_LARGE_BYTES)
                .pages;
    }
    if (job->head.state_bytes > 0) {
        task->pages_max +=
            coded_object_extent(coded_object_bound(job->head.state_bytes) - OBJECT_RUN_LARGE_BYTES)
                .pages;
    }
    return ERR_OK;
}

void spiller_plan(struct spiller *spiller, struct spiller_task *task) {
    if (task->is_finished) {
        return;
    }
    enum err code = plan(spiller, task);
    if (code != ERR_OK) {
        spiller_task_fail(task, code);
    }
}

/* --- the last transaction of a group ----------------------------------------------------- */

static enum err each_object(struct state_txn *txn, const struct spiller_task *task,
                            enum err (*act)(struct state_txn *, const struct record_garbage *)) {
    const struct spill_job *job = task->job;
    for (size_t i = 0; i < job->segment_count; i++) {
        if (task->write_from[i] < job->segments[i].end_block) {
            TRY(act(txn, &(struct record_garbage){.part = RECORD_BLOCK,
                                                  .lineage = job->segments[i].lineage,
                                                  .first = task->write_from[i],
                                                  .end = job->segments[i].end_block}));
        }
    }
    struct record_garbage one = {
        .lineage = job->head.lineage, .first = job->head.key.turn, .end = job->head.key.turn + 1};
    one.part = record_tail_part(job->head.key.kind);
    TRY(act(txn, &one));
    one.part = record_state_part(job->head.key.kind);
    return act(txn, &one);
}

static enum err put_lineages(struct state_txn *txn, const struct spiller_task *task) {
    const struct spill_job *job = task->job;
    for (size_t i = 0; i < job->segment_count; i++) {
        const struct spill_segment *segment = &job->segments[i];
        struct record_lineage lineage;
        enum err code = state_table_get_lineage(txn, segment->lineage, &lineage);
        int is_new = code == ERR_NOT_FOUND;
        if (is_new) {
            lineage = (struct record_lineage){.id = segment->lineage,
                                              .parent = i > 0 ? job->segments[i - 1].lineage : 0,
                                              .first_block = segment->first_block,
                                              .end_block = segment->first_block};
            memcpy(lineage.conversation, segment->conversation, RECORD_CONVERSATION_BYTES);
            memcpy(lineage.state_digest, job->head.key.state_digest, RECORD_DIGEST_BYTES);
        } else {
            TRY(code);
        }
        if (task->write_from[i] < segment->end_block) {
            assert(lineage.end_block == task->write_from[i]);
            lineage.end_block = segment->end_block;
        }
        lineage.stored_bytes += task->stored_bytes[i];
        TRY(state_table_put_lineage(txn, &lineage, is_new));
    }
    return ERR_OK;
}

/* Drops what the new head takes the place of: an equal turn of another lineage, later turns of a
 * line that was given up, and all but the newest heads that are kept. */
static enum err drop_replaced(struct state_txn *txn, const struct spiller_task *task,
                              const struct record_head *stored, size_t count) {
    uint64_t turn = task->head.key.turn;
    size_t kept = 1;
    for (size_t i = 0; i < count; i++) {
        if (stored[i].key.turn == turn) {
            TRY(state_drop_replaced(txn, &stored[i]));
        } else if (stored[i].key.turn > turn && (task->job->flags & SPILL_REPLACES_NEWER) != 0) {
            TRY(state_drop_head(txn, &stored[i]));
        } else if (kept < SPILLER_HEADS_KEPT || (stored[i].flags & RECORD_HEAD_PINNED) != 0) {
            kept++;
        } else {
            TRY(state_drop_head(txn, &stored[i]));
        }
    }
    return ERR_OK;
}

static enum err finish_task(struct state_txn *txn, struct spiller *spiller,
                            struct spiller_task *task) {
    struct record_head_key newest = task->head.key;
    newest.turn = UINT64_MAX;
    struct record_head stored[STATE_TABLE_HEADS_MAX];
    size_t count = 0;
    TRY(state_table_list_heads(txn, &newest, stored, ARRAY_LEN(stored), &count, NULL));
    TRY(put_lineages(txn, task));
    if (spiller->is_listed) {
        TRY(each_object(txn, task, state_drop_unlist));
    }
    task->head.created_ms = now_wall_ms();
    task->head.used_ms = task->head.created_ms;
    task->head.hits = 0;
    TRY(state_table_put_head(txn, &task->head));
    return drop_replaced(txn, task, stored, count);
}

/* --- writing --------------------------------------------------------------------------- */

/* Writes runs from *SLICE, *OFFSET on until a step is full or the arena is out. */
static enum err put_runs(struct spiller *spiller, struct state_txn *txn, size_t *slice,
                         size_t *offset) {
    size_t put = 0;
    while (*slice < spiller->slice_count) {
        const struct slice *at = &spiller->slices[*slice];
        uint32_t run = 0;
        for (size_t done = 0; done < at->stored_bytes; run++) {
            size_t len = coded_object_run_bytes(at->stored_bytes - done);
            if (done >= *offset) {
                if (put + len > SPILLER_STEP_BYTES) {
                    return ERR_OK;
                }
                uint8_t key[RECORD_RUN_KEY_BYTES];
                uint8_t *value;
                record_run_key_encode(&at->key, run, key);
                TRY(state_env_reserve(txn, STATE_OBJECTS, (struct state_bytes){key, sizeof key},
                                      len, &value));
                memcpy(value, spiller->arena + at->offset + done, len);
                put += len;
                *offset = done + len;
            }
            done += len;
        }
        (*slice)++;
        *offset = 0;
    }
    return ERR_OK;
}

/* One transaction of a flush. */
static enum err write_step(struct spiller *spiller, const struct group *group, int is_last,
                           size_t *slice, size_t *offset, int *is_done_out) {
    struct state_txn *txn;
    TRY(state_env_begin_write(spiller->env, &txn));
    size_t next_slice = *slice;
    size_t next_offset = *offset;
    enum err code = put_runs(spiller, txn, &next_slice, &next_offset);
    int is_out = next_slice == spiller->slice_count;
    int is_final = is_out && is_last;
    for (size_t i = 0; code == ERR_OK && i < group->count; i++) {
        struct spiller_task *task = &group->tasks[i];
        if (task->is_finished) {
            continue;
        }
        if (is_final) {
            code = finish_task(txn, spiller, task);
        } else if (!spiller->is_listed) {
            code = each_object(txn, task, state_drop_list);
        }
    }
    if (code != ERR_OK) {
        state_env_abort(txn);
        return code;
    }
    if (is_final) {
        FAULT_KILL("spill.commit.before");
    }
    TRY(state_env_commit(txn));
    if (is_final) {
        FAULT_KILL("spill.commit.after");
    } else {
        spiller->is_listed = 1;
        FAULT_KILL("spill.step");
    }
    *slice = next_slice;
    *offset = next_offset;
    *is_done_out = is_out;
    return ERR_OK;
}

static enum err flush(struct spiller *spiller, const struct group *group, int is_last) {
    size_t slice = 0;
    size_t offset = 0;
    int is_done = 0;
    while (!is_done) {
        TRY(write_step(spiller, group, is_last, &slice, &offset, &is_done));
    }
    for (size_t i = 0; i < spiller->slice_count; i++) {
        spiller->bytes_written += spiller->slices[i].stored_bytes;
    }
    spiller->arena_used = 0;
    spiller->slice_count = 0;
    return ERR_OK;
}

/* --- encoding -------------------------------------------------------------------------- */

struct source {
    const struct spill_job *job;
    struct record_object_key key;
    uint32_t element;
    uint64_t size_bytes;
};

/* Fetches and encodes one object into the arena; flushes before if it might not fit. */
static enum err encode_object(struct spiller *spiller, const struct group *group,
                              const struct source *source, size_t *coded_out,
                              uint64_t *stored_bytes) {
    size_t bound = coded_object_bound(source->size_bytes);
    if (spiller->slice_count == SLICES_MAX || bound > spiller->arena_max - spiller->arena_used) {
        TRY(flush(spiller, group, 0));
    }
    const void *raw = NULL;
    TRY(source->job->fetch(source->job->context, &source->key, &raw));
    struct object_identity identity = {.key = source->key,
                                       .state_digest = source->job->head.key.state_digest};
    struct codec_input input = {.element = (enum codec_element)source->element,
                                .bytes = raw,
                                .size_bytes = source->size_bytes};
    size_t coded = 0;
    TRY(coded_object_encode(spiller->codec, &identity, &input, spiller->arena + spiller->arena_used,
                            &coded));
    struct object_extent extent = coded_object_extent(coded);
    spiller->slices[spiller->slice_count++] = (struct slice){
        .key = source->key, .offset = spiller->arena_used, .stored_bytes = extent.stored_bytes};
    spiller->arena_used += extent.stored_bytes;
    *stored_bytes += extent.pages * STATE_ENV_PAGE_BYTES;
    *coded_out = coded;
    return ERR_OK;
}

static enum err encode_blocks(struct spiller *spiller, const struct group *group,
                              struct spiller_task *task) {
    const struct spill_job *job = task->job;
    struct source source = {
        .job = job, .element = job->head.block_element, .size_bytes = job->head.block_bytes};
    if (job->head.block_bytes == 0) {
        return ERR_OK; /* without attention layers blocks only count tokens */
    }
    for (size_t i = 0; i < job->segment_count; i++) {
        for (uint64_t b = task->write_from[i]; b < job->segments[i].end_block; b++) {
            source.key = (struct record_object_key){
                .part = RECORD_BLOCK, .lineage = job->segments[i].lineage, .index = b};
            size_t coded;
            TRY(encode_object(spiller, group, &source, &coded, &task->stored_bytes[i]));
        }
    }
    return ERR_OK;
}

static enum err encode_task(struct spiller *spiller, const struct group *group,
                            struct spiller_task *task) {
    const struct spill_job *job = task->job;
    uint64_t *stored_bytes = &task->stored_bytes[job->segment_count - 1];
    memset(task->stored_bytes, 0, job->segment_count * sizeof *task->stored_bytes);
    TRY(encode_blocks(spiller, group, task));
    struct source source = {.job = job,
                            .key = {.part = record_tail_part(job->head.key.kind),
                                    .lineage = job->head.lineage,
                                    .index = job->head.key.turn},
                            .element = job->head.block_element,
                            .size_bytes = job->head.block_bytes};
    size_t coded = 0;
    if (job->head.tail_tokens > 0 && job->head.block_bytes > 0) {
        TRY(encode_object(spiller, group, &source, &coded, stored_bytes));
        task->head.tail_coded_bytes = coded;
    }
    if (job->head.state_bytes > 0) {
        source.key.part = record_state_part(job->head.key.kind);
        source.element = job->head.state_element;
        source.size_bytes = job->head.state_bytes;
        TRY(encode_object(spiller, group, &source, &coded, stored_bytes));
        task->head.state_coded_bytes = coded;
    }
    return ERR_OK;
}

/* I4 */
static enum err collect_lineage(struct spiller *spiller, uint64_t lineage) {
    struct state_drop_step step = {.lineage = lineage, .bytes_max = COLLECT_STEP_BYTES};
    struct state_drop_result result = {0};
    while (!result.is_done) {
        TRY(state_drop_collect_step(spiller->env, &step, &result));
    }
    return ERR_OK;
}

enum err spiller_write(struct spiller *spiller, struct spiller_task *tasks, size_t count) {
    struct group group = {.tasks = tasks, .count = count};
    spiller->arena_used = 0;
    spiller->slice_count = 0;
    spiller->is_listed = 0;
    FAULT_KILL("spill.before");
    for (size_t i = 0; i < count; i++) {
        for (size_t j = 0; !tasks[i].is_finished && j < tasks[i].job->segment_count; j++) {
            TRY(collect_lineage(spiller, tasks[i].job->segments[j].lineage));
        }
    }
    size_t unfinished = 0;
    for (size_t i = 0; i < count; i++) {
        if (!tasks[i].is_finished) {
            TRY(encode_task(spiller, &group, &tasks[i]));
            unfinished++;
        }
    }
    if (unfinished > 0) {
        TRY(flush(spiller, &group, 1));
    }
    for (size_t i = 0; i < count; i++) {
        if (!tasks[i].is_finished) {
            finish(&tasks[i], SPILL_DURABLE);
        }
    }
    return ERR_OK;
}
