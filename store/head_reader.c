#include "store/head_reader.h"

#include "base/fault.h"
#include "store/state_table.h"

#include <stdlib.h>
#include <string.h>

struct head_reader {
    struct state_env *env;
    struct codec *codec;
    uint8_t *stored;
    size_t stored_max;
    uint64_t bytes_read;
};

static struct state_bytes bytes(const void *data, size_t len) {
    return (struct state_bytes){.data = data, .len = len};
}

static void close_cursor(struct state_cursor **cursor) {
    state_env_cursor_close(*cursor);
}

static void end_txn(struct state_txn **txn) {
    state_env_abort(*txn);
}

enum err head_reader_create(struct state_env *env, size_t raw_bytes_max, struct head_reader **out) {
    struct head_reader *reader =
        fault_fails("head_reader.alloc") ? NULL : calloc(1, sizeof *reader);
    if (reader == NULL) {
        return err_fail(ERR_NOMEM, "state: no memory for a reader");
    }
    reader->env = env;
    reader->stored_max = coded_object_bound(raw_bytes_max);
    reader->stored = fault_fails("head_reader.alloc") ? NULL : malloc(reader->stored_max);
    enum err code = reader->stored != NULL
                        ? codec_create(&reader->codec)
                        : err_fail(ERR_NOMEM, "state: no memory for a read buffer of %zu bytes",
                                   reader->stored_max);
    if (code != ERR_OK) {
        head_reader_destroy(reader);
        return code;
    }
    *out = reader;
    return ERR_OK;
}

void head_reader_destroy(struct head_reader *reader) {
    if (reader != NULL) {
        codec_destroy(reader->codec);
        free(reader->stored);
        free(reader);
    }
}

void head_reader_warm(struct head_reader *reader) {
    memset(reader->stored, 0, reader->stored_max);
}

size_t head_reader_memory_bytes(const struct head_reader *reader) {
    return sizeof *reader + reader->stored_max + codec_memory_bytes(reader->codec);
}

uint64_t head_reader_bytes(const struct head_reader *reader) {
    return reader->bytes_read;
}

/* Copies the runs of KEY into reader->stored. What isn't whole is a verdict. */
static enum err copy_runs(struct head_reader *reader, const struct record_object_key *key,
                          size_t *stored_out, enum object_verdict *verdict_out) {
    struct state_txn *txn CLEANUP(end_txn) = NULL;
    TRY(state_env_begin_read(reader->env, &txn));
    struct state_cursor *cursor CLEANUP(close_cursor) = NULL; /* closed before the transaction */
    TRY(state_env_cursor_open(txn, STATE_OBJECTS, &cursor));
    uint8_t encoded[RECORD_RUN_KEY_BYTES];
    record_run_key_encode(key, 0, encoded);
    struct state_bytes run_key;
    struct state_bytes value;
    enum err code = state_env_seek(cursor, bytes(encoded, sizeof encoded), &run_key, &value);
    size_t stored = 0;
    size_t wanted = 1;
    *verdict_out = OBJECT_MISSING;
    for (uint32_t run = 0; stored < wanted && code == ERR_OK; run++) {
        record_run_key_encode(key, run, encoded);
        if (run_key.len != sizeof encoded || memcmp(run_key.data, encoded, sizeof encoded) != 0) {
            return ERR_OK; /* a run is not there */
        }
        if (run == 0) {
            struct object_info info;
            *verdict_out = coded_object_inspect(value.data, value.len, &info);
            if (*verdict_out != OBJECT_SOUND) {
                return ERR_OK;
            }
            if (info.coded_bytes > reader->stored_max) {
                *verdict_out = OBJECT_WRONG_SIZE;
                return ERR_OK;
            }
            wanted = coded_object_extent((size_t)info.coded_bytes).stored_bytes;
            *verdict_out = OBJECT_MISSING;
        }
        if (value.len > wanted - stored || wanted > reader->stored_max) {
            *verdict_out = OBJECT_WRONG_SIZE;
            return ERR_OK;
        }
        memcpy(reader->stored + stored, value.data, value.len);
        stored += value.len;
        code = stored < wanted ? state_env_next(cursor, &run_key, &value) : ERR_OK;
    }
    if (code != ERR_OK) {
        return code == ERR_NOT_FOUND ? ERR_OK : code;
    }
    *stored_out = stored;
    *verdict_out = OBJECT_SOUND;
    return ERR_OK;
}

