#include "store/state_table.h"

#include <string.h>

static struct state_bytes bytes(const void *data, size_t len) {
    return (struct state_bytes){.data = data, .len = len};
}

static void close_cursor(struct state_cursor **cursor) {
    state_env_cursor_close(*cursor);
}

enum err state_table_get_format(struct state_txn *txn, struct record_format *out) {
    struct state_bytes value;
    TRY(state_env_get(txn, STATE_META, bytes(RECORD_FORMAT_KEY, strlen(RECORD_FORMAT_KEY)),
                      &value));
    return record_format_decode(value.data, value.len, out);
}

enum err state_table_put_format(struct state_txn *txn, const struct record_format *format) {
    uint8_t record[RECORD_FORMAT_BYTES];
    record_format_encode(format, record);
    return state_env_put(txn, STATE_META, bytes(RECORD_FORMAT_KEY, strlen(RECORD_FORMAT_KEY)),
                         bytes(record, sizeof record));
}

/* --- heads ----------------------------------------------------------------------------- */

enum err state_table_get_head(struct state_txn *txn, const struct record_head_key *key,
                              struct record_head *out) {
    uint8_t encoded[RECORD_HEAD_KEY_BYTES];
    record_head_key_encode(key, encoded);
    struct state_bytes value;
    TRY(state_env_get(txn, STATE_HEADS, bytes(encoded, sizeof encoded), &value));
    return record_head_decode(encoded, sizeof encoded, value.data, value.len, out);
}

enum err state_table_put_head(struct state_txn *txn, const struct record_head *head) {
    uint8_t key[RECORD_HEAD_KEY_BYTES];
    uint8_t record[RECORD_HEAD_BYTES];
    record_head_key_encode(&head->key, key);
    record_head_encode(head, record);
    return state_env_put(txn, STATE_HEADS, bytes(key, sizeof key), bytes(record, sizeof record));
}

enum err state_table_remove_head(struct state_txn *txn, const struct record_head_key *key) {
    uint8_t encoded[RECORD_HEAD_KEY_BYTES];
    record_head_key_encode(key, encoded);
    return state_env_remove(txn, STATE_HEADS, bytes(encoded, sizeof encoded));
}

enum err state_table_list_heads(struct state_txn *txn, const struct record_head_key *below,
                                struct record_head *heads, size_t max, size_t *count_out,
                                size_t *refused_out) {
    struct state_cursor *cursor CLEANUP(close_cursor) = NULL;
    TRY(state_env_cursor_open(txn, STATE_HEADS, &cursor));
    size_t count = 0;
    size_t refused = 0;
    struct record_head_key at = *below;
    uint8_t encoded[RECORD_HEAD_KEY_BYTES];
    struct state_bytes key;
    struct state_bytes value;
    /* The first step looks for the key itself, which seek_before would pass over. */
    record_head_key_encode(&at, encoded);
    enum err code = state_env_get(txn, STATE_HEADS, bytes(encoded, sizeof encoded), &value);
    key = bytes(encoded, sizeof encoded);
    if (code == ERR_NOT_FOUND) {
        code = state_env_seek_before(cursor, bytes(encoded, sizeof encoded), &key, &value);
    }
    while (code == ERR_OK && count < max && record_head_key_matches(key.data, key.len, below, 1)) {
        uint8_t found[RECORD_HEAD_KEY_BYTES];
        memcpy(found, key.data, sizeof found);
        if (record_head_decode(found, sizeof found, value.data, value.len, &heads[count]) !=
            ERR_OK) {
            refused++;
        } else if (memcmp(heads[count].key.state_digest, below->state_digest,
                          RECORD_DIGEST_BYTES) == 0) {
            count++; /* else another model whose digest begins alike */
        }
        code = state_env_seek_before(cursor, bytes(found, sizeof found), &key, &value);
    }
    if (code != ERR_OK && code != ERR_NOT_FOUND) {
        return code;
    }
    *count_out = count;
    if (refused_out != NULL) {
        *refused_out = refused;
    }
    return ERR_OK;
}

