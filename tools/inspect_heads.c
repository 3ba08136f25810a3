#include "tools/inspect_heads.h"

#include "store/head_census.h"
#include "store/state_walk.h"

#include <stdlib.h>
#include <string.h>

/* --- which conversation a head belongs to -------------------------------------------------- */

struct name_entry {
    uint8_t state_key[STATE_KEY_BYTES];
    json_t *id;
    json_t *salt;
};

struct name_table {
    struct name_entry *entries; /* sorted by key once all are in */
    size_t count;
    size_t capacity;
};

static void name_table_done(struct name_table *names) {
    for (size_t i = 0; i < names->count; i++) {
        json_decref(names->entries[i].id);
        json_decref(names->entries[i].salt);
    }
    free(names->entries);
}

static enum err add_name(void *context, const struct conversation_record *conversation) {
    struct name_table *names = context;
    if (names->count == names->capacity) {
        size_t capacity = names->capacity > 0 ? 2 * names->capacity : 64;
        struct name_entry *entries = realloc(names->entries, capacity * sizeof *entries);
        if (entries == NULL) {
            return err_fail(ERR_NOMEM, "no memory for the names of %zu conversations", capacity);
        }
        names->entries = entries;
        names->capacity = capacity;
    }
    const struct conversation_identity *identity = &conversation->identity;
    struct name_entry *entry = &names->entries[names->count++];
    state_key_make(&conversation->key, conversation->serial, entry->state_key);
    entry->id = listing_text(identity->id, identity->id_bytes);
    entry->salt = listing_text(identity->salt, identity->salt_bytes);
    return entry->id != NULL && entry->salt != NULL ? ERR_OK
                                                    : err_fail(ERR_NOMEM, "no memory for a name");
}

static int compare_names(const void *left, const void *right) {
    return memcmp(left, right, STATE_KEY_BYTES); /* the key is the first member */
}

static enum err name_table_fill(const struct store_view *view,
                                const struct conversation_record *conversation,
                                struct name_table *names) {
    uint64_t skipped;
    if (conversation != NULL) {
        return add_name(names, conversation);
    }
    TRY(store_view_each_conversation(view, add_name, names, &skipped));
    qsort(names->entries, names->count, sizeof *names->entries, compare_names);
    return ERR_OK;
}

static const struct name_entry *find_name(const struct name_table *names,
                                          const uint8_t state_key[STATE_KEY_BYTES]) {
    return names->count == 0 ? NULL
                             : bsearch(state_key, names->entries, names->count,
                                       sizeof *names->entries, compare_names);
}

/* --- heads --------------------------------------------------------------------------------- */

static const struct listing_column head_columns[] = {
    {"conversation", "conversation", -24, LISTING_PLAIN},
    {"kind", "kind", -10, LISTING_PLAIN},
    {"turn", "turn", 5, LISTING_PLAIN},
    {"length", "tokens", 8, LISTING_PLAIN},
    {"tier", "tier", -5, LISTING_PLAIN},
    {"lineage", "lineage", 8, LISTING_PLAIN},
    {"blocks", "blocks", 7, LISTING_PLAIN},
    {"raw_bytes", "raw", 10, LISTING_BYTES},
    {"coded_bytes", "coded", 10, LISTING_BYTES},
    {"is_complete", "complete", 8, LISTING_PLAIN},
    {"state_digest", "state digest", -12, LISTING_DIGEST},
    {"numerics_class", "numerics", -12, LISTING_PLAIN},
    {"used_ms", "used", -20, LISTING_TIME},
    {"hits", "hits", 5, LISTING_PLAIN},
};

struct head_listing {
    const struct store_view *view;
    struct listing *listing;
    struct name_table names;
};

static void destroy_plan(struct head_plan **plan) {
    head_plan_destroy(*plan);
}

