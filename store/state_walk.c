#include "store/state_walk.h"

#include "base/now.h"
#include "store/head_reader.h"

#include <stdlib.h>
#include <string.h>

static void end_txn(struct state_txn **txn) {
    state_env_abort(*txn);
}

static void close_cursor(struct state_cursor **cursor) {
    state_env_cursor_close(*cursor);
}

/* --- going on from the last key ---------------------------------------------------------- */

struct walk {
    struct state_env *env;
    enum state_db db;
    enum err (*visit)(void *context, struct state_txn *txn, struct state_bytes key,
                      struct state_bytes value);
    void *context;
    const int *is_paused; /* may be NULL; set by a visit that wants the transaction to end */
    uint8_t last_key[RECORD_KEY_BYTES_MAX];
    size_t last_len; /* 0 before the first entry */
};

/* Visits entries for STATE_WALK_RENEW_MS in one transaction; ERR_NOT_FOUND after the last. */
static enum err walk_while(struct walk *walk) {
    struct state_txn *txn CLEANUP(end_txn) = NULL;
    TRY(state_env_begin_read(walk->env, &txn));
    struct state_cursor *cursor CLEANUP(close_cursor) = NULL;
    TRY(state_env_cursor_open(txn, walk->db, &cursor));
    struct state_bytes key;
    struct state_bytes value;
    enum err code;
    if (walk->last_len == 0) {
        code = state_env_first(cursor, &key, &value);
    } else {
        struct state_bytes last = {walk->last_key, walk->last_len};
        code = state_env_seek(cursor, last, &key, &value);
        if (code == ERR_OK && key.len == walk->last_len &&
            memcmp(key.data, walk->last_key, key.len) == 0) {
            code = state_env_next(cursor, &key, &value);
        }
    }
    uint64_t start_ms = now_monotonic_ms();
    while (code == ERR_OK) {
        if (key.len > sizeof walk->last_key) {
            return err_fail(ERR_CORRUPT, "state: a key of %zu bytes", key.len);
        }
        memcpy(walk->last_key, key.data, key.len);
        walk->last_len = key.len;
        TRY(walk->visit(walk->context, txn, key, value));
        if (now_monotonic_ms() - start_ms >= STATE_WALK_RENEW_MS ||
            (walk->is_paused != NULL && *walk->is_paused)) {
            return ERR_OK;
        }
        code = state_env_next(cursor, &key, &value);
    }
    return code;
}

static enum err walk_all(struct walk *walk) {
    enum err code;
    do {
        code = walk_while(walk);
    } while (code == ERR_OK);
    return code == ERR_NOT_FOUND ? ERR_OK : code;
}

/* --- heads and lineages ------------------------------------------------------------------ */

enum { BATCH_MAX = 64 };

/* Heads are visited after the transaction that read them has ended: a visit may take long. */
struct head_batch {
    struct record_head heads[BATCH_MAX];
    size_t count;
    int is_full;
    uint64_t refused;
};

static enum err note_head(void *context, struct state_txn *txn, struct state_bytes key,
                          struct state_bytes value) {
    struct head_batch *batch = context;
    (void)txn;
    if (record_head_decode(key.data, key.len, value.data, value.len, &batch->heads[batch->count]) !=
        ERR_OK) {
        batch->refused++;
    } else {
        batch->count++;
    }
    batch->is_full = batch->count == BATCH_MAX;
    return ERR_OK;
}

enum err state_walk_each_head(struct state_env *env,
                              enum err (*visit)(void *context, const struct record_head *head),
                              void *context, uint64_t *refused_out) {
    struct head_batch batch = {0};
    struct walk walk = {.env = env,
                        .db = STATE_HEADS,
                        .visit = note_head,
                        .context = &batch,
                        .is_paused = &batch.is_full};
    enum err code = ERR_OK;
    while (code == ERR_OK) {
        batch.count = 0;
        code = walk_while(&walk);
        for (size_t i = 0; (code == ERR_OK || code == ERR_NOT_FOUND) && i < batch.count; i++) {
            TRY(visit(context, &batch.heads[i]));
        }
    }
    if (code != ERR_NOT_FOUND) {
        return code;
    }
    *refused_out = batch.refused;
    return ERR_OK;
}

/* An error of a visitor must not look like the end of the walk. */
static enum err not_the_end(enum err code) {
    return code == ERR_NOT_FOUND ? ERR_CANCELLED : code;
}

struct lineage_visit {
    enum err (*visit)(void *context, const struct record_lineage *lineage);
    void *context;
    uint64_t refused;
};

static enum err visit_lineage(void *context, struct state_txn *txn, struct state_bytes key,
                              struct state_bytes value) {
    struct lineage_visit *visit = context;
    struct record_lineage lineage;
    (void)txn;
    if (record_lineage_decode(key.data, key.len, value.data, value.len, &lineage) != ERR_OK) {
        visit->refused++;
        return ERR_OK;
    }
    return not_the_end(visit->visit(visit->context, &lineage));
}

