/*
 * I1. A head that is there has all its objects in the same transaction (spiller.c, I2), and each
 *     object is needed by a head, lies below a child's first block, or is listed as garbage
 *     (state_drop.c, I1; spiller.c, I3). So every judgement reads both sides in one transaction.
 * I2. A head is known again by lineage and time of making: a record that was written anew under
 *     the same key is another head, with objects of its own.
 * I3. Findings are told, and objects decoded, with no transaction open.
 */
#include "store/state_audit.h"

#include "base/now.h"
#include "store/audit_object.h"
#include "store/head_plan.h"
#include "store/state_table.h"
#include "store/state_walk.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct audit {
    struct state_env *env;
    const struct state_audit_options *options;
    struct state_audit_report report;
    struct audit_object *object;
    uint64_t *lineages; /* with options->only: those that it needs, ascending */
    size_t lineage_count;
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

static void destroy_plan(struct head_plan **plan) {
    head_plan_destroy(*plan);
}

static int is_refused(enum err code) {
    return code == ERR_CORRUPT || code == ERR_FORMAT || code == ERR_UNSUPPORTED;
}

static const char *refusal(enum err code) {
    return code == ERR_UNSUPPORTED ? "newer" : "damaged";
}

PRINTF_LIKE(2, 3)
static void describe(struct state_audit_finding *finding, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(finding->detail, sizeof finding->detail, format, arguments);
    va_end(arguments);
}

static void set_conversation(struct state_audit_finding *finding, const uint8_t *conversation) {
    static const uint8_t zeros[RECORD_CONVERSATION_BYTES];
    finding->has_conversation = memcmp(conversation, zeros, sizeof zeros) != 0;
    memcpy(finding->conversation, conversation, sizeof finding->conversation);
}

static enum err tell(const struct audit *audit, const struct state_audit_finding *finding) {
    return finding->verdict != NULL ? audit->options->found(audit->options->context, finding)
                                    : ERR_OK;
}

/* --- entries, each in a transaction of its own --------------------------------------------------
 */

struct entries {
    enum state_db db;
    uint8_t last[RECORD_KEY_BYTES_MAX];
    size_t last_len; /* 0 before the first */
};

/* The entry behind the last one; ERR_NOT_FOUND at the end. */
static enum err next_entry(struct entries *entries, struct state_txn *txn, struct state_bytes *key,
                           struct state_bytes *value) {
    struct state_cursor *cursor CLEANUP(close_cursor) = NULL;
    TRY(state_env_cursor_open(txn, entries->db, &cursor));
    if (entries->last_len == 0) {
        TRY(state_env_first(cursor, key, value));
    } else {
        TRY(state_env_seek(cursor, bytes(entries->last, entries->last_len), key, value));
        if (key->len == entries->last_len && memcmp(key->data, entries->last, key->len) == 0) {
            TRY(state_env_next(cursor, key, value));
        }
    }
    if (key->len > sizeof entries->last) {
        return err_fail(ERR_CORRUPT, "state: a key of %zu bytes", key->len);
    }
    memcpy(entries->last, key->data, key->len);
    entries->last_len = key->len;
    return ERR_OK;
}

/* Judges one entry inside TXN and sets the finding's verdict if something is wrong. */
typedef enum err judge_fn(struct audit *audit, struct state_txn *txn, struct state_bytes key,
                          struct state_bytes value, struct state_audit_finding *finding);

static enum err judge_next(struct audit *audit, struct entries *entries, judge_fn *judge,
                           struct state_audit_finding *finding) {
    struct state_txn *txn CLEANUP(end_txn) = NULL;
    struct state_bytes key;
    struct state_bytes value;
    TRY(state_env_begin_read(audit->env, &txn));
    TRY(next_entry(entries, txn, &key, &value));
    audit->report.bytes += key.len + value.len;
    enum err code = judge(audit, txn, key, value, finding);
    return code == ERR_NOT_FOUND ? err_context(ERR_CORRUPT, "state") : code;
}

static enum err judge_all(struct audit *audit, enum state_db db, judge_fn *judge) {
    struct entries entries = {.db = db};
    for (;;) {
        struct state_audit_finding finding = {0};
        enum err code = judge_next(audit, &entries, judge, &finding);
        if (code == ERR_NOT_FOUND) {
            return ERR_OK;
        }
        TRY(code);
        TRY(tell(audit, &finding)); /* I3 */
    }
}

/* --- the lineages of one conversation ------------------------------------------------------------
 */