/* What is there of HEAD; *is_complete is 0 where its blocks can't be found. */
static enum err take_census(struct state_env *env, const struct record_head *head,
                            struct head_census *census, int *is_complete) {
    struct head_plan *plan CLEANUP(destroy_plan) = NULL;
    enum err code = head_plan_create(env, head, &plan);
    if (code == ERR_NOT_FOUND || code == ERR_CORRUPT) {
        *is_complete = 0;
        return ERR_OK;
    }
    TRY(code);
    TRY(head_census_count(env, plan, census));
    *is_complete = census->objects_missing == 0;
    return ERR_OK;
}

static enum err list_head(void *context, const struct record_head *head) {
    struct head_listing *heads = context;
    struct head_census census = {0};
    int is_complete = 0;
    if (listing_is_full(heads->listing)) {
        return ERR_CANCELLED;
    }
    TRY(take_census(heads->view->state, head, &census, &is_complete));
    const struct name_entry *name = find_name(&heads->names, head->key.conversation);
    json_t *row = json_pack(
        "{s:O?, s:O?, s:s, s:o, s:o, s:s, s:o, s:o, s:I, s:I, s:o, s:o, s:o, s:o, s:o, s:b}",
        "conversation", name != NULL ? name->id : NULL, "salt", name != NULL ? name->salt : NULL,
        "kind", head->key.kind == RECORD_TURN_END ? "turn-end" : "prompt-end", "turn",
        listing_number(head->key.turn), "length", listing_number(head->length), "tier", "disk",
        "lineage", listing_number(head->lineage), "blocks", listing_number(head->block_count),
        "block_size", (json_int_t)head->block_size, "tail_tokens", (json_int_t)head->tail_tokens,
        "raw_bytes", listing_number(census.raw_bytes), "coded_bytes",
        listing_number(census.coded_bytes), "stored_bytes", listing_number(census.stored_bytes),
        "objects", listing_number(census.objects), "objects_missing",
        listing_number(census.objects_missing), "is_complete", is_complete);
    json_t *rest = json_pack(
        "{s:o, s:o, s:o, s:s, s:o, s:o, s:o, s:o, s:b}", "state_key",
        listing_digest(head->key.conversation, sizeof head->key.conversation), "state_digest",
        listing_digest(head->key.state_digest, sizeof head->key.state_digest), "chain_digest",
        listing_digest(head->chain_digest, sizeof head->chain_digest), "numerics_class",
        head->numerics_class, "created_ms", listing_number(head->created_ms), "used_ms",
        listing_number(head->used_ms), "hits", listing_number(head->hits), "expires_ms",
        listing_number(head->expires_ms), "is_pinned", (head->flags & RECORD_HEAD_PINNED) != 0);
    if (row == NULL || rest == NULL || json_object_update(row, rest) != 0) {
        json_decref(row);
        row = NULL;
    }
    json_decref(rest);
    return listing_row(heads->listing, row);
}

static enum err list_heads_of(struct head_listing *heads,
                              const struct conversation_record *conversation) {
    struct record_head *list CLEANUP(object_free) = NULL;
    size_t count = 0;
    TRY(store_view_heads(heads->view, conversation, &list, &count));
    for (size_t i = 0; i < count; i++) {
        TRY(list_head(heads, &list[i]));
    }
    return ERR_OK;
}

enum err inspect_heads_list(const struct store_view *view,
                            const struct conversation_record *conversation,
                            struct listing *listing) {
    struct head_listing heads = {.view = view, .listing = listing};
    uint64_t refused;
    listing_section(listing, "heads", head_columns, ARRAY_LEN(head_columns));
    if (view->state == NULL) {
        return ERR_OK;
    }
    enum err code = name_table_fill(view, conversation, &heads.names);
    if (code == ERR_OK && conversation != NULL) {
        code = list_heads_of(&heads, conversation);
    } else if (code == ERR_OK) {
        code = state_walk_each_head(view->state, list_head, &heads, &refused);
    }
    name_table_done(&heads.names);
    return code == ERR_CANCELLED ? ERR_OK : code; /* the list is as long as it may be */
}