enum err state_walk_each_lineage(struct state_env *env,
                                 enum err (*visit)(void *context,
                                                   const struct record_lineage *lineage),
                                 void *context, uint64_t *refused_out) {
    struct lineage_visit lineage_visit = {.visit = visit, .context = context};
    struct walk walk = {
        .env = env, .db = STATE_LINEAGES, .visit = visit_lineage, .context = &lineage_visit};
    TRY(walk_all(&walk));
    *refused_out = lineage_visit.refused;
    return ERR_OK;
}

/* --- objects ---------------------------------------------------------------------------- */

/* Objects are joined from their runs, and visited after the transaction that read them. The last
 * one of a batch may have runs still to come: it is held back until the next object begins. */
struct object_batch {
    struct state_walk_object objects[BATCH_MAX + 1];
    size_t count;
    uint64_t lineage; /* 0: of all */
    int is_full;
    uint64_t refused;
};

static enum err note_run(void *context, struct state_txn *txn, struct state_bytes key,
                         struct state_bytes value) {
    struct object_batch *batch = context;
    struct record_object_key object_key;
    uint32_t run;
    (void)txn;
    if (record_run_key_decode(key.data, key.len, &object_key, &run) != ERR_OK) {
        batch->refused++;
        return ERR_OK;
    }
    if (batch->lineage != 0 && object_key.lineage != batch->lineage) {
        return ERR_NOT_FOUND; /* all of the lineage's have been seen */
    }
    struct state_walk_object *last = batch->count > 0 ? &batch->objects[batch->count - 1] : NULL;
    if (last == NULL || last->key.part != object_key.part ||
        last->key.lineage != object_key.lineage || last->key.index != object_key.index) {
        last = &batch->objects[batch->count++];
        *last = (struct state_walk_object){.key = object_key, .verdict = OBJECT_TRUNCATED};
        if (run == 0) {
            last->verdict = coded_object_inspect(value.data, value.len, &last->info);
        }
    }
    last->runs++;
    last->stored_bytes += value.len;
    batch->is_full = batch->count == BATCH_MAX + 1;
    return ERR_OK;
}

static enum err visit_objects(struct object_batch *batch, size_t count,
                              enum err (*visit)(void *context,
                                                const struct state_walk_object *object),
                              void *context) {
    for (size_t i = 0; i < count; i++) {
        struct state_walk_object *object = &batch->objects[i];
        if (object->verdict == OBJECT_SOUND && object->stored_bytes < object->info.coded_bytes) {
            object->verdict = OBJECT_TRUNCATED;
        }
        TRY(not_the_end(visit(context, object)));
    }
    batch->count -= count;
    memmove(batch->objects, batch->objects + count, batch->count * sizeof *batch->objects);
    return ERR_OK;
}

/* Starts before the first object of a lineage: no part has the number 0. */
static void start_at_lineage(struct walk *walk, uint64_t lineage) {
    struct record_object_key first = {.part = RECORD_BLOCK, .lineage = lineage};
    record_run_key_encode(&first, 0, walk->last_key);
    walk->last_key[12] = 0;
    walk->last_len = RECORD_RUN_KEY_BYTES;
}

enum err state_walk_each_object(struct state_env *env, uint64_t lineage,
                                enum err (*visit)(void *context,
                                                  const struct state_walk_object *object),
                                void *context, uint64_t *refused_out) {
    struct object_batch batch = {.lineage = lineage};
    struct walk walk = {.env = env,
                        .db = STATE_OBJECTS,
                        .visit = note_run,
                        .context = &batch,
                        .is_paused = &batch.is_full};
    if (lineage != 0) {
        start_at_lineage(&walk, lineage);
    }
    enum err code = ERR_OK;
    while (code == ERR_OK) {
        code = walk_while(&walk);
        if (code == ERR_OK && batch.count > 0) {
            TRY(visit_objects(&batch, batch.count - 1, visit, context));
        }
    }
    if (code != ERR_NOT_FOUND) {
        return code;
    }
    TRY(visit_objects(&batch, batch.count, visit, context));
    *refused_out = batch.refused;
    return ERR_OK;
}

/* --- the report ------------------------------------------------------------------------- */

struct survey {
    const struct state_walk_options *options;
    struct state_walk_report report;
    struct state_env *env;
    struct head_reader *reader; /* with is_decoding */
    uint8_t *raw;
    uint64_t bytes_touched; /* keeps the compiler from dropping the reads */
};

static void refuse(struct survey *survey, const struct record_head *head,
                   const struct record_object_key *key, enum object_verdict verdict) {
    survey->report.objects_refused++;
    if (survey->options->bad != NULL) {
        survey->options->bad(survey->options->context, head, key, verdict);
    }
}

static enum err decode_one(struct survey *survey, const struct head_plan *plan,
                           const struct record_object_key *key, int is_state) {
    const struct record_head *head = &plan->head;
    struct codec_output output = {
        .element = (enum codec_element)(is_state ? head->state_element : head->block_element),
        .bytes = survey->raw,
        .size_bytes = is_state ? head->state_bytes : head->block_bytes};
    enum object_verdict verdict = OBJECT_WRONG_SIZE;
    if (output.size_bytes <= survey->options->object_bytes_max) {
        TRY(head_reader_read(survey->reader, plan, key, &output, &verdict));
    }
    if (verdict != OBJECT_SOUND) {
        refuse(survey, head, key, verdict);
    }
    return ERR_OK;
}