enum err head_reader_read(struct head_reader *reader, const struct head_plan *plan,
                          const struct record_object_key *key, const struct codec_output *output,
                          enum object_verdict *verdict_out) {
    size_t stored = 0;
    enum object_verdict verdict = OBJECT_MISSING;
    TRY(copy_runs(reader, key, &stored, &verdict));
    if (verdict == OBJECT_SOUND) {
        reader->bytes_read += stored;
        FAULT_KILL("promote.in");
        struct object_identity identity = {.key = *key,
                                           .state_digest = plan->head.key.state_digest};
        verdict = coded_object_decode(reader->codec, &identity, reader->stored, stored, output);
    }
    *verdict_out = verdict;
    return ERR_OK;
}

/* --- many objects ----------------------------------------------------------------------- */

/* Calls ACT for each object that is wanted and that the head has, in order. */
static enum err each_wanted(const struct head_plan *plan, const struct head_want *want,
                            enum err (*act)(void *context, const struct record_object_key *key,
                                            const struct codec_output *shape),
                            void *context) {
    const struct record_head *head = &plan->head;
    struct codec_output block = {.element = (enum codec_element)head->block_element,
                                 .size_bytes = head->block_bytes};
    struct codec_output state = {.element = (enum codec_element)head->state_element,
                                 .size_bytes = head->state_bytes};
    uint64_t end = want->end_block < head->block_count ? want->end_block : head->block_count;
    for (uint64_t i = want->first_block; head->block_bytes > 0 && i < end; i++) {
        struct record_object_key key = head_plan_block(plan, i);
        TRY(act(context, &key, &block));
    }
    if (want->tail && head->tail_coded_bytes != 0) {
        struct record_object_key key = head_plan_tail(plan);
        TRY(act(context, &key, &block));
    }
    if (want->state && head->state_coded_bytes != 0) {
        struct record_object_key key = head_plan_state(plan);
        TRY(act(context, &key, &state));
    }
    return ERR_OK;
}

struct stream {
    struct head_reader *reader;
    const struct head_plan *plan;
    const struct head_sink *sink;
    struct head_failure failure;
    int is_refused;
};

static enum err stream_one(void *context, const struct record_object_key *key,
                           const struct codec_output *shape) {
    struct stream *stream = context;
    struct codec_output output = *shape;
    TRY(stream->sink->place(stream->sink->context, key, &output.bytes));
    enum object_verdict verdict = OBJECT_MISSING;
    TRY(head_reader_read(stream->reader, stream->plan, key, &output, &verdict));
    if (verdict != OBJECT_SOUND) {
        stream->failure = (struct head_failure){.verdict = verdict, .key = *key};
        stream->is_refused = 1;
        return err_fail(ERR_CORRUPT, "state: part %d, lineage %llu, index %llu: %s", (int)key->part,
                        (unsigned long long)key->lineage, (unsigned long long)key->index,
                        coded_object_verdict_name(verdict));
    }
    return stream->sink->placed != NULL ? stream->sink->placed(stream->sink->context, key) : ERR_OK;
}

enum err head_reader_stream(struct head_reader *reader, const struct head_plan *plan,
                            const struct head_want *want, const struct head_sink *sink,
                            struct head_failure *failure) {
    struct stream stream = {.reader = reader, .plan = plan, .sink = sink};
    enum err code = each_wanted(plan, want, stream_one, &stream);
    if (stream.is_refused) {
        *failure = stream.failure;
    } else if (code == ERR_CORRUPT) {
        return err_context(ERR_IO, "state"); /* the store itself: no object is named by it */
    }
    return code;
}

static enum err will_need_one(void *context, const struct record_object_key *object,
                              const struct codec_output *shape) {
    struct state_cursor *cursor = context;
    (void)shape;
    uint8_t encoded[RECORD_RUN_KEY_BYTES];
    record_run_key_encode(object, 0, encoded);
    struct state_bytes key;
    struct state_bytes value;
    enum err code = state_env_seek(cursor, bytes(encoded, sizeof encoded), &key, &value);
    while (code == ERR_OK && key.len == sizeof encoded &&
           memcmp((const uint8_t *)key.data + 4, encoded + 4, sizeof encoded - 4) == 0) {
        state_env_will_need(value);
        code = state_env_next(cursor, &key, &value);
    }
    return code == ERR_NOT_FOUND ? ERR_OK : code;
}

enum err head_reader_will_need(struct state_env *env, const struct head_plan *plan,
                               const struct head_want *want) {
    struct state_txn *txn CLEANUP(end_txn) = NULL;
    TRY(state_env_begin_read(env, &txn));
    struct state_cursor *cursor CLEANUP(close_cursor) = NULL;
    TRY(state_env_cursor_open(txn, STATE_OBJECTS, &cursor));
    return each_wanted(plan, want, will_need_one, cursor);
}