static enum err add_lineage(struct audit *audit, uint64_t lineage) {
    size_t at = 0;
    while (at < audit->lineage_count && audit->lineages[at] < lineage) {
        at++;
    }
    if (audit->lineages == NULL || (at < audit->lineage_count && audit->lineages[at] == lineage)) {
        return ERR_OK;
    }
    if (audit->lineage_count == STATE_AUDIT_LINEAGES_MAX) {
        return err_fail(ERR_FULL, "the conversation has more than %d lineages",
                        STATE_AUDIT_LINEAGES_MAX);
    }
    memmove(audit->lineages + at + 1, audit->lineages + at,
            (audit->lineage_count - at) * sizeof *audit->lineages);
    audit->lineages[at] = lineage;
    audit->lineage_count++;
    return ERR_OK;
}

static enum err add_owned_lineages(struct audit *audit) {
    struct state_txn *txn CLEANUP(end_txn) = NULL;
    uint64_t lineage = 0;
    enum err code;
    TRY(state_env_begin_read(audit->env, &txn));
    while ((code = state_table_next_owned(txn, audit->options->only, lineage, &lineage)) ==
           ERR_OK) {
        TRY(add_lineage(audit, lineage));
        lineage++;
    }
    return code == ERR_NOT_FOUND ? ERR_OK : code;
}

/* --- heads
 * ---------------------------------------------------------------------------------------- */

/* Whether HEAD is still there (I2). */
static enum err is_still_there(struct state_txn *txn, const struct record_head *head, int *out) {
    struct record_head now;
    enum err code = state_table_get_head(txn, &head->key, &now);
    *out = code == ERR_OK && now.lineage == head->lineage && now.created_ms == head->created_ms;
    return code == ERR_NOT_FOUND || is_refused(code) ? ERR_OK : code;
}

static enum err plan_head(struct audit *audit, const struct record_head *head,
                          struct head_plan **plan, struct state_audit_finding *finding) {
    struct state_txn *txn CLEANUP(end_txn) = NULL;
    int is_there;
    TRY(state_env_begin_read(audit->env, &txn));
    TRY(is_still_there(txn, head, &is_there));
    if (!is_there) {
        return ERR_OK;
    }
    enum err code = head_plan_create_in(txn, head, plan);
    if (code == ERR_NOT_FOUND || code == ERR_CORRUPT) {
        finding->verdict = "uncovered";
        describe(finding, "lineage %" PRIu64 ": %s", head->lineage, err_message());
        return ERR_OK;
    }
    return code;
}

/* The objects of a head in order: blocks, tail, state. */
static int object_of(const struct head_plan *plan, uint64_t index, struct record_object_key *key,
                     int *is_state) {
    const struct record_head *head = &plan->head;
    uint64_t blocks = head->block_bytes > 0 ? head->block_count : 0;
    uint64_t tails = head->tail_coded_bytes != 0;
    *is_state = 0;
    if (index < blocks) {
        *key = head_plan_block(plan, index);
    } else if (index < blocks + tails) {
        *key = head_plan_tail(plan);
    } else if (index == blocks + tails && head->state_coded_bytes != 0) {
        *key = head_plan_state(plan);
        *is_state = 1;
    } else {
        return 0;
    }
    return 1;
}

/* Looks at the header of an object; the object itself is decoded once, in its own turn. */
static enum err judge_header(struct state_txn *txn, const struct record_head *head,
                             const struct record_object_key *key, int is_state,
                             struct state_audit_finding *finding) {
    uint8_t encoded[RECORD_RUN_KEY_BYTES];
    struct state_bytes value;
    struct object_info info;
    record_run_key_encode(key, 0, encoded);
    enum err code = state_env_get(txn, STATE_OBJECTS, bytes(encoded, sizeof encoded), &value);
    if (code != ERR_OK && code != ERR_NOT_FOUND) {
        return code;
    }
    finding->record = "object";
    finding->has_object = 1;
    finding->object = *key;
    if (code == ERR_NOT_FOUND) {
        finding->verdict = "missing";
        describe(finding, "the head of turn %" PRIu64 " needs it", head->key.turn);
    } else if (coded_object_inspect(value.data, value.len, &info) == OBJECT_SOUND &&
               (info.raw_bytes != (is_state ? head->state_bytes : head->block_bytes) ||
                (uint32_t)info.element != (is_state ? head->state_element : head->block_element))) {
        finding->verdict = "wrong-size";
        describe(finding, "%" PRIu64 " raw bytes, the head of turn %" PRIu64 " says %" PRIu64,
                 info.raw_bytes, head->key.turn, is_state ? head->state_bytes : head->block_bytes);
    }
    return ERR_OK;
}

