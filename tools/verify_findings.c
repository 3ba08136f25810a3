#include "tools/verify_findings.h"

#include <string.h>

static const struct listing_column finding_columns[] = {
    {"environment", "in", -7, LISTING_PLAIN},
    {"record", "record", -12, LISTING_PLAIN},
    {"verdict", "verdict", -14, LISTING_PLAIN},
    {"conversation", "conversation", -24, LISTING_PLAIN},
    {"turn", "turn", 5, LISTING_PLAIN},
    {"part", "part", -12, LISTING_PLAIN},
    {"lineage", "lineage", 12, LISTING_PLAIN},
    {"index", "index", 6, LISTING_PLAIN},
    {"detail", "what is wrong", -1, LISTING_PLAIN},
};

static const struct listing_column kind_columns[] = {
    {"environment", "in", -7, LISTING_PLAIN},
    {"record", "record", -12, LISTING_PLAIN},
    {"verdict", "verdict", -14, LISTING_PLAIN},
    {"count", "count", 6, LISTING_PLAIN},
};

void verify_findings_begin(struct verify_findings *findings, const struct store_view *view,
                           struct listing *listing, const struct conversation_identity *only) {
    *findings = (struct verify_findings){.view = view, .listing = listing, .only = only};
    listing_section(listing, "findings", finding_columns, ARRAY_LEN(finding_columns));
}

void verify_findings_done(struct verify_findings *findings) {
    for (size_t i = 0; i < findings->held_count; i++) {
        json_decref(findings->held[i].row);
    }
    findings->held_count = 0;
}

static void count_kind(struct verify_findings *findings, const char *environment,
                       const char *record, const char *verdict) {
    size_t i = 0;
    findings->count++;
    while (i < findings->kind_count && (strcmp(findings->kinds[i].environment, environment) != 0 ||
                                        strcmp(findings->kinds[i].record, record) != 0 ||
                                        strcmp(findings->kinds[i].verdict, verdict) != 0)) {
        i++;
    }
    if (i == VERIFY_FINDINGS_KINDS_MAX) {
        return; /* there are fewer kinds than that */
    }
    if (i == findings->kind_count) {
        findings->kinds[findings->kind_count++] = (struct verify_findings_kind){
            .environment = environment, .record = record, .verdict = verdict};
    }
    findings->kinds[i].count++;
}

static enum err set_names(json_t *row, const struct conversation_identity *identity) {
    if (json_object_set_new(row, "conversation", listing_text(identity->id, identity->id_bytes)) !=
            0 ||
        json_object_set_new(row, "salt", listing_text(identity->salt, identity->salt_bytes)) != 0 ||
        json_object_set_new(row, "tenant",
                            listing_text(identity->tenant, identity->tenant_bytes)) != 0) {
        return err_fail(ERR_NOMEM, "no memory for a name");
    }
    return ERR_OK;
}

static json_t *optional(uint64_t number) {
    return number != 0 ? listing_number(number) : json_null();
}

enum err verify_findings_of_ledger(void *context, const struct ledger_walk_finding *finding) {
    struct verify_findings *findings = context;
    const struct conversation_identity *identity =
        finding->identity != NULL ? finding->identity : findings->only;
    count_kind(findings, "ledger", finding->record, finding->verdict);
    json_t *row =
        json_pack("{s:s, s:s, s:s, s:n, s:n, s:n, s:o, s:o, s:o}", "environment", "ledger",
                  "record", finding->record, "verdict", finding->verdict, "conversation", "salt",
                  "tenant", "serial", optional(finding->serial), "turn", optional(finding->turn),
                  "detail", listing_text(finding->detail, strlen(finding->detail)));
    if (row != NULL && identity != NULL && set_names(row, identity) != ERR_OK) {
        json_decref(row);
        row = NULL;
    }
    return listing_row(findings->listing, row);
}

enum err verify_findings_of_state(void *context, const struct state_audit_finding *finding) {
    struct verify_findings *findings = context;
    count_kind(findings, "state", finding->record, finding->verdict);
    json_t *row = json_pack("{s:s, s:s, s:s, s:n, s:n, s:n, s:o, s:o, s:o}", "environment", "state",
                            "record", finding->record, "verdict", finding->verdict, "conversation",
                            "salt", "tenant", "state_key",
                            finding->has_conversation ? listing_digest(finding->conversation,
                                                                       sizeof finding->conversation)
                                                      : json_null(),
                            "turn", optional(finding->turn), "detail",
                            listing_text(finding->detail, strlen(finding->detail)));
    json_t *object =
        finding->has_object
            ? json_pack("{s:s, s:o, s:o}", "part", state_audit_part_name(finding->object.part),
                        "lineage", listing_number(finding->object.lineage), "index",
                        listing_number(finding->object.index))
            : json_object();
    int is_good = row != NULL && object != NULL && json_object_update(row, object) == 0;
    json_decref(object);
    if (!is_good) {
        json_decref(row);
        return err_fail(ERR_NOMEM, "no memory for a finding");
    }
    memcpy(findings->held[findings->held_count].state_key, finding->conversation, STATE_KEY_BYTES);
    findings->held[findings->held_count++].row = row;
    return findings->held_count == VERIFY_FINDINGS_BATCH ? verify_findings_flush(findings) : ERR_OK;
}

static enum err name_held(void *context, const struct ledger_walk_owner *owner) {
    struct verify_findings *findings = context;
    uint8_t state_key[STATE_KEY_BYTES];
    if (owner->conversation == NULL) {
        return ERR_OK;
    }
    state_key_make(&owner->key, owner->serial, state_key);
    for (size_t i = 0; i < findings->held_count; i++) {
        if (memcmp(findings->held[i].state_key, state_key, sizeof state_key) == 0) {
            TRY(set_names(findings->held[i].row, &owner->conversation->identity));
        }
    }
    return ERR_OK;
}

enum err verify_findings_flush(struct verify_findings *findings) {
    enum err code = ERR_OK;
    if (findings->held_count > 0) {
        code = ledger_walk_each_owner(findings->view->ledger, name_held, findings);
    }
    for (size_t i = 0; i < findings->held_count; i++) {
        json_t *row = findings->held[i].row;
        if (code == ERR_OK) {
            code = listing_row(findings->listing, row);
        } else {
            json_decref(row);
        }
    }
    findings->held_count = 0;
    return code;
}

enum err verify_findings_list_kinds(const struct verify_findings *findings) {
    listing_section(findings->listing, "findings_by_kind", kind_columns, ARRAY_LEN(kind_columns));
    for (size_t i = 0; i < findings->kind_count; i++) {
        const struct verify_findings_kind *kind = &findings->kinds[i];
        TRY(listing_row(findings->listing,
                        json_pack("{s:s, s:s, s:s, s:o}", "environment", kind->environment,
                                  "record", kind->record, "verdict", kind->verdict, "count",
                                  listing_number(kind->count))));
    }
    return ERR_OK;
}
