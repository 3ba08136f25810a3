/*
 * Reads every record of a ledger and says what is wrong with it: frames and checksums, each turn's
 * place in its conversation, the token chain recomputed over the ids, and what refers to what. For
 * `tern verify`, offline or beside a running server: read transactions are short, and what is said
 * to be missing was missing while what needs it was there, in one transaction.
 *
 * Memory: the line of one conversation, one turn, and LEDGER_WALK_WINDOW serials. One thread.
 */
#ifndef TERN_LEDGER_LEDGER_WALK_H
#define TERN_LEDGER_LEDGER_WALK_H

#include "ledger/ledger.h"

enum { LEDGER_WALK_WINDOW = 16384, LEDGER_WALK_TEXT_BYTES = 256 };

/*
 * RECORD: "mark", "conversation", "turn", "dialect", "idempotency", "expiry", "tombstone". VERDICT:
 *   damaged       the record is refused: frame, checksum, key, or fields that can't be
 *   newer         of a record version that this build does not read
 *   missing       something that is there needs it
 *   wrong-place   it does not continue the line where it says, or has parts too many
 *   wrong-chain   the ids have another token chain digest than the one that is stored
 *   wrong-serial  a serial that was given out twice, or is still to be given out
 *   orphan        nothing refers to it
 */
struct ledger_walk_finding {
    const char *record;                           /* static text */
    const char *verdict;                          /* static text */
    const struct conversation_identity *identity; /* NULL: unknown; valid during the call */
    uint64_t serial;                              /* 0: unknown */
    uint32_t turn;                                /* 0: none */
    char detail[LEDGER_WALK_TEXT_BYTES];
};

struct ledger_walk_report {
    uint64_t conversations;
    uint64_t turns;
    uint64_t turns_unchained; /* behind a damaged one: their digests could not be recomputed */
    uint64_t dialects;
    uint64_t idempotency_entries;
    uint64_t tombstones;
    uint64_t bytes; /* of all these records */
};

struct ledger_walk_options {
    const struct conversation_key *only; /* this conversation's records alone; NULL: all */
    /* An error ends the walk. No transaction is open. */
    enum err (*found)(void *context, const struct ledger_walk_finding *finding);
    void *context;
};

MUST_USE enum err ledger_walk(struct ledger *ledger, const struct ledger_walk_options *options,
                              struct ledger_walk_report *out);

/* Whoever may own records: a conversation, or a deleted one whose tombstone is still there. */
struct ledger_walk_owner {
    struct conversation_key key;
    uint64_t serial;
    const struct conversation_record *conversation; /* NULL: refused, or deleted */
    int is_deleted;
};

/*
 * Calls VISIT for all conversations, then for all tombstones, with no transaction open. A
 * conversation whose record is refused comes with the serial that it claims. Who is there from the
 * call to its return is visited; who is deleted meanwhile is visited at least once, as long as its
 * tombstone stays.
 */
MUST_USE enum err ledger_walk_each_owner(struct ledger *ledger,
                                         enum err (*visit)(void *context,
                                                           const struct ledger_walk_owner *owner),
                                         void *context);

#endif
