/*
 * I1: an object of a lineage is alive if a head of that lineage needs it, or if it is a block
 *     below some child's first_block. Everything else is listed as garbage, or about to become
 *     alive by a spill that is under way and has listed it (spiller.c).
 * I2: a lineage's record says end_block = one past the last block that is stored and not listed.
 *     Cutting end_block and listing the blocks behind it happen in one transaction.
 * I3: garbage of a lineage is collected before the spiller writes to that lineage, so a listed
 *     key is never written again before it was removed.
 * I4: a lineage without heads and children has no record, and its parent was looked at after its
 *     going.
 */
#include "store/state_drop.h"

#include "base/fault.h"

#include <string.h>

static struct state_bytes bytes(const void *data, size_t len) {
    return (struct state_bytes){.data = data, .len = len};
}

static void close_cursor(struct state_cursor **cursor) {
    state_env_cursor_close(*cursor);
}

/* --- the list -------------------------------------------------------------------------- */

enum err state_drop_list(struct state_txn *txn, const struct record_garbage *garbage) {
    uint8_t key[RECORD_GARBAGE_KEY_BYTES];
    uint8_t record[RECORD_GARBAGE_BYTES];
    struct record_garbage entry = *garbage;
    record_garbage_key_encode(&entry, key);
    struct state_bytes value;
    enum err code = state_env_get(txn, STATE_GARBAGE, bytes(key, sizeof key), &value);
    if (code == ERR_OK) {
        struct record_garbage listed;
        if (record_garbage_decode(key, sizeof key, value.data, value.len, &listed) == ERR_OK &&
            listed.end > entry.end) {
            entry.end = listed.end;
        }
    } else if (code != ERR_NOT_FOUND) {
        return code;
    }
    record_garbage_encode(&entry, record);
    return state_env_put(txn, STATE_GARBAGE, bytes(key, sizeof key), bytes(record, sizeof record));
}

enum err state_drop_unlist(struct state_txn *txn, const struct record_garbage *garbage) {
    uint8_t key[RECORD_GARBAGE_KEY_BYTES];
    record_garbage_key_encode(garbage, key);
    return state_env_remove(txn, STATE_GARBAGE, bytes(key, sizeof key));
}

static enum err list_one(struct state_txn *txn, enum record_part part, uint64_t lineage,
                         uint64_t index) {
    return state_drop_list(txn,
                           &(struct record_garbage){
                               .part = part, .lineage = lineage, .first = index, .end = index + 1});
}

static enum err list_blocks(struct state_txn *txn, uint64_t lineage, uint64_t first, uint64_t end) {
    if (first >= end) {
        return ERR_OK;
    }
    return state_drop_list(
        txn, &(struct record_garbage){
                 .part = RECORD_BLOCK, .lineage = lineage, .first = first, .end = end});
}

/* --- what is covered ------------------------------------------------------------------- */

struct coverage {
    uint64_t lineage;
    uint64_t references;
    uint64_t end_block;
};

static enum err cover_by_head(void *context, const struct record_head *head) {
    struct coverage *coverage = context;
    if (head->lineage == coverage->lineage) {
        coverage->references++;
        if (head->block_count > coverage->end_block) {
            coverage->end_block = head->block_count;
        }
    }
    return ERR_OK;
}

static int is_refused(enum err code) {
    return code == ERR_CORRUPT || code == ERR_FORMAT || code == ERR_UNSUPPORTED;
}

/* Lists whatever may lie under a lineage that has no record any more. */
static enum err list_all(struct state_txn *txn, uint64_t lineage) {
    for (int part = RECORD_BLOCK; part < RECORD_PART_COUNT; part++) {
        TRY(state_drop_list(txn, &(struct record_garbage){.part = (enum record_part)part,
                                                          .lineage = lineage,
                                                          .end = UINT64_MAX}));
    }
    return ERR_OK;
}

/* Cuts LINEAGE to what is covered (I1, I2), or removes it and goes on with its parent (I4). */
static enum err trim(struct state_txn *txn, uint64_t lineage) {
    while (lineage != 0) {
        struct record_lineage record;
        enum err code = state_table_get_lineage(txn, lineage, &record);
        if (code == ERR_NOT_FOUND || is_refused(code)) {
            return ERR_OK; /* what an unreadable record covers is unknown: it stays */
        }
        TRY(code);
        struct coverage coverage = {.lineage = lineage};
        TRY(state_table_children(txn, lineage, &coverage.references, &coverage.end_block));
        TRY(state_table_each_head(txn, record.conversation, cover_by_head, &coverage));
        if (coverage.references > 0) {
            uint64_t end =
                coverage.end_block > record.first_block ? coverage.end_block : record.first_block;
            if (end >= record.end_block) {
                return ERR_OK;
            }
            TRY(list_blocks(txn, lineage, end, record.end_block));
            record.end_block = end;
            return state_table_put_lineage(txn, &record, 0);
        }
        TRY(list_all(txn, lineage));
        TRY(state_table_remove_lineage(txn, &record));
        lineage = record.parent; /* smaller than before, so this ends */
    }
    return ERR_OK;
}

