/*
 * The small records of the state environment and its keys, as bytes: heads, lineages, format,
 * garbage and quarantine. Pure functions; any thread. What is decoded may be hostile.
 *
 * Integers are little-endian. Keys are compared from their last byte to their first (LMDB's
 * MDB_REVERSEKEY), so a key lists its least significant field first and numbers sort as numbers.
 * A record's checksum covers its own key, so that a record moved to another key is refused.
 */
#ifndef TERN_STORE_RECORD_H
#define TERN_STORE_RECORD_H

#include "base/err.h"

enum {
    RECORD_FORMAT_VERSION = 1,
    RECORD_DIGEST_BYTES = 32,
    RECORD_CONVERSATION_BYTES = 32,
    RECORD_CLASS_BYTES = 32, /* text, padded with zeros */
};

/* --- keys ------------------------------------------------------------------------------ */

enum record_head_kind {
    RECORD_PROMPT_END = 1,
    RECORD_TURN_END = 2,
};

/* Names a head. Several models' heads of one conversation lie side by side: the key holds the
 * first bytes of the state digest, the record all of it. */
struct record_head_key {
    uint8_t conversation[RECORD_CONVERSATION_BYTES];
    uint8_t state_digest[RECORD_DIGEST_BYTES];
    enum record_head_kind kind;
    uint64_t turn;
};

enum record_part {
    RECORD_BLOCK = 1, /* index: absolute block number from the conversation's first token */
    RECORD_TAIL = 2,  /* index: turn of a turn-end head */
    RECORD_STATE = 3,
    RECORD_PROMPT_TAIL = 4, /* index: turn of a prompt-end head */
    RECORD_PROMPT_STATE = 5,
};

enum { RECORD_PART_COUNT = RECORD_PROMPT_STATE + 1 };

struct record_object_key {
    enum record_part part;
    uint64_t lineage; /* from 1 */
    uint64_t index;
};

enum {
    RECORD_HEAD_KEY_BYTES = 49,
    RECORD_LINEAGE_KEY_BYTES = 8,
    RECORD_RUN_KEY_BYTES = 21,
    RECORD_OWNER_KEY_BYTES = 41,
    RECORD_CHILD_KEY_BYTES = 17,
    RECORD_GARBAGE_KEY_BYTES = 17,
    RECORD_KEY_BYTES_MAX = 64,
};

void record_head_key_encode(const struct record_head_key *key, uint8_t out[RECORD_HEAD_KEY_BYTES]);

/* The parts of a head key that can be read back; the digest only by its first bytes. ERR_FORMAT. */
MUST_USE enum err record_head_key_decode(const uint8_t *bytes, size_t len,
                                         struct record_head_key *out);

/* True if two encoded head keys name the same conversation; with IS_SAME_MODEL and kind and digest
 * as well. */
int record_head_key_matches(const uint8_t *key, size_t len, const struct record_head_key *wanted,
                            int is_same_line);

void record_lineage_key_encode(uint64_t lineage, uint8_t out[RECORD_LINEAGE_KEY_BYTES]);

/* RUN counts the runs of an object from 0. */
void record_run_key_encode(const struct record_object_key *key, uint32_t run,
                           uint8_t out[RECORD_RUN_KEY_BYTES]);
MUST_USE enum err record_run_key_decode(const uint8_t *bytes, size_t len,
                                        struct record_object_key *key_out, uint32_t *run_out);

/* Links: which lineages a conversation owns, which lineages have a lineage as parent. */
struct record_owner_key {
    uint8_t conversation[RECORD_CONVERSATION_BYTES];
    uint64_t lineage;
};
struct record_child_key {
    uint64_t parent;
    uint64_t child;
};
void record_owner_key_encode(const struct record_owner_key *key,
                             uint8_t out[RECORD_OWNER_KEY_BYTES]);
MUST_USE enum err record_owner_key_decode(const uint8_t *bytes, size_t len,
                                          struct record_owner_key *out);
void record_child_key_encode(const struct record_child_key *key,
                             uint8_t out[RECORD_CHILD_KEY_BYTES]);
MUST_USE enum err record_child_key_decode(const uint8_t *bytes, size_t len,
                                          struct record_child_key *out);

/* The 17 bytes of part, lineage and index that object checksums begin with. */
enum { RECORD_IDENTITY_BYTES = 17 };
void record_object_identity(const struct record_object_key *key,
                            uint8_t out[RECORD_IDENTITY_BYTES]);

/* The part under which a head of KIND keeps its tail or state. */
enum record_part record_tail_part(enum record_head_kind kind);
enum record_part record_state_part(enum record_head_kind kind);

/* --- head ------------------------------------------------------------------------------ */