/* Goes on from *NEXT until something is wrong, time is up, or all are seen; then *NEXT is 0. */
static enum err judge_headers(struct audit *audit, const struct head_plan *plan, uint64_t *next,
                              struct state_audit_finding *finding) {
    struct state_txn *txn CLEANUP(end_txn) = NULL;
    struct record_object_key key;
    uint64_t start_ms = now_monotonic_ms();
    int is_there;
    int is_state;
    TRY(state_env_begin_read(audit->env, &txn));
    TRY(is_still_there(txn, &plan->head, &is_there));
    while (is_there && object_of(plan, *next, &key, &is_state)) {
        ++*next;
        TRY(judge_header(txn, &plan->head, &key, is_state, finding));
        if (finding->verdict != NULL || now_monotonic_ms() - start_ms >= STATE_WALK_RENEW_MS) {
            return ERR_OK;
        }
    }
    *next = 0;
    return ERR_OK;
}

static enum err audit_head(struct audit *audit, const struct record_head *head) {
    struct head_plan *plan CLEANUP(destroy_plan) = NULL;
    struct state_audit_finding finding = {.record = "head", .turn = head->key.turn};
    set_conversation(&finding, head->key.conversation);
    if (audit->options->head != NULL) {
        TRY(audit->options->head(audit->options->context, head));
    }
    TRY(plan_head(audit, head, &plan, &finding));
    TRY(tell(audit, &finding));
    if (plan == NULL) {
        return ERR_OK;
    }
    for (size_t i = 0; i < plan->span_count; i++) {
        TRY(add_lineage(audit, plan->spans[i].lineage));
    }
    uint64_t next = 0;
    do {
        finding.verdict = NULL;
        TRY(judge_headers(audit, plan, &next, &finding));
        TRY(tell(audit, &finding));
    } while (next != 0);
    return ERR_OK;
}

static enum err next_head(struct audit *audit, struct entries *entries, struct record_head *head,
                          int *is_sound, struct state_audit_finding *finding) {
    struct state_txn *txn CLEANUP(end_txn) = NULL;
    struct state_bytes key;
    struct state_bytes value;
    struct record_head_key name;
    TRY(state_env_begin_read(audit->env, &txn));
    TRY(next_entry(entries, txn, &key, &value));
    const uint8_t *only = audit->options->only;
    int has_name = record_head_key_decode(key.data, key.len, &name) == ERR_OK;
    *is_sound = 0;
    if (only != NULL &&
        (!has_name || memcmp(name.conversation, only, RECORD_CONVERSATION_BYTES) != 0)) {
        return ERR_OK;
    }
    audit->report.heads++;
    audit->report.bytes += key.len + value.len;
    enum err code = record_head_decode(key.data, key.len, value.data, value.len, head);
    *is_sound = code == ERR_OK;
    if (code != ERR_OK) {
        *finding = (struct state_audit_finding){.record = "head", .verdict = refusal(code)};
        describe(finding, "%s", err_message());
        if (has_name) {
            set_conversation(finding, name.conversation);
            finding->turn = name.turn;
        }
    }
    return ERR_OK;
}

static enum err audit_heads(struct audit *audit) {
    struct entries entries = {.db = STATE_HEADS};
    for (;;) {
        struct state_audit_finding finding = {0};
        struct record_head head;
        int is_sound = 0;
        enum err code = next_head(audit, &entries, &head, &is_sound, &finding);
        if (code == ERR_NOT_FOUND) {
            return ERR_OK;
        }
        TRY(code);
        TRY(tell(audit, &finding));
        if (is_sound) {
            TRY(audit_head(audit, &head));
        }
    }
}

/* --- lineages and links
 * ---------------------------------------------------------------------------- */

static int is_wanted(const struct audit *audit, uint64_t lineage) {
    if (audit->lineages == NULL) {
        return 1;
    }
    for (size_t i = 0; i < audit->lineage_count; i++) {
        if (audit->lineages[i] == lineage) {
            return 1;
        }
    }
    return 0;
}