enum err state_drop_replaced(struct state_txn *txn, const struct record_head *head) {
    if (head->tail_coded_bytes != 0) {
        TRY(list_one(txn, record_tail_part(head->key.kind), head->lineage, head->key.turn));
    }
    if (head->state_coded_bytes != 0) {
        TRY(list_one(txn, record_state_part(head->key.kind), head->lineage, head->key.turn));
    }
    return trim(txn, head->lineage);
}

enum err state_drop_head(struct state_txn *txn, const struct record_head *head) {
    TRY(state_table_remove_head(txn, &head->key));
    return state_drop_replaced(txn, head);
}

/* --- bad blocks and whole conversations -------------------------------------------------- */

struct collected {
    struct record_head heads[STATE_TABLE_HEADS_MAX];
    size_t count;
    uint64_t lineage; /* 0: any */
    uint64_t above;   /* only heads that need more blocks */
};

static enum err note_head(void *context, const struct record_head *head) {
    struct collected *collected = context;
    if (collected->count < STATE_TABLE_HEADS_MAX &&
        (collected->lineage == 0 ||
         (head->lineage == collected->lineage && head->block_count > collected->above))) {
        collected->heads[collected->count++] = *head;
    }
    return ERR_OK;
}

/* Drops up to STATE_TABLE_HEADS_MAX heads that fit; *count_out tells how many. */
static enum err drop_noted(struct state_txn *txn, const uint8_t *conversation, uint64_t lineage,
                           uint64_t above, size_t *count_out) {
    struct collected collected = {.lineage = lineage, .above = above};
    TRY(state_table_each_head(txn, conversation, note_head, &collected));
    for (size_t i = 0; i < collected.count; i++) {
        TRY(state_drop_head(txn, &collected.heads[i]));
    }
    *count_out = collected.count;
    return ERR_OK;
}

enum err state_drop_blocks(struct state_txn *txn, uint64_t lineage, uint64_t end) {
    struct record_lineage record;
    enum err code = state_table_get_lineage(txn, lineage, &record);
    if (code == ERR_NOT_FOUND) {
        return ERR_OK;
    }
    TRY(code);
    size_t count = 0;
    do {
        TRY(drop_noted(txn, record.conversation, lineage, end, &count));
    } while (count == STATE_TABLE_HEADS_MAX);
    code = state_table_get_lineage(txn, lineage, &record); /* dropping may have removed it */
    if (code == ERR_NOT_FOUND) {
        return ERR_OK;
    }
    TRY(code);
    uint64_t cut = end > record.first_block ? end : record.first_block;
    if (cut >= record.end_block) {
        return ERR_OK;
    }
    TRY(list_blocks(txn, lineage, cut, record.end_block));
    record.end_block = cut;
    return state_table_put_lineage(txn, &record, 0);
}

/* The lineage stays for its children only: it forgets whose it was. */
static enum err disown(struct state_txn *txn, uint64_t lineage, const uint8_t *conversation) {
    TRY(state_table_remove_owner(txn, conversation, lineage));
    struct record_lineage record;
    enum err code = state_table_get_lineage(txn, lineage, &record);
    if (code == ERR_NOT_FOUND) {
        return ERR_OK;
    }
    if (is_refused(code)) {
        TRY(state_table_remove_lineage(txn, &(struct record_lineage){.id = lineage}));
        return list_all(txn, lineage);
    }
    TRY(code);
    memset(record.conversation, 0, sizeof record.conversation);
    TRY(state_table_put_lineage(txn, &record, 0));
    return trim(txn, lineage);
}

enum err state_drop_conversation(struct state_txn *txn, const uint8_t *conversation,
                                 int *is_done_out) {
    size_t count = 0;
    do {
        TRY(drop_noted(txn, conversation, 0, 0, &count));
    } while (count == STATE_TABLE_HEADS_MAX);
    TRY(state_table_remove_heads(txn, conversation)); /* those whose records are refused */
    uint64_t from = 0;
    for (int i = 0; i < STATE_DROP_LINEAGES_MAX; i++) {
        uint64_t lineage;
        enum err code = state_table_next_owned(txn, conversation, from, &lineage);
        if (code == ERR_NOT_FOUND) {
            *is_done_out = 1;
            return ERR_OK;
        }
        TRY(code);
        TRY(disown(txn, lineage, conversation));
        from = lineage + 1;
    }
    *is_done_out = 0;
    return ERR_OK;
}

/* --- collecting ------------------------------------------------------------------------ */

