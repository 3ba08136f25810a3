/*
 * The line of a conversation as its turns make it, one after the other, and what is wrong with a
 * turn's place or digests. Keeps the ids, because a later turn may cut the line anywhere.
 *
 * One thread. Internal to ledger/.
 */
#ifndef TERN_LEDGER_LEDGER_WALK_LINE_H
#define TERN_LEDGER_LEDGER_WALK_LINE_H

#include "ledger/turn_record.h"

struct ledger_walk_line {
    int32_t *ids; /* of the line, chain.length_tokens of them */
    size_t capacity;
    struct token_chain chain;
    uint32_t turn;                                 /* the last one added or lost */
    uint32_t pending_tokens;                       /* of it */
    uint8_t last_digest[TOKEN_CHAIN_DIGEST_BYTES]; /* as the last turn stores it */
    int is_known;                                  /* no turn that the line depends on was lost */
    int has_digest;
    char detail[200]; /* of the last verdict */
};

void ledger_walk_line_init(struct ledger_walk_line *line);
void ledger_walk_line_done(struct ledger_walk_line *line);

/* The next turn can't be read: the line is unknown until a turn begins it anew. */
void ledger_walk_line_lose(struct ledger_walk_line *line);

/* Adds the next turn. *verdict becomes "wrong-place" or "wrong-chain", or stays. */
MUST_USE enum err ledger_walk_line_add(struct ledger_walk_line *line,
                                       const struct turn_record *turn, const char **verdict);

/* Whether the conversation's record has the end of this line, as far as that is known. */
int ledger_walk_line_ends(struct ledger_walk_line *line,
                          const struct conversation_record *conversation);

#endif
