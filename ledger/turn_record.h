/*
 * What the ledger keeps of a conversation and of each of its turns, and the bytes they are
 * kept in (turn_record.c holds the tables of offsets). Decoders treat their input as hostile.
 *
 * A conversation is a sequence of turns, numbered from 1. A turn says where on the line of token
 * ids it begins: at the end of the turn before it, or earlier if it replaced what followed (a
 * regenerated answer, a rewind, a full history). The line after a turn is the line before it, cut
 * at base_tokens, then the turn's prompt_ids, generated_ids and closing_ids.
 *
 * Pure functions, any thread. A decoded record owns one allocation, `storage`, into which its
 * pointers point; _done frees it. In a record that a caller fills in, storage is NULL and the
 * pointers are borrowed.
 */
#ifndef TERN_LEDGER_TURN_RECORD_H
#define TERN_LEDGER_TURN_RECORD_H

#include "base/buf.h"
#include "ledger/conversation_key.h"
#include "ledger/token_chain.h"

enum {
    TURN_RECORD_DIGEST_BYTES = 32,
    TURN_RECORD_BYTES_MAX = 64 << 20,      /* of one encoded turn or dialect */
    TURN_RECORD_TOKENS_MAX = 1 << 26,      /* on one line */
    TURN_RECORD_EXTENSION_BYTES_MAX = 512, /* of a conversation; keeps its record within a page */
};

enum turn_record_finish {
    TURN_RECORD_FINISH_STOP = 1,   /* an end token or a stop string */
    TURN_RECORD_FINISH_LENGTH = 2, /* max_tokens or the context */
    TURN_RECORD_FINISH_TOOL_CALLS = 3,
    TURN_RECORD_FINISH_ABORTED = 4, /* kept although the client left */
    TURN_RECORD_FINISH_NONE = 5,    /* nothing was generated: an imported or prefilled turn */
};

struct conversation_record {
    struct conversation_key key; /* not in the payload; it is the record's own key */
    uint64_t serial;             /* of this ledger, never given out twice */
    uint64_t generation;         /* fencing generation of the last append */
    uint64_t created_ms;         /* Unix time, as the two below */
    uint64_t updated_ms;
    uint64_t expires_ms;      /* when the server may delete it; 0: never */
    uint32_t turn;            /* the committed turn, 0 before the first */
    uint32_t pending_tokens;  /* of the last turn */
    uint32_t flags;           /* the server's, opaque to the ledger */
    struct token_chain chain; /* of all ids of the line; its length is the token count */
    uint8_t dialect_digest[TURN_RECORD_DIGEST_BYTES];
    struct conversation_identity identity;
    const uint8_t *extension; /* later fields, opaque; kept when the record is written again */
    size_t extension_bytes;
    uint8_t *storage;
};

struct turn_record {
    uint32_t turn;              /* from 1 */
    uint32_t parent_turn;       /* the last turn whose messages all stay on the line; 0: none */
    uint64_t base_tokens;       /* length of the line in front of this turn */
    uint64_t prompt_end_tokens; /* length of the line at the prompt-end head; 0: none */
    uint64_t end_tokens;        /* length of the line after this turn */
    uint32_t pending_tokens;    /* how many of the last ids were not yet run through the model */
    enum turn_record_finish finish;
    uint32_t flags; /* the server's, opaque to the ledger */
    uint64_t generation;
    uint64_t started_ms; /* Unix time, as below */
    uint64_t committed_ms;
    uint8_t idempotency_hash[CONVERSATION_KEY_BYTES]; /* all zero: none */
    uint8_t request_digest[TURN_RECORD_DIGEST_BYTES];
    /* Token chain digests of the line after this turn, at the lengths of the heads it may have: */
    uint8_t chain_digest[TOKEN_CHAIN_DIGEST_BYTES];      /* end_tokens */
    uint8_t head_digest[TOKEN_CHAIN_DIGEST_BYTES];       /* end_tokens - pending_tokens */
    uint8_t prompt_end_digest[TOKEN_CHAIN_DIGEST_BYTES]; /* prompt_end_tokens; zeros if 0 */

    const int32_t *prompt_ids; /* what the turn put in front of the answer; none is negative */
    size_t prompt_count;
    const int32_t *generated_ids; /* as sampled */
    size_t generated_count;
    const int32_t *closing_ids; /* the template's, behind the answer */
    size_t closing_count;
    const uint8_t *messages; /* JSON, opaque */
    size_t messages_bytes;
    const uint8_t *response; /* what a replay sends, opaque */
    size_t response_bytes;
    const uint8_t *extension; /* later fields, opaque */
    size_t extension_bytes;
    uint8_t *storage;
};

/* The place of a turn in the database. Turn 0 is the conversation's dialect. */
struct turn_record_place {
    uint64_t serial;
    uint32_t turn;
};

/* Both append to the empty buffer OUT. ERR_INVALID if a field is out of its bounds. */
MUST_USE enum err turn_record_encode(const struct turn_record *turn, uint64_t serial,
                                     struct buf *out);
MUST_USE enum err turn_record_encode_conversation(const struct conversation_record *conversation,
                                                  struct buf *out);

/*
 * BYTES are copied. ERR_FORMAT, ERR_UNSUPPORTED or ERR_CORRUPT for bytes that are no such record
 * of this place or key.
 */
MUST_USE enum err turn_record_decode(const uint8_t *bytes, size_t len,
                                     struct turn_record_place place, struct turn_record *out);
MUST_USE enum err turn_record_decode_conversation(const uint8_t *bytes, size_t len,
                                                  const struct conversation_key *key,
                                                  struct conversation_record *out);

/* The bounds that encode and decode check: counts, sums, ids, parents. */
MUST_USE enum err turn_record_check(const struct turn_record *turn);

/* Accept zeroed and borrowed records. */
void turn_record_done(struct turn_record *turn);
void turn_record_conversation_done(struct conversation_record *conversation);

/* The text that a dialect digest stands for (template arguments, tools), as a record of turn 0. */
MUST_USE enum err turn_record_encode_dialect(const uint8_t *text, size_t text_bytes,
                                             uint64_t serial, struct buf *out);
/* *text points into BYTES. */
MUST_USE enum err turn_record_decode_dialect(const uint8_t *bytes, size_t len, uint64_t serial,
                                             const uint8_t **text, size_t *text_bytes);

#endif
