/*
 * The findings of `tern verify` on their way to standard output: those of the state environment are
 * held until the conversations that they belong to have been looked up, a batch at a time, and all
 * are counted by kind.
 *
 * One thread. Memory: a batch.
 */
#ifndef TERN_TOOLS_VERIFY_FINDINGS_H
#define TERN_TOOLS_VERIFY_FINDINGS_H

#include "ledger/ledger_walk.h"
#include "store/state_audit.h"
#include "tools/listing.h"
#include "tools/store_view.h"

enum { VERIFY_FINDINGS_BATCH = 256, VERIFY_FINDINGS_KINDS_MAX = 64 };

struct verify_findings_kind {
    const char *environment; /* static text, as the two below */
    const char *record;
    const char *verdict;
    uint64_t count;
};

struct verify_findings {
    const struct store_view *view;
    struct listing *listing;
    const struct conversation_identity *only; /* NULL: all conversations */
    struct {
        uint8_t state_key[STATE_KEY_BYTES];
        json_t *row; /* without the names */
    } held[VERIFY_FINDINGS_BATCH];
    size_t held_count;
    struct verify_findings_kind kinds[VERIFY_FINDINGS_KINDS_MAX];
    size_t kind_count;
    uint64_t count;
};

/* Begins the section of findings. */
void verify_findings_begin(struct verify_findings *findings, const struct store_view *view,
                           struct listing *listing, const struct conversation_identity *only);
void verify_findings_done(struct verify_findings *findings);

/* CONTEXT is the struct verify_findings. */
MUST_USE enum err verify_findings_of_ledger(void *context,
                                            const struct ledger_walk_finding *finding);
MUST_USE enum err verify_findings_of_state(void *context,
                                           const struct state_audit_finding *finding);

/* Prints what is held. */
MUST_USE enum err verify_findings_flush(struct verify_findings *findings);

/* Begins and prints the section of counts by kind. */
MUST_USE enum err verify_findings_list_kinds(const struct verify_findings *findings);

#endif