/* The first entry on the list, or the first of one lineage. An unreadable one is removed. */
static enum err next_garbage(struct state_txn *txn, uint64_t lineage, struct record_garbage *out) {
    for (;;) {
        struct state_cursor *cursor CLEANUP(close_cursor) = NULL;
        TRY(state_env_cursor_open(txn, STATE_GARBAGE, &cursor));
        struct state_bytes key;
        struct state_bytes value;
        if (lineage != 0) {
            uint8_t from[RECORD_GARBAGE_KEY_BYTES];
            record_garbage_key_encode(
                &(struct record_garbage){.part = RECORD_BLOCK, .lineage = lineage}, from);
            TRY(state_env_seek(cursor, bytes(from, sizeof from), &key, &value));
        } else {
            TRY(state_env_first(cursor, &key, &value));
        }
        struct record_garbage garbage;
        if (record_garbage_decode(key.data, key.len, value.data, value.len, &garbage) != ERR_OK) {
            TRY(state_env_remove_at(cursor));
            continue;
        }
        if (lineage != 0 && garbage.lineage != lineage) {
            return err_fail(ERR_NOT_FOUND, "state: no garbage of lineage %llu",
                            (unsigned long long)lineage);
        }
        *out = garbage;
        return ERR_OK;
    }
}

/* Removes the objects of one entry until *freed reaches MAX; *is_done_out: all are gone. */
static enum err collect_entry(struct state_txn *txn, const struct record_garbage *garbage,
                              uint64_t max, uint64_t *freed, int *is_done_out) {
    struct state_cursor *cursor CLEANUP(close_cursor) = NULL;
    TRY(state_env_cursor_open(txn, STATE_OBJECTS, &cursor));
    uint8_t from[RECORD_RUN_KEY_BYTES];
    record_run_key_encode(&(struct record_object_key){.part = garbage->part,
                                                      .lineage = garbage->lineage,
                                                      .index = garbage->first},
                          0, from);
    struct state_bytes key;
    struct state_bytes value;
    enum err code = state_env_seek(cursor, bytes(from, sizeof from), &key, &value);
    while (code == ERR_OK) {
        struct record_object_key object;
        uint32_t run;
        if (record_run_key_decode(key.data, key.len, &object, &run) != ERR_OK ||
            object.lineage != garbage->lineage || object.part != garbage->part ||
            object.index >= garbage->end) {
            break;
        }
        if (*freed >= max) {
            *is_done_out = 0;
            return ERR_OK;
        }
        *freed += value.len + 16;
        TRY(state_env_remove_at(cursor));
        code = state_env_next(cursor, &key, &value);
    }
    if (code != ERR_OK && code != ERR_NOT_FOUND) {
        return code;
    }
    *is_done_out = 1;
    return ERR_OK;
}

static enum err subtract_bytes(struct state_txn *txn, uint64_t lineage, uint64_t freed) {
    struct record_lineage record;
    enum err code = state_table_get_lineage(txn, lineage, &record);
    if (code != ERR_OK) {
        return code == ERR_NOT_FOUND || is_refused(code) ? ERR_OK : code;
    }
    record.stored_bytes -= freed < record.stored_bytes ? freed : record.stored_bytes;
    return state_table_put_lineage(txn, &record, 0);
}

enum err state_drop_collect(struct state_txn *txn, const struct state_drop_step *step,
                            struct state_drop_result *out) {
    struct state_drop_result result = {0};
    while (result.freed_bytes < step->bytes_max) {
        struct record_garbage garbage;
        enum err code = next_garbage(txn, step->lineage, &garbage);
        if (code == ERR_NOT_FOUND) {
            result.is_done = 1;
            break;
        }
        TRY(code);
        uint64_t before = result.freed_bytes;
        int is_done = 0;
        TRY(collect_entry(txn, &garbage, step->bytes_max, &result.freed_bytes, &is_done));
        if (result.freed_bytes > before) {
            TRY(subtract_bytes(txn, garbage.lineage, result.freed_bytes - before));
        }
        if (is_done) {
            TRY(state_drop_unlist(txn, &garbage));
            result.entries++;
        }
    }
    *out = result;
    return ERR_OK;
}

enum err state_drop_collect_step(struct state_env *env, const struct state_drop_step *step,
                                 struct state_drop_result *out) {
    struct state_txn *txn;
    TRY(state_env_begin_write(env, &txn));
    struct state_drop_result result;
    enum err code = state_drop_collect(txn, step, &result);
    if (code != ERR_OK) {
        state_env_abort(txn);
        return code;
    }
    if (result.entries == 0 && result.freed_bytes == 0) {
        state_env_abort(txn); /* nothing was listed: no sync for nothing */
    } else {
        FAULT_KILL("collect.before");
        TRY(state_env_commit(txn));
        FAULT_KILL("collect.after");
    }
    *out = result;
    return ERR_OK;
}
