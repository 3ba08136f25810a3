#include "store/audit_object.h"

#include "base/buf.h"
#include "store/state_table.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct audit_object {
    struct state_env *env;
    struct codec *codec;
    struct buf coded;
    struct buf raw;
};

static struct state_bytes bytes(const void *data, size_t len) {
    return (struct state_bytes){.data = data, .len = len};
}

static void end_txn(struct state_txn **txn) {
    state_env_abort(*txn);
}

static void close_cursor(struct state_cursor **cursor) {
    state_env_cursor_close(*cursor);
}

static int is_refused(enum err code) {
    return code == ERR_CORRUPT || code == ERR_FORMAT || code == ERR_UNSUPPORTED;
}

enum err audit_object_create(struct state_env *env, struct audit_object **out) {
    struct audit_object *object = calloc(1, sizeof *object);
    if (object == NULL) {
        return err_fail(ERR_NOMEM, "state: no memory for an audit");
    }
    object->env = env;
    buf_init(&object->coded, 2 * (size_t)AUDIT_OBJECT_BYTES_MAX);
    buf_init(&object->raw, AUDIT_OBJECT_BYTES_MAX);
    enum err code = codec_create(&object->codec);
    if (code != ERR_OK) {
        audit_object_destroy(object);
        return code;
    }
    *out = object;
    return ERR_OK;
}

void audit_object_destroy(struct audit_object *object) {
    if (object != NULL) {
        codec_destroy(object->codec);
        buf_done(&object->coded);
        buf_done(&object->raw);
        free(object);
    }
}

/* --- what refers to it --------------------------------------------------------------------------
 */

/* state_table_each_head, but refused records are seen; stops at what belongs to another. */
static enum err next_of_conversation(struct state_cursor *cursor, const uint8_t *conversation,
                                     int is_first, struct state_bytes *key,
                                     struct state_bytes *value) {
    struct record_head_key from = {.kind = RECORD_PROMPT_END};
    uint8_t encoded[RECORD_HEAD_KEY_BYTES];
    memcpy(from.conversation, conversation, RECORD_CONVERSATION_BYTES);
    record_head_key_encode(&from, encoded);
    encoded[8] = 0; /* before any kind */
    TRY(is_first ? state_env_seek(cursor, bytes(encoded, sizeof encoded), key, value)
                 : state_env_next(cursor, key, value));
    return record_head_key_matches(key->data, key->len, &from, 0)
               ? ERR_OK
               : err_fail(ERR_NOT_FOUND, "state: the conversation has no more heads");
}

enum err audit_object_cover_read(struct state_txn *txn, const struct record_lineage *lineage,
                                 struct audit_object_cover *out) {
    struct state_cursor *cursor CLEANUP(close_cursor) = NULL;
    struct audit_object_cover cover = {0};
    struct state_bytes key;
    struct state_bytes value;
    TRY(state_env_cursor_open(txn, STATE_HEADS, &cursor));
    enum err code = next_of_conversation(cursor, lineage->conversation, 1, &key, &value);
    while (code == ERR_OK) {
        struct record_head head;
        if (record_head_decode(key.data, key.len, value.data, value.len, &head) != ERR_OK) {
            cover.is_unknown = 1;
        } else if (head.lineage == lineage->id) {
            cover.heads++;
            cover.end_block =
                head.block_count > cover.end_block ? head.block_count : cover.end_block;
        }
        code = next_of_conversation(cursor, lineage->conversation, 0, &key, &value);
    }
    if (code != ERR_NOT_FOUND) {
        return code;
    }
    *out = cover;
    return ERR_OK;
}

/* Whether a head of the lineage has KEY as its tail or terminal state. */
static enum err has_head(struct state_txn *txn, const struct record_lineage *lineage,
                         const struct record_object_key *key, int *out) {
    struct state_cursor *cursor CLEANUP(close_cursor) = NULL;
    struct state_bytes head_key;
    struct state_bytes value;
    *out = 0;
    TRY(state_env_cursor_open(txn, STATE_HEADS, &cursor));
    enum err code = next_of_conversation(cursor, lineage->conversation, 1, &head_key, &value);
    while (code == ERR_OK && !*out) {
        struct record_head head;
        *out = record_head_decode(head_key.data, head_key.len, value.data, value.len, &head) ==
                   ERR_OK &&
               head.lineage == key->lineage && head.key.turn == key->index &&
               ((key->part == record_tail_part(head.key.kind) && head.tail_coded_bytes != 0) ||
                (key->part == record_state_part(head.key.kind) && head.state_coded_bytes != 0));
        code = next_of_conversation(cursor, lineage->conversation, 0, &head_key, &value);
    }
    return code == ERR_NOT_FOUND ? ERR_OK : code;
}

