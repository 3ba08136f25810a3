/*
 * One coded object after the other, with what refers to it: for state_audit. Reads the object and
 * its lineage, heads, children and garbage entries in one transaction, ends it, then decodes.
 *
 * One thread. Memory: the largest object, raw and coded.
 */
#ifndef TERN_STORE_AUDIT_OBJECT_H
#define TERN_STORE_AUDIT_OBJECT_H

#include "store/coded_object.h"
#include "store/state_env.h"

enum { AUDIT_OBJECT_BYTES_MAX = 1 << 30, AUDIT_OBJECT_TEXT_BYTES = 160 };

/* The heads of a lineage, all of which belong to the lineage's conversation. */
struct audit_object_cover {
    uint64_t heads;
    uint64_t end_block; /* blocks below it are needed by a head */
    int is_unknown;     /* a head record of the conversation is refused: anything may be needed */
};
MUST_USE enum err audit_object_cover_read(struct state_txn *txn,
                                          const struct record_lineage *lineage,
                                          struct audit_object_cover *out);

struct audit_object;
MUST_USE enum err audit_object_create(struct state_env *env, struct audit_object **out);
void audit_object_destroy(struct audit_object *object); /* accepts NULL */

struct audit_object_result {
    struct record_object_key key;
    uint8_t conversation[RECORD_CONVERSATION_BYTES]; /* of the lineage; zeros if it has none */
    uint64_t stored_bytes;
    int is_listed;       /* as garbage: it was not judged */
    const char *verdict; /* NULL, or as in state_audit.h */
    char detail[AUDIT_OBJECT_TEXT_BYTES];
};

/*
 * The first object behind AFTER, whose part is 0 for the first of its lineage; of LINEAGE alone
 * unless that is 0. ERR_NOT_FOUND behind the last.
 */
MUST_USE enum err audit_object_next(struct audit_object *object, uint64_t lineage,
                                    const struct record_object_key *after,
                                    struct audit_object_result *out);

#endif