enum record_head_flags {
    RECORD_HEAD_PINNED = 1, /* never evicted by budget */
    RECORD_HEAD_SEALED = 2, /* reserved: objects are sealed */
};

struct record_head {
    struct record_head_key key; /* the state digest in full */
    uint32_t flags;
    char numerics_class[RECORD_CLASS_BYTES + 1];
    uint64_t length;                           /* tokens computed */
    uint8_t chain_digest[RECORD_DIGEST_BYTES]; /* of those tokens */
    uint64_t lineage;
    uint32_t block_size;       /* tokens a block */
    uint32_t tail_tokens;      /* length - block_count * block_size */
    uint64_t block_count;      /* full blocks */
    uint64_t block_bytes;      /* raw, of a block and of the tail; may be 0 */
    uint64_t state_bytes;      /* raw; may be 0 */
    uint64_t tail_coded_bytes; /* 0 without a tail */
    uint64_t state_coded_bytes;
    uint32_t block_element; /* enum codec_element */
    uint32_t state_element;
    uint64_t created_ms; /* Unix time */
    uint64_t used_ms;
    uint64_t hits;
    uint64_t expires_ms; /* 0: never */
};

enum { RECORD_HEAD_BYTES = 320 };

/* The fields must be in range: asserted (see record_head_decode). */
void record_head_encode(const struct record_head *head, uint8_t out[RECORD_HEAD_BYTES]);

/* KEY is the encoded key that BYTES were found under. ERR_FORMAT, ERR_UNSUPPORTED (newer version),
 * ERR_CORRUPT (checksum, or fields that contradict each other). */
MUST_USE enum err record_head_decode(const uint8_t *key, size_t key_len, const uint8_t *bytes,
                                     size_t len, struct record_head *out);

/* --- lineage --------------------------------------------------------------------------- */

struct record_lineage {
    uint64_t id;
    uint8_t conversation[RECORD_CONVERSATION_BYTES]; /* zeros once its conversation is deleted */
    uint8_t state_digest[RECORD_DIGEST_BYTES];
    uint64_t parent;       /* 0: none; always below id */
    uint64_t first_block;  /* blocks below it are the parent's */
    uint64_t end_block;    /* [first_block, end_block) are stored */
    uint64_t stored_bytes; /* whole pages of all its objects, headers included */
};

enum { RECORD_LINEAGE_BYTES = 176 };

void record_lineage_encode(const struct record_lineage *lineage, uint8_t out[RECORD_LINEAGE_BYTES]);
MUST_USE enum err record_lineage_decode(const uint8_t *key, size_t key_len, const uint8_t *bytes,
                                        size_t len, struct record_lineage *out);

/* --- format ---------------------------------------------------------------------------- */

#define RECORD_FORMAT_KEY "format"

struct record_format {
    uint32_t version;
    uint64_t lineage_next; /* ids below it may be in use */
    uint64_t created_ms;
};

enum { RECORD_FORMAT_BYTES = 64 };

void record_format_encode(const struct record_format *format, uint8_t out[RECORD_FORMAT_BYTES]);

/* ERR_UNSUPPORTED with a message that names both versions if it is newer than this build. */
MUST_USE enum err record_format_decode(const uint8_t *bytes, size_t len, struct record_format *out);

/* --- garbage --------------------------------------------------------------------------- */

/* Objects [first, end) of one part of a lineage that are to be removed. */
struct record_garbage {
    enum record_part part;
    uint64_t lineage;
    uint64_t first;
    uint64_t end;
};

enum { RECORD_GARBAGE_BYTES = 32 };

void record_garbage_key_encode(const struct record_garbage *garbage,
                               uint8_t out[RECORD_GARBAGE_KEY_BYTES]);
void record_garbage_encode(const struct record_garbage *garbage, uint8_t out[RECORD_GARBAGE_BYTES]);
MUST_USE enum err record_garbage_decode(const uint8_t *key, size_t key_len, const uint8_t *bytes,
                                        size_t len, struct record_garbage *out);

/* --- quarantine ------------------------------------------------------------------------ */

struct record_quarantine {
    uint64_t wall_ms;
    uint32_t verdict; /* enum object_verdict */
    struct record_object_key object;
};

enum { RECORD_QUARANTINE_BYTES = 64 };

/* Kept under the head's key. */
void record_quarantine_encode(const uint8_t head_key[RECORD_HEAD_KEY_BYTES],
                              const struct record_quarantine *quarantine,
                              uint8_t out[RECORD_QUARANTINE_BYTES]);
MUST_USE enum err record_quarantine_decode(const uint8_t *key, size_t key_len, const uint8_t *bytes,
                                           size_t len, struct record_quarantine *out);

#endif