static enum err is_listed(struct state_txn *txn, const struct record_object_key *key, int *out) {
    struct state_cursor *cursor CLEANUP(close_cursor) = NULL;
    uint8_t from[RECORD_GARBAGE_KEY_BYTES];
    struct state_bytes garbage_key;
    struct state_bytes value;
    *out = 0;
    record_garbage_key_encode(&(struct record_garbage){.part = key->part, .lineage = key->lineage},
                              from);
    TRY(state_env_cursor_open(txn, STATE_GARBAGE, &cursor));
    enum err code = state_env_seek(cursor, bytes(from, sizeof from), &garbage_key, &value);
    while (code == ERR_OK && !*out) {
        struct record_garbage garbage;
        if (record_garbage_decode(garbage_key.data, garbage_key.len, value.data, value.len,
                                  &garbage) == ERR_OK) {
            if (garbage.lineage != key->lineage || garbage.part != key->part ||
                garbage.first > key->index) {
                return ERR_OK;
            }
            *out = key->index < garbage.end;
        }
        code = state_env_next(cursor, &garbage_key, &value);
    }
    return code == ERR_NOT_FOUND ? ERR_OK : code;
}

/* Whether the lineage, its heads or its children need the object. */
static enum err is_needed(struct state_txn *txn, const struct record_lineage *lineage,
                          const struct record_object_key *key, int *out) {
    struct audit_object_cover cover;
    uint64_t children;
    uint64_t covered;
    TRY(audit_object_cover_read(txn, lineage, &cover));
    *out = cover.is_unknown;
    if (cover.is_unknown) {
        return ERR_OK;
    }
    if (key->part != RECORD_BLOCK) {
        return has_head(txn, lineage, key, out);
    }
    TRY(state_table_children(txn, lineage->id, &children, &covered));
    *out = key->index >= lineage->first_block && key->index < lineage->end_block &&
           (key->index < cover.end_block || key->index < covered);
    return ERR_OK;
}

/* --- reading ------------------------------------------------------------------------------------
 */

/* Joins the runs of the object that begins at the cursor; a gap in their numbers ends it. */
static enum err join_runs(struct audit_object *object, struct state_cursor *cursor,
                          struct state_bytes key, struct state_bytes value,
                          struct audit_object_result *result, int *is_whole) {
    uint32_t expected = 0;
    enum err code = ERR_OK;
    buf_clear(&object->coded);
    *is_whole = 1;
    while (code == ERR_OK) {
        struct record_object_key run_key;
        uint32_t run;
        if (record_run_key_decode(key.data, key.len, &run_key, &run) != ERR_OK ||
            run_key.lineage != result->key.lineage || run_key.part != result->key.part ||
            run_key.index != result->key.index) {
            return ERR_OK;
        }
        result->stored_bytes += value.len;
        *is_whole = *is_whole && run == expected;
        if (*is_whole) {
            TRY(buf_append(&object->coded, value.data, value.len));
        }
        expected = run + 1;
        code = state_env_next(cursor, &key, &value);
    }
    return code == ERR_NOT_FOUND ? ERR_OK : code;
}

static enum err find_next(struct state_cursor *cursor, uint64_t lineage,
                          const struct record_object_key *after, struct state_bytes *key,
                          struct state_bytes *value, struct audit_object_result *result) {
    uint8_t from[RECORD_RUN_KEY_BYTES];
    struct record_object_key first = *after;
    uint32_t run;
    if (after->part == 0) { /* no part has the number 0 */
        first.part = RECORD_BLOCK;
    }
    record_run_key_encode(&first, after->part == 0 ? 0 : UINT32_MAX, from);
    from[12] = (uint8_t)after->part;
    TRY(state_env_seek(cursor, bytes(from, sizeof from), key, value));
    if (key->len == sizeof from && memcmp(key->data, from, sizeof from) == 0) {
        TRY(state_env_next(cursor, key, value));
    }
    if (record_run_key_decode(key->data, key->len, &result->key, &run) != ERR_OK) {
        return err_context(ERR_CORRUPT, "state: the key of a run");
    }
    return lineage == 0 || result->key.lineage == lineage
               ? ERR_OK
               : err_fail(ERR_NOT_FOUND, "state: the lineage has no more objects");
}