/* A lineage has its links, and a head or a child (state_drop.c, I4). */
static enum err judge_links(struct state_txn *txn, const struct record_lineage *lineage,
                            struct state_audit_finding *finding) {
    static const uint8_t zeros[RECORD_CONVERSATION_BYTES];
    uint8_t owner[RECORD_OWNER_KEY_BYTES];
    uint8_t child[RECORD_CHILD_KEY_BYTES];
    struct record_owner_key owner_key = {.lineage = lineage->id};
    struct state_bytes value;
    memcpy(owner_key.conversation, lineage->conversation, sizeof owner_key.conversation);
    record_owner_key_encode(&owner_key, owner);
    record_child_key_encode(
        &(struct record_child_key){.parent = lineage->parent, .child = lineage->id}, child);
    enum err code = memcmp(lineage->conversation, zeros, sizeof zeros) != 0
                        ? state_env_get(txn, STATE_LINKS, bytes(owner, sizeof owner), &value)
                        : ERR_OK;
    if (code == ERR_OK && lineage->parent != 0) {
        code = state_env_get(txn, STATE_LINKS, bytes(child, sizeof child), &value);
    }
    if (code == ERR_NOT_FOUND) {
        finding->record = "link";
        finding->verdict = "missing";
        describe(finding, "of lineage %" PRIu64 " to its conversation or its parent", lineage->id);
        return ERR_OK;
    }
    return code;
}

static enum err judge_lineage(struct audit *audit, struct state_txn *txn, struct state_bytes key,
                              struct state_bytes value, struct state_audit_finding *finding) {
    struct record_lineage lineage;
    struct audit_object_cover cover;
    uint64_t children;
    uint64_t end_block;
    enum err code = record_lineage_decode(key.data, key.len, value.data, value.len, &lineage);
    finding->record = "lineage";
    if (code != ERR_OK) {
        audit->report.lineages += audit->lineages == NULL;
        finding->verdict = audit->lineages == NULL ? refusal(code) : NULL;
        describe(finding, "%s", err_message());
        return ERR_OK;
    }
    if (!is_wanted(audit, lineage.id)) {
        return ERR_OK;
    }
    audit->report.lineages++;
    set_conversation(finding, lineage.conversation);
    TRY(judge_links(txn, &lineage, finding));
    TRY(state_table_children(txn, lineage.id, &children, &end_block));
    TRY(audit_object_cover_read(txn, &lineage, &cover));
    if (finding->verdict == NULL && children == 0 && cover.heads == 0 && !cover.is_unknown) {
        finding->verdict = "orphan";
        describe(finding, "lineage %" PRIu64 " has no head and no child", lineage.id);
    }
    return ERR_OK;
}

static enum err judge_link(struct audit *audit, struct state_txn *txn, struct state_bytes key,
                           struct state_bytes value, struct state_audit_finding *finding) {
    struct record_owner_key owner;
    struct record_child_key child;
    struct record_lineage lineage;
    (void)value;
    audit->report.links++;
    finding->record = "link";
    int is_owner = record_owner_key_decode(key.data, key.len, &owner) == ERR_OK;
    if (!is_owner && record_child_key_decode(key.data, key.len, &child) != ERR_OK) {
        finding->verdict = "damaged";
        describe(finding, "%s", err_message());
        return ERR_OK;
    }
    uint64_t id = is_owner ? owner.lineage : child.child;
    enum err code = state_table_get_lineage(txn, id, &lineage);
    if (is_owner) {
        set_conversation(finding, owner.conversation);
    }
    if (code == ERR_NOT_FOUND ||
        (code == ERR_OK && (is_owner ? memcmp(lineage.conversation, owner.conversation,
                                              sizeof owner.conversation) != 0
                                     : lineage.parent != child.parent))) {
        finding->verdict = "orphan";
        describe(finding, "lineage %" PRIu64 " %s", id,
                 code == ERR_OK ? "names another one" : "is not there");
        return ERR_OK;
    }
    return is_refused(code) ? ERR_OK : code; /* told of by its own */
}

/* --- objects
 * ---------------------------------------------------------------------------------------- */

static enum err audit_objects_of(struct audit *audit, uint64_t lineage) {
    struct record_object_key after = {.lineage = lineage};
    for (;;) {
        struct audit_object_result result = {0};
        struct state_audit_finding finding = {.record = "object", .has_object = 1};
        enum err code = audit_object_next(audit->object, lineage, &after, &result);
        if (code == ERR_NOT_FOUND) {
            return ERR_OK;
        }
        TRY(code);
        audit->report.objects++;
        audit->report.objects_unowned += result.is_listed ? 1 : 0;
        audit->report.bytes += result.stored_bytes;
        finding.verdict = result.verdict;
        finding.object = result.key;
        finding.turn = result.key.part == RECORD_BLOCK ? 0 : result.key.index;
        set_conversation(&finding, result.conversation);
        describe(&finding, "%s", result.detail);
        TRY(tell(audit, &finding));
        after = result.key;
    }
}

static enum err audit_objects(struct audit *audit) {
    if (audit->lineages == NULL) {
        return audit_objects_of(audit, 0);
    }
    for (size_t i = 0; i < audit->lineage_count; i++) {
        TRY(audit_objects_of(audit, audit->lineages[i]));
    }
    return ERR_OK;
}

