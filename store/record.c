/*
 * Keys, bytes in the order in which they are stored; the last byte compares first.
 *
 *   head      0 u64 turn, 8 u8 kind, 9 first 8 bytes of the state digest, 17 conversation[32]
 *   lineage   0 u64 lineage
 *   run       0 u32 run, 4 u64 index, 12 u8 part, 13 u64 lineage
 *   owner     0 u64 lineage, 8 conversation[32], 40 u8 'o'
 *   child     0 u64 child, 8 u64 parent, 16 u8 'c'
 *   garbage   0 u64 first, 8 u8 part, 9 u64 lineage
 *   format    the text "format"
 *
 * Every record begins with the same 8 bytes and ends with the same 16:
 *
 *   0    u32      magic
 *   4    u16      version, 1
 *   6    u16      bytes of the record
 *   n-16 16 bytes XXH3-128 (canonical: high half first, big-endian) over the key it lies under,
 *                 then bytes 0 to n-17
 *
 * Head, 320 bytes, magic "TNHD":
 *   8 u32 flags, 12 u32 block size in tokens, 16 u32 tail tokens, 20 u32 0
 *   24 state digest[32], 56 chain digest[32], 88 numerics class[32]
 *   120 u64 length, 128 u64 lineage, 136 u64 block count, 144 u64 block bytes,
 *   152 u64 state bytes, 160 u64 tail coded bytes, 168 u64 state coded bytes
 *   176 u32 block element, 180 u32 state element, 184 u64 created ms, 192 u64 used ms,
 *   200 u64 hits, 208 u64 expires ms (0 never), 216..303 zeros (sealing)
 *
 * Lineage, 176 bytes, magic "TNLN":
 *   8 u64 id, 16 conversation[32], 48 state digest[32], 80 u64 parent, 88 u64 first block,
 *   96 u64 end block, 104 u64 stored bytes, 112..159 zeros
 *
 * Format, 64 bytes, magic "TNFM":
 *   8 u32 format version of the environment, 12 u32 0, 16 u64 lineage next, 24 u64 created ms,
 *   32..47 zeros
 *
 * Garbage, 32 bytes, magic "TNGB":  8 u64 end
 *
 * Quarantine, 64 bytes, magic "TNQR":
 *   8 u64 wall ms, 16 u32 verdict, 20 u32 part, 24 u64 lineage, 32 u64 index, 40..47 zeros
 *
 * A reader refuses bytes that should be zero and are not: a later version may give them a meaning
 * that this build must not ignore.
 */
#include "store/record.h"

#include <string.h>
#include <xxhash.h>

enum {
    SHORT_DIGEST_BYTES = 8,
    CHECKSUM_BYTES = 16,
    RECORD_VERSION = 1,
    HEAD_ZEROS_AT = 216,
    LINEAGE_ZEROS_AT = 112,
    FORMAT_ZEROS_AT = 32,
    GARBAGE_ZEROS_AT = 16,
    QUARANTINE_ZEROS_AT = 40,
};

static const uint32_t MAGIC_HEAD = 0x44484e54;       /* TNHD */
static const uint32_t MAGIC_LINEAGE = 0x4e4c4e54;    /* TNLN */
static const uint32_t MAGIC_FORMAT = 0x4d464e54;     /* TNFM */
static const uint32_t MAGIC_GARBAGE = 0x42474e54;    /* TNGB */
static const uint32_t MAGIC_QUARANTINE = 0x52514e54; /* TNQR */

_Static_assert(RECORD_HEAD_KEY_BYTES == 8 + 1 + SHORT_DIGEST_BYTES + RECORD_CONVERSATION_BYTES,
               "head key");
_Static_assert(RECORD_RUN_KEY_BYTES == 4 + 8 + 1 + 8, "run key");
_Static_assert(RECORD_OWNER_KEY_BYTES == 8 + RECORD_CONVERSATION_BYTES + 1, "owner key");
_Static_assert(RECORD_CHILD_KEY_BYTES == 8 + 8 + 1, "child key");
_Static_assert(RECORD_GARBAGE_KEY_BYTES == 8 + 1 + 8, "garbage key");
_Static_assert(RECORD_IDENTITY_BYTES == 1 + 8 + 8, "object identity");
_Static_assert(HEAD_ZEROS_AT + 88 + CHECKSUM_BYTES == RECORD_HEAD_BYTES, "head record");
_Static_assert(LINEAGE_ZEROS_AT + 48 + CHECKSUM_BYTES == RECORD_LINEAGE_BYTES, "lineage record");
_Static_assert(FORMAT_ZEROS_AT + 16 + CHECKSUM_BYTES == RECORD_FORMAT_BYTES, "format record");
_Static_assert(GARBAGE_ZEROS_AT + CHECKSUM_BYTES == RECORD_GARBAGE_BYTES, "garbage record");
_Static_assert(QUARANTINE_ZEROS_AT + 8 + CHECKSUM_BYTES == RECORD_QUARANTINE_BYTES,
               "quarantine record");

