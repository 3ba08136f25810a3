/*
 * Reads every record of a state environment and says what is wrong with it: records that are
 * refused, objects that a head lacks or that do not decode to what their checksums say, lineages
 * that do not cover their heads, and what nothing refers to. For `tern verify`, offline or beside a
 * running server.
 *
 * Each judgement is made within one short read transaction, which ends before objects are decoded;
 * so what is said to be missing was missing while the head that needs it was there. Memory: one
 * object, raw and coded, and the plan of one head. One thread.
 */
#ifndef TERN_STORE_STATE_AUDIT_H
#define TERN_STORE_STATE_AUDIT_H

#include "store/coded_object.h"
#include "store/state_env.h"

enum { STATE_AUDIT_TEXT_BYTES = 256, STATE_AUDIT_LINEAGES_MAX = 4096 };

/*
 * RECORD: "format", "head", "lineage", "link", "object", "garbage", "quarantine". VERDICT:
 *   damaged         refused: checksum, key, or fields that can't be; an object that doesn't decode
 *   newer           of a version that this build does not read
 *   missing         something that is there needs it
 *   truncated       an object whose last runs are not there
 *   wrong-size      an object of another size or element type than its head says
 *   wrong-identity  a sound object that belongs elsewhere, or that decodes to other bytes
 *   uncovered       a head whose blocks its lineages do not have, or of another model
 *   orphan          nothing refers to it
 */
struct state_audit_finding {
    const char *record;  /* static text */
    const char *verdict; /* static text */
    int has_conversation;
    uint8_t conversation[RECORD_CONVERSATION_BYTES]; /* the state key */
    uint64_t turn;                                   /* 0: none */
    int has_object;
    struct record_object_key object; /* with has_object */
    char detail[STATE_AUDIT_TEXT_BYTES];
};

struct state_audit_report {
    uint64_t heads;
    uint64_t lineages;
    uint64_t links;
    uint64_t objects;
    uint64_t objects_unowned; /* listed to be removed: not judged */
    uint64_t garbage_entries;
    uint64_t quarantined;
    uint64_t bytes; /* of all records and runs read */
};

struct state_audit_options {
    const uint8_t *only; /* a state key: what its heads and lineages need; NULL: all */
    /* No transaction is open; an error ends the audit. The last two may be NULL. */
    enum err (*found)(void *context, const struct state_audit_finding *finding);
    enum err (*head)(void *context, const struct record_head *head); /* every sound record */
    enum err (*quarantined)(void *context, const struct record_head_key *key,
                            const struct record_quarantine *quarantine);
    void *context;
};

MUST_USE enum err state_audit(struct state_env *env, const struct state_audit_options *options,
                              struct state_audit_report *out);

/* "block", "tail", ...; static text. */
const char *state_audit_part_name(enum record_part part);

#endif