enum err state_table_each_head(struct state_txn *txn, const uint8_t *conversation,
                               enum err (*visit)(void *context, const struct record_head *head),
                               void *context) {
    struct state_cursor *cursor CLEANUP(close_cursor) = NULL;
    TRY(state_env_cursor_open(txn, STATE_HEADS, &cursor));
    struct record_head_key from = {.kind = RECORD_PROMPT_END};
    memcpy(from.conversation, conversation, RECORD_CONVERSATION_BYTES);
    uint8_t encoded[RECORD_HEAD_KEY_BYTES];
    record_head_key_encode(&from, encoded);
    struct state_bytes key;
    struct state_bytes value;
    enum err code = state_env_seek(cursor, bytes(encoded, sizeof encoded), &key, &value);
    while (code == ERR_OK && record_head_key_matches(key.data, key.len, &from, 0)) {
        struct record_head head;
        if (record_head_decode(key.data, key.len, value.data, value.len, &head) == ERR_OK) {
            TRY(visit(context, &head));
        }
        code = state_env_next(cursor, &key, &value);
    }
    return code == ERR_NOT_FOUND ? ERR_OK : code;
}

enum err state_table_remove_heads(struct state_txn *txn, const uint8_t *conversation) {
    struct state_cursor *cursor CLEANUP(close_cursor) = NULL;
    TRY(state_env_cursor_open(txn, STATE_HEADS, &cursor));
    struct record_head_key from = {.kind = RECORD_PROMPT_END};
    memcpy(from.conversation, conversation, RECORD_CONVERSATION_BYTES);
    uint8_t encoded[RECORD_HEAD_KEY_BYTES];
    record_head_key_encode(&from, encoded);
    encoded[8] = 0; /* before any kind, also before one that this build does not know */
    struct state_bytes key;
    struct state_bytes value;
    enum err code = state_env_seek(cursor, bytes(encoded, sizeof encoded), &key, &value);
    while (code == ERR_OK && record_head_key_matches(key.data, key.len, &from, 0)) {
        TRY(state_env_remove_at(cursor));
        code = state_env_next(cursor, &key, &value);
    }
    return code == ERR_NOT_FOUND ? ERR_OK : code;
}

/* --- lineages -------------------------------------------------------------------------- */

enum err state_table_get_lineage(struct state_txn *txn, uint64_t lineage,
                                 struct record_lineage *out) {
    uint8_t key[RECORD_LINEAGE_KEY_BYTES];
    record_lineage_key_encode(lineage, key);
    struct state_bytes value;
    TRY(state_env_get(txn, STATE_LINEAGES, bytes(key, sizeof key), &value));
    return record_lineage_decode(key, sizeof key, value.data, value.len, out);
}

static void encode_owner(const uint8_t *conversation, uint64_t lineage,
                         uint8_t out[RECORD_OWNER_KEY_BYTES]) {
    struct record_owner_key owner = {.lineage = lineage};
    memcpy(owner.conversation, conversation, RECORD_CONVERSATION_BYTES);
    record_owner_key_encode(&owner, out);
}

enum err state_table_put_lineage(struct state_txn *txn, const struct record_lineage *lineage,
                                 int is_new) {
    uint8_t key[RECORD_LINEAGE_KEY_BYTES];
    uint8_t record[RECORD_LINEAGE_BYTES];
    record_lineage_key_encode(lineage->id, key);
    record_lineage_encode(lineage, record);
    TRY(state_env_put(txn, STATE_LINEAGES, bytes(key, sizeof key), bytes(record, sizeof record)));
    if (!is_new) {
        return ERR_OK;
    }
    uint8_t owner[RECORD_OWNER_KEY_BYTES];
    encode_owner(lineage->conversation, lineage->id, owner);
    TRY(state_env_put(txn, STATE_LINKS, bytes(owner, sizeof owner), bytes("", 0)));
    if (lineage->parent == 0) {
        return ERR_OK;
    }
    uint8_t child[RECORD_CHILD_KEY_BYTES];
    record_child_key_encode(
        &(struct record_child_key){.parent = lineage->parent, .child = lineage->id}, child);
    return state_env_put(txn, STATE_LINKS, bytes(child, sizeof child), bytes("", 0));
}