static void put_u64(uint8_t *at, uint64_t value) {
    for (int i = 0; i < 8; i++) {
        at[i] = (uint8_t)(value >> (8 * i));
    }
}

static uint64_t get_u64(const uint8_t *at) {
    uint64_t value = 0;
    for (int i = 7; i >= 0; i--) {
        value = value << 8 | at[i];
    }
    return value;
}

static void put_u32(uint8_t *at, uint32_t value) {
    for (int i = 0; i < 4; i++) {
        at[i] = (uint8_t)(value >> (8 * i));
    }
}

static uint32_t get_u32(const uint8_t *at) {
    return (uint32_t)at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

static int is_zero(const uint8_t *bytes, size_t len) {
    for (size_t i = 0; i < len; i++) {
        if (bytes[i] != 0) {
            return 0;
        }
    }
    return 1;
}

static int is_part(unsigned value) {
    return value >= RECORD_BLOCK && value < RECORD_PART_COUNT;
}

/* --- keys ------------------------------------------------------------------------------ */

static int is_head_kind(unsigned value) {
    return value == RECORD_PROMPT_END || value == RECORD_TURN_END;
}

void record_head_key_encode(const struct record_head_key *key, uint8_t out[RECORD_HEAD_KEY_BYTES]) {
    assert(is_head_kind(key->kind));
    put_u64(out, key->turn);
    out[8] = (uint8_t)key->kind;
    memcpy(out + 9, key->state_digest, SHORT_DIGEST_BYTES);
    memcpy(out + 17, key->conversation, RECORD_CONVERSATION_BYTES);
}

enum err record_head_key_decode(const uint8_t *bytes, size_t len, struct record_head_key *out) {
    if (len != RECORD_HEAD_KEY_BYTES || !is_head_kind(bytes[8])) {
        return err_fail(ERR_FORMAT, "record: no head key");
    }
    *out =
        (struct record_head_key){.turn = get_u64(bytes), .kind = (enum record_head_kind)bytes[8]};
    memcpy(out->state_digest, bytes + 9, SHORT_DIGEST_BYTES);
    memcpy(out->conversation, bytes + 17, RECORD_CONVERSATION_BYTES);
    return ERR_OK;
}

int record_head_key_matches(const uint8_t *key, size_t len, const struct record_head_key *wanted,
                            int is_same_line) {
    uint8_t encoded[RECORD_HEAD_KEY_BYTES];
    record_head_key_encode(wanted, encoded);
    size_t from = is_same_line ? 8 : 17;
    return len == RECORD_HEAD_KEY_BYTES &&
           memcmp(key + from, encoded + from, RECORD_HEAD_KEY_BYTES - from) == 0;
}

void record_lineage_key_encode(uint64_t lineage, uint8_t out[RECORD_LINEAGE_KEY_BYTES]) {
    put_u64(out, lineage);
}

void record_run_key_encode(const struct record_object_key *key, uint32_t run,
                           uint8_t out[RECORD_RUN_KEY_BYTES]) {
    assert(is_part(key->part));
    put_u32(out, run);
    put_u64(out + 4, key->index);
    out[12] = (uint8_t)key->part;
    put_u64(out + 13, key->lineage);
}

enum err record_run_key_decode(const uint8_t *bytes, size_t len, struct record_object_key *key_out,
                               uint32_t *run_out) {
    if (len != RECORD_RUN_KEY_BYTES || !is_part(bytes[12])) {
        return err_fail(ERR_FORMAT, "record: no run key");
    }
    *key_out = (struct record_object_key){.part = (enum record_part)bytes[12],
                                          .lineage = get_u64(bytes + 13),
                                          .index = get_u64(bytes + 4)};
    *run_out = get_u32(bytes);
    return ERR_OK;
}

void record_owner_key_encode(const struct record_owner_key *key,
                             uint8_t out[RECORD_OWNER_KEY_BYTES]) {
    put_u64(out, key->lineage);
    memcpy(out + 8, key->conversation, RECORD_CONVERSATION_BYTES);
    out[40] = 'o';
}

enum err record_owner_key_decode(const uint8_t *bytes, size_t len, struct record_owner_key *out) {
    if (len != RECORD_OWNER_KEY_BYTES || bytes[40] != 'o') {
        return err_fail(ERR_FORMAT, "record: no owner key");
    }
    out->lineage = get_u64(bytes);
    memcpy(out->conversation, bytes + 8, RECORD_CONVERSATION_BYTES);
    return ERR_OK;
}

void record_child_key_encode(const struct record_child_key *key,
                             uint8_t out[RECORD_CHILD_KEY_BYTES]) {
    put_u64(out, key->child);
    put_u64(out + 8, key->parent);
    out[16] = 'c';
}

enum err record_child_key_decode(const uint8_t *bytes, size_t len, struct record_child_key *out) {
    if (len != RECORD_CHILD_KEY_BYTES || bytes[16] != 'c') {
        return err_fail(ERR_FORMAT, "record: no child key");
    }
    *out = (struct record_child_key){.parent = get_u64(bytes + 8), .child = get_u64(bytes)};
    return ERR_OK;
}

void record_object_identity(const struct record_object_key *key,
                            uint8_t out[RECORD_IDENTITY_BYTES]) {
    out[0] = (uint8_t)key->part;
    put_u64(out + 1, key->lineage);
    put_u64(out + 9, key->index);
}

enum record_part record_tail_part(enum record_head_kind kind) {
    return kind == RECORD_TURN_END ? RECORD_TAIL : RECORD_PROMPT_TAIL;
}

enum record_part record_state_part(enum record_head_kind kind) {
    return kind == RECORD_TURN_END ? RECORD_STATE : RECORD_PROMPT_STATE;
}

/* --- the common frame ------------------------------------------------------------------ */

struct frame {
    const char *name; /* for messages */
    uint32_t magic;
    size_t bytes;
    size_t zeros_at; /* from here to the checksum all is zero */
};

static const struct frame *head_frame(void) {
    static const struct frame frame = {"head", MAGIC_HEAD, RECORD_HEAD_BYTES, HEAD_ZEROS_AT};
    return &frame;
}

static void checksum(const uint8_t *key, size_t key_len, const uint8_t *bytes, size_t len,
                     uint8_t out[CHECKSUM_BYTES]) {
    uint8_t joined[RECORD_KEY_BYTES_MAX + RECORD_HEAD_BYTES];
    assert(key_len <= RECORD_KEY_BYTES_MAX && len <= RECORD_HEAD_BYTES);
    memcpy(joined, key, key_len);
    memcpy(joined + key_len, bytes, len);
    XXH128_canonical_t canonical;
    XXH128_canonicalFromHash(&canonical, XXH3_128bits(joined, key_len + len));
    _Static_assert(sizeof canonical.digest == CHECKSUM_BYTES, "checksum");
    memcpy(out, canonical.digest, CHECKSUM_BYTES);
}

static void seal(const struct frame *frame, const uint8_t *key, size_t key_len, uint8_t *bytes) {
    put_u32(bytes, frame->magic);
    bytes[4] = RECORD_VERSION;
    bytes[5] = 0;
    bytes[6] = (uint8_t)(frame->bytes & 0xff);
    bytes[7] = (uint8_t)(frame->bytes >> 8);
    size_t covered = frame->bytes - CHECKSUM_BYTES;
    checksum(key, key_len, bytes, covered, bytes + covered);
}

static enum err check(const struct frame *frame, const uint8_t *key, size_t key_len,
                      const uint8_t *bytes, size_t len) {
    if (len < 8 || get_u32(bytes) != frame->magic) {
        return err_fail(ERR_FORMAT, "record: no %s record", frame->name);
    }
    unsigned version = (unsigned)bytes[4] | (unsigned)bytes[5] << 8;
    if (version > RECORD_VERSION) {
        return err_fail(ERR_UNSUPPORTED,
                        "record: %s record of version %u, this build reads up to %d", frame->name,
                        version, RECORD_VERSION);
    }
    size_t said = (size_t)bytes[6] | (size_t)bytes[7] << 8;
    if (version == 0 || len != frame->bytes || said != len || key_len > RECORD_KEY_BYTES_MAX) {
        return err_fail(ERR_FORMAT, "record: %s record of %zu bytes, expected %zu", frame->name,
                        len, frame->bytes);
    }
    size_t covered = frame->bytes - CHECKSUM_BYTES;
    uint8_t expected[CHECKSUM_BYTES];
    checksum(key, key_len, bytes, covered, expected);
    if (memcmp(expected, bytes + covered, CHECKSUM_BYTES) != 0) {
        return err_fail(ERR_CORRUPT, "record: %s record fails its checksum", frame->name);
    }
    if (!is_zero(bytes + frame->zeros_at, covered - frame->zeros_at)) {
        return err_fail(ERR_UNSUPPORTED, "record: %s record uses fields this build does not know",
                        frame->name);
    }
    return ERR_OK;
}

/* --- head ------------------------------------------------------------------------------ */

/* What makes a head usable without looking at its objects; asserted before it is written, checked
 * after it is read. */
static int head_is_sound(const struct record_head *head) {
    if (head->lineage == 0 || head->block_size == 0 || head->tail_tokens >= head->block_size ||
        head->block_count > (UINT64_MAX - head->tail_tokens) / head->block_size ||
        head->length != head->block_count * head->block_size + head->tail_tokens ||
        (head->flags & ~(uint32_t)RECORD_HEAD_PINNED) != 0) {
        return 0;
    }
    int has_tail = head->tail_tokens > 0 && head->block_bytes > 0;
    return (head->tail_coded_bytes != 0) == has_tail &&
           (head->state_coded_bytes != 0) == (head->state_bytes != 0);
}

void record_head_encode(const struct record_head *head, uint8_t out[RECORD_HEAD_BYTES]) {
    assert(head_is_sound(head));
    uint8_t key[RECORD_HEAD_KEY_BYTES];
    record_head_key_encode(&head->key, key);
    memset(out, 0, RECORD_HEAD_BYTES);
    put_u32(out + 8, head->flags);
    put_u32(out + 12, head->block_size);
    put_u32(out + 16, head->tail_tokens);
    memcpy(out + 24, head->key.state_digest, RECORD_DIGEST_BYTES);
    memcpy(out + 56, head->chain_digest, RECORD_DIGEST_BYTES);
    memcpy(out + 88, head->numerics_class, strnlen(head->numerics_class, RECORD_CLASS_BYTES));
    put_u64(out + 120, head->length);
    put_u64(out + 128, head->lineage);
    put_u64(out + 136, head->block_count);
    put_u64(out + 144, head->block_bytes);
    put_u64(out + 152, head->state_bytes);
    put_u64(out + 160, head->tail_coded_bytes);
    put_u64(out + 168, head->state_coded_bytes);
    put_u32(out + 176, head->block_element);
    put_u32(out + 180, head->state_element);
    put_u64(out + 184, head->created_ms);
    put_u64(out + 192, head->used_ms);
    put_u64(out + 200, head->hits);
    put_u64(out + 208, head->expires_ms);
    seal(head_frame(), key, sizeof key, out);
}

enum err record_head_decode(const uint8_t *key, size_t key_len, const uint8_t *bytes, size_t len,
                            struct record_head *out) {
    TRY(check(head_frame(), key, key_len, bytes, len));
    struct record_head head = {
        .flags = get_u32(bytes + 8),
        .block_size = get_u32(bytes + 12),
        .tail_tokens = get_u32(bytes + 16),
        .length = get_u64(bytes + 120),
        .lineage = get_u64(bytes + 128),
        .block_count = get_u64(bytes + 136),
        .block_bytes = get_u64(bytes + 144),
        .state_bytes = get_u64(bytes + 152),
        .tail_coded_bytes = get_u64(bytes + 160),
        .state_coded_bytes = get_u64(bytes + 168),
        .block_element = get_u32(bytes + 176),
        .state_element = get_u32(bytes + 180),
        .created_ms = get_u64(bytes + 184),
        .used_ms = get_u64(bytes + 192),
        .hits = get_u64(bytes + 200),
        .expires_ms = get_u64(bytes + 208),
    };
    TRY(record_head_key_decode(key, key_len, &head.key));
    if (memcmp(head.key.state_digest, bytes + 24, SHORT_DIGEST_BYTES) != 0) {
        return err_fail(ERR_CORRUPT, "record: head record of another state digest than its key's");
    }
    memcpy(head.key.state_digest, bytes + 24, RECORD_DIGEST_BYTES);
    memcpy(head.chain_digest, bytes + 56, RECORD_DIGEST_BYTES);
    memcpy(head.numerics_class, bytes + 88, RECORD_CLASS_BYTES);
    size_t class_len = strlen(head.numerics_class);
    if (!is_zero(bytes + 88 + class_len, RECORD_CLASS_BYTES - class_len)) {
        return err_fail(ERR_CORRUPT, "record: head record with bytes behind its numerics class");
    }
    if ((head.flags & ~(uint32_t)RECORD_HEAD_PINNED) != 0) {
        return err_fail(ERR_UNSUPPORTED,
                        "record: head record with flags 0x%x that this build does "
                        "not know",
                        (unsigned)head.flags);
    }
    if (get_u32(bytes + 20) != 0 || !head_is_sound(&head)) {
        return err_fail(ERR_CORRUPT, "record: head record contradicts itself");
    }
    *out = head;
    return ERR_OK;
}

/* --- lineage --------------------------------------------------------------------------- */

static const struct frame *lineage_frame(void) {
    static const struct frame frame = {"lineage", MAGIC_LINEAGE, RECORD_LINEAGE_BYTES,
                                       LINEAGE_ZEROS_AT};
    return &frame;
}

static int lineage_is_sound(const struct record_lineage *lineage) {
    return lineage->id != 0 && lineage->parent < lineage->id &&
           lineage->first_block <= lineage->end_block &&
           (lineage->parent != 0 || lineage->first_block == 0);
}

void record_lineage_encode(const struct record_lineage *lineage,
                           uint8_t out[RECORD_LINEAGE_BYTES]) {
    assert(lineage_is_sound(lineage));
    uint8_t key[RECORD_LINEAGE_KEY_BYTES];
    record_lineage_key_encode(lineage->id, key);
    memset(out, 0, RECORD_LINEAGE_BYTES);
    put_u64(out + 8, lineage->id);
    memcpy(out + 16, lineage->conversation, RECORD_CONVERSATION_BYTES);
    memcpy(out + 48, lineage->state_digest, RECORD_DIGEST_BYTES);
    put_u64(out + 80, lineage->parent);
    put_u64(out + 88, lineage->first_block);
    put_u64(out + 96, lineage->end_block);
    put_u64(out + 104, lineage->stored_bytes);
    seal(lineage_frame(), key, sizeof key, out);
}

enum err record_lineage_decode(const uint8_t *key, size_t key_len, const uint8_t *bytes, size_t len,
                               struct record_lineage *out) {
    TRY(check(lineage_frame(), key, key_len, bytes, len));
    struct record_lineage lineage = {
        .id = get_u64(bytes + 8),
        .parent = get_u64(bytes + 80),
        .first_block = get_u64(bytes + 88),
        .end_block = get_u64(bytes + 96),
        .stored_bytes = get_u64(bytes + 104),
    };
    memcpy(lineage.conversation, bytes + 16, RECORD_CONVERSATION_BYTES);
    memcpy(lineage.state_digest, bytes + 48, RECORD_DIGEST_BYTES);
    if (key_len != RECORD_LINEAGE_KEY_BYTES || get_u64(key) != lineage.id ||
        !lineage_is_sound(&lineage)) {
        return err_fail(ERR_CORRUPT, "record: lineage record contradicts itself or its key");
    }
    *out = lineage;
    return ERR_OK;
}

/* --- format ---------------------------------------------------------------------------- */

static const struct frame *format_frame(void) {
    static const struct frame frame = {"format", MAGIC_FORMAT, RECORD_FORMAT_BYTES,
                                       FORMAT_ZEROS_AT};
    return &frame;
}

void record_format_encode(const struct record_format *format, uint8_t out[RECORD_FORMAT_BYTES]) {
    memset(out, 0, RECORD_FORMAT_BYTES);
    put_u32(out + 8, format->version);
    put_u64(out + 16, format->lineage_next);
    put_u64(out + 24, format->created_ms);
    seal(format_frame(), (const uint8_t *)RECORD_FORMAT_KEY, strlen(RECORD_FORMAT_KEY), out);
}

enum err record_format_decode(const uint8_t *bytes, size_t len, struct record_format *out) {
    TRY(check(format_frame(), (const uint8_t *)RECORD_FORMAT_KEY, strlen(RECORD_FORMAT_KEY), bytes,
              len));
    struct record_format format = {
        .version = get_u32(bytes + 8),
        .lineage_next = get_u64(bytes + 16),
        .created_ms = get_u64(bytes + 24),
    };
    if (format.version > RECORD_FORMAT_VERSION) {
        return err_fail(ERR_UNSUPPORTED,
                        "the state was written in format %u, this build reads up to %d: use the "
                        "newer program, or another directory",
                        (unsigned)format.version, RECORD_FORMAT_VERSION);
    }
    if (format.version == 0 || format.lineage_next == 0 || get_u32(bytes + 12) != 0) {
        return err_fail(ERR_CORRUPT, "record: format record contradicts itself");
    }
    *out = format;
    return ERR_OK;
}

/* --- garbage --------------------------------------------------------------------------- */

static const struct frame *garbage_frame(void) {
    static const struct frame frame = {"garbage", MAGIC_GARBAGE, RECORD_GARBAGE_BYTES,
                                       GARBAGE_ZEROS_AT};
    return &frame;
}

void record_garbage_key_encode(const struct record_garbage *garbage,
                               uint8_t out[RECORD_GARBAGE_KEY_BYTES]) {
    assert(is_part(garbage->part));
    put_u64(out, garbage->first);
    out[8] = (uint8_t)garbage->part;
    put_u64(out + 9, garbage->lineage);
}

void record_garbage_encode(const struct record_garbage *garbage,
                           uint8_t out[RECORD_GARBAGE_BYTES]) {
    assert(garbage->first < garbage->end);
    uint8_t key[RECORD_GARBAGE_KEY_BYTES];
    record_garbage_key_encode(garbage, key);
    memset(out, 0, RECORD_GARBAGE_BYTES);
    put_u64(out + 8, garbage->end);
    seal(garbage_frame(), key, sizeof key, out);
}

enum err record_garbage_decode(const uint8_t *key, size_t key_len, const uint8_t *bytes, size_t len,
                               struct record_garbage *out) {
    if (key_len != RECORD_GARBAGE_KEY_BYTES || !is_part(key[8])) {
        return err_fail(ERR_FORMAT, "record: no garbage key");
    }
    TRY(check(garbage_frame(), key, key_len, bytes, len));
    struct record_garbage garbage = {.part = (enum record_part)key[8],
                                     .lineage = get_u64(key + 9),
                                     .first = get_u64(key),
                                     .end = get_u64(bytes + 8)};
    if (garbage.first >= garbage.end) {
        return err_fail(ERR_CORRUPT, "record: garbage record contradicts itself");
    }
    *out = garbage;
    return ERR_OK;
}

/* --- quarantine ------------------------------------------------------------------------ */

static const struct frame *quarantine_frame(void) {
    static const struct frame frame = {"quarantine", MAGIC_QUARANTINE, RECORD_QUARANTINE_BYTES,
                                       QUARANTINE_ZEROS_AT};
    return &frame;
}

void record_quarantine_encode(const uint8_t head_key[RECORD_HEAD_KEY_BYTES],
                              const struct record_quarantine *quarantine,
                              uint8_t out[RECORD_QUARANTINE_BYTES]) {
    assert(is_part(quarantine->object.part));
    memset(out, 0, RECORD_QUARANTINE_BYTES);
    put_u64(out + 8, quarantine->wall_ms);
    put_u32(out + 16, quarantine->verdict);
    put_u32(out + 20, quarantine->object.part);
    put_u64(out + 24, quarantine->object.lineage);
    put_u64(out + 32, quarantine->object.index);
    seal(quarantine_frame(), head_key, RECORD_HEAD_KEY_BYTES, out);
}

enum err record_quarantine_decode(const uint8_t *key, size_t key_len, const uint8_t *bytes,
                                  size_t len, struct record_quarantine *out) {
    TRY(check(quarantine_frame(), key, key_len, bytes, len));
    uint32_t part = get_u32(bytes + 20);
    if (key_len != RECORD_HEAD_KEY_BYTES || !is_part(part)) {
        return err_fail(ERR_CORRUPT, "record: quarantine record contradicts itself");
    }
    *out = (struct record_quarantine){
        .wall_ms = get_u64(bytes + 8),
        .verdict = get_u32(bytes + 16),
        .object = {.part = (enum record_part)part,
                   .lineage = get_u64(bytes + 24),
                   .index = get_u64(bytes + 32)},
    };
    return ERR_OK;
}