static void judge(struct audit_object_result *result, const char *verdict, const char *detail) {
    result->verdict = verdict;
    snprintf(result->detail, sizeof result->detail, "%s", detail);
}

static enum err judge_owner(struct state_txn *txn, struct audit_object_result *result,
                            struct record_lineage *lineage, int *is_to_decode) {
    enum err code = state_table_get_lineage(txn, result->key.lineage, lineage);
    int is_alive = 0;
    *is_to_decode = 0;
    if (is_refused(code)) {
        return ERR_OK; /* told of by its own; what it covers is unknown */
    }
    if (code != ERR_OK && code != ERR_NOT_FOUND) {
        return code;
    }
    int has_lineage = code == ERR_OK;
    if (has_lineage) {
        memcpy(result->conversation, lineage->conversation, sizeof result->conversation);
        TRY(is_needed(txn, lineage, &result->key, &is_alive));
    }
    if (is_alive) {
        *is_to_decode = 1;
        return ERR_OK;
    }
    TRY(is_listed(txn, &result->key, &result->is_listed));
    if (!result->is_listed) {
        judge(result, "orphan",
              has_lineage ? "no head and no child of its lineage needs it"
                          : "its lineage has no record");
    }
    return ERR_OK;
}

static const char *verdict_of(enum object_verdict verdict) {
    switch (verdict) {
    case OBJECT_SOUND:
        return NULL;
    case OBJECT_MISSING:
    case OBJECT_TRUNCATED:
        return "truncated";
    case OBJECT_NEWER:
        return "newer";
    case OBJECT_WRONG_SIZE:
        return "wrong-size";
    case OBJECT_WRONG_IDENTITY:
        return "wrong-identity";
    case OBJECT_NO_MAGIC:
    case OBJECT_HEADER_BAD:
    case OBJECT_DAMAGED:
    case OBJECT_PADDING_BAD:
    case OBJECT_UNDECODABLE:
        return "damaged";
    }
    return "damaged";
}

/* Runs that lack one in the middle are cut there: the decoder says so, or the header. */
static enum err decode(struct audit_object *object, const struct record_lineage *lineage,
                       struct audit_object_result *result) {
    struct object_info info;
    const struct object_identity identity = {.key = result->key,
                                             .state_digest = lineage->state_digest};
    enum object_verdict verdict =
        object->coded.len > 0 ? coded_object_inspect(object->coded.data, object->coded.len, &info)
                              : OBJECT_TRUNCATED;
    if (verdict == OBJECT_SOUND && info.raw_bytes > AUDIT_OBJECT_BYTES_MAX) {
        verdict = OBJECT_WRONG_SIZE;
    }
    if (verdict == OBJECT_SOUND) {
        uint8_t *raw;
        buf_clear(&object->raw);
        TRY(buf_extend(&object->raw, (size_t)info.raw_bytes, &raw));
        const struct codec_output output = {
            .element = info.element, .bytes = raw, .size_bytes = (size_t)info.raw_bytes};
        verdict = coded_object_decode(object->codec, &identity, object->coded.data,
                                      object->coded.len, &output);
    }
    if (verdict != OBJECT_SOUND) {
        judge(result, verdict_of(verdict), coded_object_verdict_name(verdict));
    }
    return ERR_OK;
}

enum err audit_object_next(struct audit_object *object, uint64_t lineage,
                           const struct record_object_key *after, struct audit_object_result *out) {
    struct audit_object_result result = {.stored_bytes = 0};
    struct record_lineage record;
    int is_to_decode;
    int is_whole;
    {
        struct state_txn *txn CLEANUP(end_txn) = NULL;
        struct state_cursor *cursor CLEANUP(close_cursor) = NULL;
        struct state_bytes key;
        struct state_bytes value;
        TRY(state_env_begin_read(object->env, &txn));
        TRY(state_env_cursor_open(txn, STATE_OBJECTS, &cursor));
        TRY(find_next(cursor, lineage, after, &key, &value, &result));
        TRY(join_runs(object, cursor, key, value, &result, &is_whole));
        TRY(judge_owner(txn, &result, &record, &is_to_decode));
    }
    if (is_to_decode) {
        TRY(decode(object, &record, &result));
        if (!is_whole && result.verdict == NULL) {
            judge(&result, "damaged", "runs lie behind its end");
        }
    }
    *out = result;
    return ERR_OK;
}