/* --- the rest
 * ---------------------------------------------------------------------------------------- */

static enum err judge_garbage(struct audit *audit, struct state_txn *txn, struct state_bytes key,
                              struct state_bytes value, struct state_audit_finding *finding) {
    struct record_garbage garbage;
    (void)txn;
    audit->report.garbage_entries++;
    enum err code = record_garbage_decode(key.data, key.len, value.data, value.len, &garbage);
    finding->record = "garbage";
    if (code != ERR_OK) {
        finding->verdict = refusal(code);
        describe(finding, "%s", err_message());
    }
    return ERR_OK;
}

static enum err next_quarantine(struct audit *audit, struct entries *entries,
                                struct record_head_key *name, struct record_quarantine *quarantine,
                                struct state_audit_finding *finding) {
    struct state_txn *txn CLEANUP(end_txn) = NULL;
    struct state_bytes key;
    struct state_bytes value;
    TRY(state_env_begin_read(audit->env, &txn));
    TRY(next_entry(entries, txn, &key, &value));
    audit->report.quarantined++;
    audit->report.bytes += key.len + value.len;
    enum err code = record_quarantine_decode(key.data, key.len, value.data, value.len, quarantine);
    code = code == ERR_OK ? record_head_key_decode(key.data, key.len, name) : code;
    finding->record = "quarantine";
    if (code != ERR_OK) {
        finding->verdict = refusal(code);
        describe(finding, "%s", err_message());
    }
    return ERR_OK;
}

static enum err audit_quarantine(struct audit *audit) {
    struct entries entries = {.db = STATE_QUARANTINE};
    for (;;) {
        struct state_audit_finding finding = {0};
        struct record_head_key name;
        struct record_quarantine quarantine;
        enum err code = next_quarantine(audit, &entries, &name, &quarantine, &finding);
        if (code == ERR_NOT_FOUND) {
            return ERR_OK;
        }
        TRY(code);
        TRY(tell(audit, &finding));
        if (finding.verdict == NULL && audit->options->quarantined != NULL) {
            TRY(audit->options->quarantined(audit->options->context, &name, &quarantine));
        }
    }
}

static enum err audit_format(struct audit *audit) {
    struct state_txn *txn;
    struct record_format format;
    struct state_audit_finding finding = {.record = "format"};
    TRY(state_env_begin_read(audit->env, &txn));
    enum err code = state_table_get_format(txn, &format);
    state_env_abort(txn);
    if (code == ERR_NOT_FOUND || is_refused(code)) {
        finding.verdict = code == ERR_NOT_FOUND ? "missing" : refusal(code);
        describe(&finding, "%s", err_message());
        return tell(audit, &finding);
    }
    return code;
}

static enum err audit_all(struct audit *audit) {
    TRY(audit_format(audit));
    TRY(audit_heads(audit));
    if (audit->lineages != NULL) {
        TRY(add_owned_lineages(audit));
    }
    TRY(judge_all(audit, STATE_LINEAGES, judge_lineage));
    TRY(audit_objects(audit));
    if (audit->lineages == NULL) {
        TRY(judge_all(audit, STATE_LINKS, judge_link));
        TRY(judge_all(audit, STATE_GARBAGE, judge_garbage));
        TRY(audit_quarantine(audit));
    }
    return ERR_OK;
}

enum err state_audit(struct state_env *env, const struct state_audit_options *options,
                     struct state_audit_report *out) {
    struct audit audit = {.env = env, .options = options};
    enum err code = audit_object_create(env, &audit.object);
    if (code == ERR_OK && options->only != NULL) {
        audit.lineages = calloc(STATE_AUDIT_LINEAGES_MAX, sizeof *audit.lineages);
        code = audit.lineages != NULL ? ERR_OK : err_fail(ERR_NOMEM, "no memory for lineages");
    }
    code = code == ERR_OK ? audit_all(&audit) : code;
    audit_object_destroy(audit.object);
    free(audit.lineages);
    TRY(code);
    *out = audit.report;
    return ERR_OK;
}

const char *state_audit_part_name(enum record_part part) {
    static const char *const names[RECORD_PART_COUNT] = {
        [RECORD_BLOCK] = "block",
        [RECORD_TAIL] = "tail",
        [RECORD_STATE] = "state",
        [RECORD_PROMPT_TAIL] = "prompt-tail",
        [RECORD_PROMPT_STATE] = "prompt-state",
    };
    return (unsigned)part < ARRAY_LEN(names) && names[part] != NULL ? names[part] : "unknown";
}
