#include "tools/inspect_objects.h"

#include "store/head_plan.h"
#include "store/state_table.h"
#include "store/state_walk.h"

#include <stdlib.h>
#include <string.h>

static void destroy_plan(struct head_plan **plan) {
    head_plan_destroy(*plan);
}

static void end_txn(struct state_txn **txn) {
    state_env_abort(*txn);
}

static const struct listing_column object_columns[] = {
    {"part", "part", -12, LISTING_PLAIN},           {"lineage", "lineage", 8, LISTING_PLAIN},
    {"index", "index", 8, LISTING_PLAIN},           {"runs", "runs", 6, LISTING_PLAIN},
    {"raw_bytes", "raw", 10, LISTING_BYTES},        {"coded_bytes", "coded", 10, LISTING_BYTES},
    {"stored_bytes", "on disk", 10, LISTING_BYTES}, {"codec", "codec", -8, LISTING_PLAIN},
    {"element", "element", -8, LISTING_PLAIN},      {"verdict", "header", -10, LISTING_PLAIN},
};

static const char *part_name(enum record_part part) {
    static const char *const names[RECORD_PART_COUNT] = {
        [RECORD_BLOCK] = "block",
        [RECORD_TAIL] = "tail",
        [RECORD_STATE] = "state",
        [RECORD_PROMPT_TAIL] = "prompt-tail",
        [RECORD_PROMPT_STATE] = "prompt-state",
    };
    return names[part];
}

static const char *element_name(enum codec_element element) {
    static const char *const names[CODEC_ELEMENT_COUNT] = {
        [CODEC_BYTES] = "bytes", [CODEC_F32] = "f32", [CODEC_F16] = "f16", [CODEC_BF16] = "bf16"};
    return names[element];
}

static enum err list_object(void *context, const struct state_walk_object *object) {
    struct listing *listing = context;
    if (listing_is_full(listing)) {
        return ERR_CANCELLED;
    }
    int is_sound = object->verdict == OBJECT_SOUND;
    return listing_row(listing, json_pack("{s:s, s:o, s:o, s:I, s:o, s:o, s:o, s:s?, s:s?, s:s}",
                                          "part", part_name(object->key.part), "lineage",
                                          listing_number(object->key.lineage), "index",
                                          listing_number(object->key.index), "runs",
                                          (json_int_t)object->runs, "raw_bytes",
                                          listing_number(object->info.raw_bytes), "coded_bytes",
                                          listing_number(object->info.coded_bytes), "stored_bytes",
                                          listing_number(object->stored_bytes), "codec",
                                          is_sound ? object->info.codec : NULL, "element",
                                          is_sound ? element_name(object->info.element) : NULL,
                                          "verdict", coded_object_verdict_name(object->verdict)));
}

/* Lineages in ascending order, each once. */
struct lineage_set {
    uint64_t *ids;
    size_t count;
};

enum { LINEAGES_MAX = 4 * HEAD_PLAN_LINEAGES_MAX };

static enum err add_lineage(struct lineage_set *set, uint64_t lineage) {
    size_t at = 0;
    while (at < set->count && set->ids[at] < lineage) {
        at++;
    }
    if (at < set->count && set->ids[at] == lineage) {
        return ERR_OK;
    }
    if (set->count == LINEAGES_MAX) {
        return err_fail(ERR_FULL, "the conversation has more than %d lineages", LINEAGES_MAX);
    }
    memmove(set->ids + at + 1, set->ids + at, (set->count - at) * sizeof *set->ids);
    set->ids[at] = lineage;
    set->count++;
    return ERR_OK;
}

static enum err add_lineages_of_head(struct state_env *env, const struct record_head *head,
                                     struct lineage_set *set) {
    struct head_plan *plan CLEANUP(destroy_plan) = NULL;
    enum err code = head_plan_create(env, head, &plan);
    if (code == ERR_NOT_FOUND || code == ERR_CORRUPT) {
        return add_lineage(set, head->lineage);
    }
    TRY(code);
    for (size_t i = 0; i < plan->span_count; i++) {
        TRY(add_lineage(set, plan->spans[i].lineage));
    }
    return ERR_OK;
}

static enum err add_owned_lineages(const struct store_view *view,
                                   const struct conversation_record *conversation,
                                   struct lineage_set *set) {
    uint8_t state_key[STATE_KEY_BYTES];
    struct state_txn *txn CLEANUP(end_txn) = NULL;
    state_key_make(&conversation->key, conversation->serial, state_key);
    TRY(state_env_begin_read(view->state, &txn));
    uint64_t lineage = 0;
    enum err code;
    while ((code = state_table_next_owned(txn, state_key, lineage, &lineage)) == ERR_OK) {
        TRY(add_lineage(set, lineage));
        lineage++;
    }
    return code == ERR_NOT_FOUND ? ERR_OK : code;
}

static enum err list_objects_of(const struct store_view *view,
                                const struct conversation_record *conversation,
                                struct lineage_set *set, struct listing *listing) {
    struct record_head *heads CLEANUP(object_free) = NULL;
    size_t count = 0;
    uint64_t refused;
    TRY(add_owned_lineages(view, conversation, set));
    TRY(store_view_heads(view, conversation, &heads, &count));
    for (size_t i = 0; i < count; i++) {
        TRY(add_lineages_of_head(view->state, &heads[i], set));
    }
    for (size_t i = 0; i < set->count; i++) {
        TRY(state_walk_each_object(view->state, set->ids[i], list_object, listing, &refused));
    }
    return ERR_OK;
}

static enum err list(const struct store_view *view, const struct conversation_record *conversation,
                     struct listing *listing) {
    uint64_t refused;
    if (conversation == NULL) {
        return state_walk_each_object(view->state, 0, list_object, listing, &refused);
    }
    struct lineage_set set = {.ids = calloc(LINEAGES_MAX, sizeof *set.ids)};
    if (set.ids == NULL) {
        return err_fail(ERR_NOMEM, "no memory for lineages");
    }
    enum err code = list_objects_of(view, conversation, &set, listing);
    free(set.ids);
    return code;
}

enum err inspect_objects_list(const struct store_view *view,
                              const struct conversation_record *conversation,
                              struct listing *listing) {
    listing_section(listing, "objects", object_columns, ARRAY_LEN(object_columns));
    if (view->state == NULL) {
        return ERR_OK;
    }
    enum err code = list(view, conversation, listing);
    return code == ERR_CANCELLED ? ERR_OK : code; /* the list is as long as it may be */
}
