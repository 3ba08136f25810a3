#include "tools/store_view.h"

#include "store/state_table.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum {
    PATH_BYTES = 4096,
    LIST_AT_ONCE = 64,
    HEADS_MAX = 1 << 16, /* of one conversation: it has a few a model */
};

static enum err join(char out[PATH_BYTES], const char *directory, const char *name) {
    int len = snprintf(out, PATH_BYTES, "%s/%s", directory, name);
    if (len < 0 || len >= PATH_BYTES) {
        return err_fail(ERR_INVALID, "path %.64s... is too long", directory);
    }
    return ERR_OK;
}

static int exists(const char *path) {
    struct stat status;
    return stat(path, &status) == 0;
}

enum err store_view_open(const char *directory, struct store_view *out) {
    char path[PATH_BYTES];
    struct store_view view = {.directory = directory};
    TRY(join(path, directory, "ledger/data.mdb"));
    if (!exists(path)) {
        return err_fail(ERR_NOT_FOUND, "%s is no store: there is no ledger in it", directory);
    }
    TRY(join(path, directory, "ledger"));
    TRY(ledger_open(&(struct ledger_config){.directory = path, .is_read_only = 1}, &view.ledger));
    enum err code = join(path, directory, "state");
    if (code == ERR_OK) {
        code =
            state_env_open(&(struct state_env_config){.dir = path, .is_read_only = 1}, &view.state);
        code = code == ERR_NOT_FOUND ? ERR_OK : code; /* state is a cache: it may be gone */
    }
    if (code != ERR_OK) {
        store_view_close(&view);
        return code;
    }
    *out = view;
    return ERR_OK;
}

void store_view_close(struct store_view *view) {
    ledger_close(view->ledger);
    state_env_close(view->state);
    *view = (struct store_view){0};
}

struct conversation_identity store_view_identity(const char *tenant, const char *salt,
                                                 const char *id) {
    struct conversation_identity identity = {
        .tenant = tenant != NULL ? tenant : "",
        .salt = salt != NULL ? salt : "",
        .id = id != NULL ? id : "",
    };
    identity.tenant_bytes = strlen(identity.tenant);
    identity.salt_bytes = strlen(identity.salt);
    identity.id_bytes = strlen(identity.id);
    return identity;
}

enum err store_view_find(const struct store_view *view,
                         const struct conversation_identity *identity,
                         struct conversation_record *out) {
    struct secret secret CLEANUP(secret_done) = {{0}};
    struct conversation_key key;
    TRY(secret_load(view->directory, 0, &secret));
    TRY(conversation_key_make(&secret, identity, &key));
    enum err code = ledger_conversation_read(view->ledger, &key, out);
    if (code == ERR_NOT_FOUND) {
        return err_fail(ERR_NOT_FOUND,
                        "%s holds no conversation '%.*s' with the salt '%.*s' and the tenant "
                        "'%.*s'",
                        view->directory, (int)identity->id_bytes, identity->id,
                        (int)identity->salt_bytes, identity->salt, (int)identity->tenant_bytes,
                        identity->tenant);
    }
    return code;
}

enum err store_view_each_conversation(
    const struct store_view *view,
    enum err (*visit)(void *context, const struct conversation_record *conversation), void *context,
    uint64_t *skipped_out) {
    struct conversation_record records[LIST_AT_ONCE];
    struct conversation_key last;
    const struct conversation_key *after = NULL;
    uint64_t skipped = 0;
    size_t count = LIST_AT_ONCE;
    while (count == LIST_AT_ONCE) {
        size_t unreadable;
        TRY(ledger_conversations_list(view->ledger, after, LIST_AT_ONCE, records, &count,
                                      &unreadable));
        skipped += unreadable;
        enum err code = ERR_OK;
        for (size_t i = 0; i < count; i++) {
            code = code == ERR_OK ? visit(context, &records[i]) : code;
            last = records[i].key;
            turn_record_conversation_done(&records[i]);
        }
        TRY(code);
        after = &last;
    }
    *skipped_out = skipped;
    return ERR_OK;
}

struct head_list {
    struct record_head *heads;
    size_t count;
    size_t capacity;
};

static enum err note_head(void *context, const struct record_head *head) {
    struct head_list *list = context;
    if (list->count == HEADS_MAX) {
        return err_fail(ERR_FULL, "the conversation has more than %d heads", HEADS_MAX);
    }
    if (list->count == list->capacity) {
        size_t capacity = list->capacity > 0 ? 2 * list->capacity : 16;
        struct record_head *heads = realloc(list->heads, capacity * sizeof *heads);
        if (heads == NULL) {
            return err_fail(ERR_NOMEM, "no memory for %zu heads", capacity);
        }
        list->heads = heads;
        list->capacity = capacity;
    }
    list->heads[list->count++] = *head;
    return ERR_OK;
}

enum err store_view_heads(const struct store_view *view,
                          const struct conversation_record *conversation,
                          struct record_head **heads_out, size_t *count_out) {
    uint8_t state_key[STATE_KEY_BYTES];
    struct head_list list = {0};
    struct state_txn *txn;
    state_key_make(&conversation->key, conversation->serial, state_key);
    if (view->state != NULL) {
        TRY(state_env_begin_read(view->state, &txn));
        enum err code = state_table_each_head(txn, state_key, note_head, &list);
        state_env_abort(txn);
        if (code != ERR_OK && code != ERR_NOT_FOUND) {
            free(list.heads);
            return code;
        }
    }
    *heads_out = list.heads;
    *count_out = list.count;
    return ERR_OK;
}