static void destroy_plan(struct head_plan **plan) {
    head_plan_destroy(*plan);
}

static enum err survey_head(void *context, const struct record_head *head) {
    struct survey *survey = context;
    survey->report.heads++;
    struct head_plan *plan CLEANUP(destroy_plan) = NULL;
    enum err code = head_plan_create(survey->env, head, &plan);
    if (code == ERR_NOT_FOUND || code == ERR_CORRUPT) {
        survey->report.heads_incomplete++;
        return ERR_OK;
    }
    TRY(code);
    if (!survey->options->is_decoding) {
        return ERR_OK;
    }
    for (uint64_t i = 0; head->block_bytes > 0 && i < head->block_count; i++) {
        struct record_object_key key = head_plan_block(plan, i);
        TRY(decode_one(survey, plan, &key, 0));
    }
    if (head->tail_coded_bytes != 0) {
        struct record_object_key key = head_plan_tail(plan);
        TRY(decode_one(survey, plan, &key, 0));
    }
    if (head->state_coded_bytes != 0) {
        struct record_object_key key = head_plan_state(plan);
        TRY(decode_one(survey, plan, &key, 1));
    }
    return ERR_OK;
}

static enum err survey_lineage(void *context, const struct record_lineage *lineage) {
    struct survey *survey = context;
    (void)lineage;
    survey->report.lineages++;
    return ERR_OK;
}

static enum err survey_run(void *context, struct state_txn *txn, struct state_bytes key,
                           struct state_bytes value) {
    struct survey *survey = context;
    struct record_object_key object;
    uint32_t run;
    (void)txn;
    survey->report.runs++;
    for (size_t at = 0; at < value.len; at += STATE_ENV_PAGE_BYTES) {
        survey->bytes_touched += ((const volatile uint8_t *)value.data)[at];
    }
    if (record_run_key_decode(key.data, key.len, &object, &run) != ERR_OK) {
        survey->report.objects_refused++;
        return ERR_OK;
    }
    if (run == 0) {
        struct object_info info;
        survey->report.objects++;
        enum object_verdict verdict = coded_object_inspect(value.data, value.len, &info);
        if (verdict != OBJECT_SOUND && !survey->options->is_decoding) {
            refuse(survey, NULL, &object, verdict);
        }
    }
    return ERR_OK;
}

static enum err count_entry(void *context, struct state_txn *txn, struct state_bytes key,
                            struct state_bytes value) {
    uint64_t *count = context;
    (void)txn;
    (void)key;
    (void)value;
    (*count)++;
    return ERR_OK;
}

static enum err survey_all(struct survey *survey) {
    TRY(state_walk_each_head(survey->env, survey_head, survey, &survey->report.heads_refused));
    TRY(state_walk_each_lineage(survey->env, survey_lineage, survey,
                                &survey->report.lineages_refused));
    struct walk runs = {
        .env = survey->env, .db = STATE_OBJECTS, .visit = survey_run, .context = survey};
    TRY(walk_all(&runs));
    struct walk garbage = {.env = survey->env,
                           .db = STATE_GARBAGE,
                           .visit = count_entry,
                           .context = &survey->report.garbage_entries};
    TRY(walk_all(&garbage));
    struct walk quarantine = {.env = survey->env,
                              .db = STATE_QUARANTINE,
                              .visit = count_entry,
                              .context = &survey->report.quarantined};
    TRY(walk_all(&quarantine));
    uint64_t links = 0;
    struct walk all_links = {
        .env = survey->env, .db = STATE_LINKS, .visit = count_entry, .context = &links};
    TRY(walk_all(&all_links));
    struct state_env_usage usage; /* reads the free list */
    return state_env_usage(survey->env, &usage);
}

enum err state_walk_env(struct state_env *env, const struct state_walk_options *options,
                        struct state_walk_report *out) {
    struct survey survey = {.env = env, .options = options};
    if (options->is_decoding) {
        TRY(head_reader_create(env, options->object_bytes_max, &survey.reader));
        survey.raw = malloc(options->object_bytes_max + 1);
        if (survey.raw == NULL) {
            head_reader_destroy(survey.reader);
            return err_fail(ERR_NOMEM, "state: no memory for an object of %zu bytes",
                            options->object_bytes_max);
        }
    }
    enum err code = survey_all(&survey);
    head_reader_destroy(survey.reader);
    free(survey.raw);
    TRY(code);
    *out = survey.report;
    return ERR_OK;
}

enum err state_walk_dir(const char *dir, struct state_walk_report *out) {
    struct state_env *env;
    TRY(state_env_open(&(struct state_env_config){.dir = dir, .is_read_only = 1}, &env));
    enum err code = state_walk_env(env, &(struct state_walk_options){0}, out);
    state_env_close(env);
    return code;
}