enum err state_table_remove_owner(struct state_txn *txn, const uint8_t *conversation,
                                  uint64_t lineage) {
    uint8_t owner[RECORD_OWNER_KEY_BYTES];
    encode_owner(conversation, lineage, owner);
    return state_env_remove(txn, STATE_LINKS, bytes(owner, sizeof owner));
}

enum err state_table_remove_lineage(struct state_txn *txn, const struct record_lineage *lineage) {
    uint8_t key[RECORD_LINEAGE_KEY_BYTES];
    record_lineage_key_encode(lineage->id, key);
    TRY(state_env_remove(txn, STATE_LINEAGES, bytes(key, sizeof key)));
    TRY(state_table_remove_owner(txn, lineage->conversation, lineage->id));
    uint8_t child[RECORD_CHILD_KEY_BYTES];
    record_child_key_encode(
        &(struct record_child_key){.parent = lineage->parent, .child = lineage->id}, child);
    return state_env_remove(txn, STATE_LINKS, bytes(child, sizeof child));
}

enum err state_table_next_owned(struct state_txn *txn, const uint8_t *conversation, uint64_t from,
                                uint64_t *lineage_out) {
    struct state_cursor *cursor CLEANUP(close_cursor) = NULL;
    TRY(state_env_cursor_open(txn, STATE_LINKS, &cursor));
    uint8_t encoded[RECORD_OWNER_KEY_BYTES];
    encode_owner(conversation, from, encoded);
    struct state_bytes key;
    struct state_bytes value;
    TRY(state_env_seek(cursor, bytes(encoded, sizeof encoded), &key, &value));
    struct record_owner_key owner;
    if (record_owner_key_decode(key.data, key.len, &owner) != ERR_OK ||
        memcmp(owner.conversation, conversation, RECORD_CONVERSATION_BYTES) != 0) {
        return err_fail(ERR_NOT_FOUND, "state: the conversation owns no more lineages");
    }
    *lineage_out = owner.lineage;
    return ERR_OK;
}

enum err state_table_children(struct state_txn *txn, uint64_t lineage, uint64_t *child_count_out,
                              uint64_t *covered_out) {
    struct state_cursor *cursor CLEANUP(close_cursor) = NULL;
    TRY(state_env_cursor_open(txn, STATE_LINKS, &cursor));
    uint8_t encoded[RECORD_CHILD_KEY_BYTES];
    record_child_key_encode(&(struct record_child_key){.parent = lineage}, encoded);
    uint64_t count = 0;
    uint64_t covered = 0;
    struct state_bytes key;
    struct state_bytes value;
    enum err code = state_env_seek(cursor, bytes(encoded, sizeof encoded), &key, &value);
    while (code == ERR_OK) {
        struct record_child_key link;
        if (record_child_key_decode(key.data, key.len, &link) != ERR_OK || link.parent != lineage) {
            break;
        }
        struct record_lineage child;
        code = state_table_get_lineage(txn, link.child, &child);
        if (code == ERR_OK) {
            count++;
            covered = child.first_block > covered ? child.first_block : covered;
        } else if (code == ERR_CORRUPT || code == ERR_FORMAT || code == ERR_UNSUPPORTED) {
            /* What an unreadable child needs is unknown: all of the parent stays. */
            count++;
            covered = UINT64_MAX;
        } else if (code != ERR_NOT_FOUND) {
            return code;
        }
        code = state_env_next(cursor, &key, &value);
    }
    if (code != ERR_OK && code != ERR_NOT_FOUND) {
        return code;
    }
    *child_count_out = count;
    *covered_out = covered;
    return ERR_OK;
}
