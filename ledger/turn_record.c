/*
 * Payloads, behind the 40 bytes of record_frame. Integers are little-endian; times are
 * milliseconds of Unix time. The sum of the parts must be the payload's length exactly.
 *
 * Turn (own key: serial, turn; both big-endian, as in the database):
 *    0   8  base tokens            48   4  turn               88   4  extension bytes
 *    8   8  end tokens             52   4  parent turn        92   4  zero
 *   16   8  prompt-end tokens      56   4  pending tokens     96  32  idempotency hash or zeros
 *   24   8  generation             60   4  finish            128  32  request digest
 *   32   8  started                64   4  flags             160  32  chain digest: end
 *   40   8  committed              68   4  prompt ids        192  32  chain digest: head
 *                                  72   4  generated ids     224  32  chain digest: prompt end
 *                                  76   4  closing ids       256      ids: prompt, generated,
 *                                  80   4  messages bytes             closing, 4 bytes each; then
 *                                  84   4  response bytes             messages, response, extension
 *
 * Conversation (own key: the conversation key):
 *    0   8  serial                 48   4  turn               80  32  chain: boundary
 *    8   8  created                52   4  pending tokens    112  32  dialect digest
 *   16   8  updated                56   4  flags             144 128  chain: rest, 32 ids
 *   24   8  expires, 0: never      60   4  tenant bytes      272      tenant, salt, id, extension
 *   32   8  generation             64   4  salt bytes
 *   40   8  tokens of the line     68   4  id bytes
 *                                  72   4  extension bytes
 *                                  76   4  zero
 *
 * Dialect (own key: serial, turn 0): the text.
 */
#include "ledger/turn_record.h"

#include "base/fault.h"
#include "ledger/record_frame.h"

#include <stdlib.h>
#include <string.h>

enum { /* turn */
       BASE_TOKENS_AT = 0,
       END_TOKENS_AT = 8,
       PROMPT_END_AT = 16,
       GENERATION_AT = 24,
       STARTED_AT = 32,
       COMMITTED_AT = 40,
       TURN_AT = 48,
       PARENT_AT = 52,
       PENDING_AT = 56,
       FINISH_AT = 60,
       FLAGS_AT = 64,
       PROMPT_COUNT_AT = 68,
       GENERATED_COUNT_AT = 72,
       CLOSING_COUNT_AT = 76,
       MESSAGES_BYTES_AT = 80,
       RESPONSE_BYTES_AT = 84,
       EXTENSION_BYTES_AT = 88,
       TURN_ZERO_AT = 92,
       IDEMPOTENCY_AT = 96,
       REQUEST_AT = 128,
       CHAIN_DIGEST_AT = 160,
       HEAD_DIGEST_AT = 192,
       PROMPT_END_DIGEST_AT = 224,
       TURN_FIXED_BYTES = 256,
};

enum { /* conversation */
       SERIAL_AT = 0,
       CREATED_AT = 8,
       UPDATED_AT = 16,
       EXPIRES_AT = 24,
       CONVERSATION_GENERATION_AT = 32,
       TOKENS_AT = 40,
       CONVERSATION_TURN_AT = 48,
       CONVERSATION_PENDING_AT = 52,
       CONVERSATION_FLAGS_AT = 56,
       TENANT_BYTES_AT = 60,
       SALT_BYTES_AT = 64,
       ID_BYTES_AT = 68,
       CONVERSATION_EXTENSION_BYTES_AT = 72,
       CONVERSATION_ZERO_AT = 76,
       BOUNDARY_AT = 80,
       DIALECT_DIGEST_AT = 112,
       REST_AT = 144,
       CONVERSATION_FIXED_BYTES = 272,
};

_Static_assert(PROMPT_END_DIGEST_AT + TOKEN_CHAIN_DIGEST_BYTES == TURN_FIXED_BYTES, "no gap");
_Static_assert((RECORD_FRAME_HEADER_BYTES + TURN_FIXED_BYTES) % 4 == 0, "ids are aligned");
_Static_assert(REST_AT + 4 * TOKEN_CHAIN_BLOCK_TOKENS == CONVERSATION_FIXED_BYTES, "no gap");

enum { PLACE_KEY_BYTES = 12 };

static struct record_frame_key place_key(struct turn_record_place place,
                                         uint8_t bytes[PLACE_KEY_BYTES]) {
    for (int i = 0; i < 8; i++) {
        bytes[i] = (uint8_t)(place.serial >> (8 * (7 - i)));
    }
    for (int i = 0; i < 4; i++) {
        bytes[8 + i] = (uint8_t)(place.turn >> (8 * (3 - i)));
    }
    return (struct record_frame_key){bytes, PLACE_KEY_BYTES};
}

static struct record_frame_key conversation_frame_key(const struct conversation_key *key) {
    return (struct record_frame_key){key->bytes, CONVERSATION_KEY_BYTES};
}

/* Turns */

static enum err check_ids(const char *what, const int32_t *ids, size_t count) {
    for (size_t i = 0; i < count; i++) {
        if (ids[i] < 0) {
            return err_fail(ERR_FORMAT, "%s id %zu is %d, ids are not negative", what, i, ids[i]);
        }
    }
    return ERR_OK;
}

static enum err check_sizes(const struct turn_record *turn) {
    const size_t sizes[] = {
        turn->prompt_count,   turn->generated_count, turn->closing_count,
        turn->messages_bytes, turn->response_bytes,  turn->extension_bytes,
    };
    size_t total = RECORD_FRAME_HEADER_BYTES + TURN_FIXED_BYTES;
    for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
        size_t unit = i < 3 ? sizeof(int32_t) : 1;
        if (sizes[i] > (TURN_RECORD_BYTES_MAX - total) / unit) {
            return err_fail(ERR_FORMAT, "turn of more than %d bytes", TURN_RECORD_BYTES_MAX);
        }
        total += sizes[i] * unit;
    }
    return ERR_OK;
}

enum err turn_record_check(const struct turn_record *turn) {
    TRY(check_sizes(turn));
    uint64_t added = turn->prompt_count + turn->generated_count + turn->closing_count;
    if (turn->turn == 0 || turn->parent_turn >= turn->turn) {
        return err_fail(ERR_FORMAT, "turn %u with the parent %u", turn->turn, turn->parent_turn);
    }
    if (added == 0 || turn->base_tokens > TURN_RECORD_TOKENS_MAX - added ||
        turn->end_tokens != turn->base_tokens + added) {
        return err_fail(ERR_FORMAT, "turn of %llu ids from length %llu to %llu",
                        (unsigned long long)added, (unsigned long long)turn->base_tokens,
                        (unsigned long long)turn->end_tokens);
    }
    if (turn->pending_tokens > added) {
        return err_fail(ERR_FORMAT, "%u pending tokens in a turn of %llu", turn->pending_tokens,
                        (unsigned long long)added);
    }
    if (turn->prompt_end_tokens != 0 &&
        (turn->prompt_end_tokens < turn->base_tokens ||
         turn->prompt_end_tokens > turn->base_tokens + turn->prompt_count)) {
        return err_fail(ERR_FORMAT, "prompt end %llu outside the prompt",
                        (unsigned long long)turn->prompt_end_tokens);
    }
    if ((int)turn->finish < TURN_RECORD_FINISH_STOP ||
        (int)turn->finish > TURN_RECORD_FINISH_NONE) {
        return err_fail(ERR_FORMAT, "turn with the finish reason %d", (int)turn->finish);
    }
    TRY(check_ids("prompt", turn->prompt_ids, turn->prompt_count));
    TRY(check_ids("generated", turn->generated_ids, turn->generated_count));
    return check_ids("closing", turn->closing_ids, turn->closing_count);
}

static uint8_t *store_ids(uint8_t *at, const int32_t *ids, size_t count) {
    for (size_t i = 0; i < count; i++) {
        record_frame_store_u32(at + 4 * i, (uint32_t)ids[i]);
    }
    return at + 4 * count;
}

static uint8_t *store_bytes(uint8_t *at, const void *bytes, size_t len) {
    if (len > 0) {
        memcpy(at, bytes, len);
    }
    return at + len;
}

static size_t turn_payload_bytes(const struct turn_record *turn) {
    size_t ids = turn->prompt_count + turn->generated_count + turn->closing_count;
    return TURN_FIXED_BYTES + 4 * ids + turn->messages_bytes + turn->response_bytes +
           turn->extension_bytes;
}

static void store_turn(const struct turn_record *turn, uint8_t *payload) {
    record_frame_store_u64(payload + BASE_TOKENS_AT, turn->base_tokens);
    record_frame_store_u64(payload + END_TOKENS_AT, turn->end_tokens);
    record_frame_store_u64(payload + PROMPT_END_AT, turn->prompt_end_tokens);
    record_frame_store_u64(payload + GENERATION_AT, turn->generation);
    record_frame_store_u64(payload + STARTED_AT, turn->started_ms);
    record_frame_store_u64(payload + COMMITTED_AT, turn->committed_ms);
    record_frame_store_u32(payload + TURN_AT, turn->turn);
    record_frame_store_u32(payload + PARENT_AT, turn->parent_turn);
    record_frame_store_u32(payload + PENDING_AT, turn->pending_tokens);
    record_frame_store_u32(payload + FINISH_AT, (uint32_t)turn->finish);
    record_frame_store_u32(payload + FLAGS_AT, turn->flags);
    record_frame_store_u32(payload + PROMPT_COUNT_AT, (uint32_t)turn->prompt_count);
    record_frame_store_u32(payload + GENERATED_COUNT_AT, (uint32_t)turn->generated_count);
    record_frame_store_u32(payload + CLOSING_COUNT_AT, (uint32_t)turn->closing_count);
    record_frame_store_u32(payload + MESSAGES_BYTES_AT, (uint32_t)turn->messages_bytes);
    record_frame_store_u32(payload + RESPONSE_BYTES_AT, (uint32_t)turn->response_bytes);
    record_frame_store_u32(payload + EXTENSION_BYTES_AT, (uint32_t)turn->extension_bytes);
    memcpy(payload + IDEMPOTENCY_AT, turn->idempotency_hash, CONVERSATION_KEY_BYTES);
    memcpy(payload + REQUEST_AT, turn->request_digest, TURN_RECORD_DIGEST_BYTES);
    memcpy(payload + CHAIN_DIGEST_AT, turn->chain_digest, TOKEN_CHAIN_DIGEST_BYTES);
    memcpy(payload + HEAD_DIGEST_AT, turn->head_digest, TOKEN_CHAIN_DIGEST_BYTES);
    memcpy(payload + PROMPT_END_DIGEST_AT, turn->prompt_end_digest, TOKEN_CHAIN_DIGEST_BYTES);
    uint8_t *at = payload + TURN_FIXED_BYTES;
    at = store_ids(at, turn->prompt_ids, turn->prompt_count);
    at = store_ids(at, turn->generated_ids, turn->generated_count);
    at = store_ids(at, turn->closing_ids, turn->closing_count);
    at = store_bytes(at, turn->messages, turn->messages_bytes);
    at = store_bytes(at, turn->response, turn->response_bytes);
    at = store_bytes(at, turn->extension, turn->extension_bytes);
    assert((size_t)(at - payload) == turn_payload_bytes(turn));
}

enum err turn_record_encode(const struct turn_record *turn, uint64_t serial, struct buf *out) {
    uint8_t key[PLACE_KEY_BYTES];
    uint8_t *payload;
    if (turn_record_check(turn) != ERR_OK) {
        return err_context(ERR_INVALID, "turn to be encoded");
    }
    TRY(record_frame_begin(RECORD_FRAME_TURN, turn_payload_bytes(turn), out, &payload));
    store_turn(turn, payload);
    record_frame_seal(out, place_key((struct turn_record_place){serial, turn->turn}, key));
    return ERR_OK;
}

static void load_turn(const uint8_t *payload, struct turn_record *turn) {
    turn->base_tokens = record_frame_load_u64(payload + BASE_TOKENS_AT);
    turn->end_tokens = record_frame_load_u64(payload + END_TOKENS_AT);
    turn->prompt_end_tokens = record_frame_load_u64(payload + PROMPT_END_AT);
    turn->generation = record_frame_load_u64(payload + GENERATION_AT);
    turn->started_ms = record_frame_load_u64(payload + STARTED_AT);
    turn->committed_ms = record_frame_load_u64(payload + COMMITTED_AT);
    turn->turn = record_frame_load_u32(payload + TURN_AT);
    turn->parent_turn = record_frame_load_u32(payload + PARENT_AT);
    turn->pending_tokens = record_frame_load_u32(payload + PENDING_AT);
    turn->finish = (enum turn_record_finish)record_frame_load_u32(payload + FINISH_AT);
    turn->flags = record_frame_load_u32(payload + FLAGS_AT);
    turn->prompt_count = record_frame_load_u32(payload + PROMPT_COUNT_AT);
    turn->generated_count = record_frame_load_u32(payload + GENERATED_COUNT_AT);
    turn->closing_count = record_frame_load_u32(payload + CLOSING_COUNT_AT);
    turn->messages_bytes = record_frame_load_u32(payload + MESSAGES_BYTES_AT);
    turn->response_bytes = record_frame_load_u32(payload + RESPONSE_BYTES_AT);
    turn->extension_bytes = record_frame_load_u32(payload + EXTENSION_BYTES_AT);
    memcpy(turn->idempotency_hash, payload + IDEMPOTENCY_AT, CONVERSATION_KEY_BYTES);
    memcpy(turn->request_digest, payload + REQUEST_AT, TURN_RECORD_DIGEST_BYTES);
    memcpy(turn->chain_digest, payload + CHAIN_DIGEST_AT, TOKEN_CHAIN_DIGEST_BYTES);
    memcpy(turn->head_digest, payload + HEAD_DIGEST_AT, TOKEN_CHAIN_DIGEST_BYTES);
    memcpy(turn->prompt_end_digest, payload + PROMPT_END_DIGEST_AT, TOKEN_CHAIN_DIGEST_BYTES);
}

/* Turns COUNT stored ids at AT into the machine's, in place. AT is aligned. */
static const int32_t *load_ids(uint8_t **at, size_t count) {
    const int32_t *ids = (const int32_t *)(void *)*at;
    for (size_t i = 0; i < count; i++) {
        uint32_t id = record_frame_load_u32(*at + 4 * i);
        memcpy(*at + 4 * i, &id, sizeof id);
    }
    *at += 4 * count;
    return ids;
}

static const uint8_t *load_bytes(uint8_t **at, size_t len) {
    const uint8_t *bytes = *at;
    *at += len;
    return bytes;
}

static uint8_t *allocate(size_t size_bytes) {
    return fault_fails("turn_record.alloc") ? NULL : malloc(size_bytes);
}

enum err turn_record_decode(const uint8_t *bytes, size_t len, struct turn_record_place place,
                            struct turn_record *out) {
    uint8_t key[PLACE_KEY_BYTES];
    const uint8_t *payload;
    size_t payload_bytes;
    TRY(record_frame_open(RECORD_FRAME_TURN, bytes, len, place_key(place, key), &payload,
                          &payload_bytes));
    struct turn_record turn = {0};
    if (payload_bytes < TURN_FIXED_BYTES) {
        return err_fail(ERR_FORMAT, "turn of %zu bytes", payload_bytes);
    }
    load_turn(payload, &turn);
    TRY(check_sizes(&turn));
    if (turn_payload_bytes(&turn) != payload_bytes || turn.turn != place.turn ||
        record_frame_load_u32(payload + TURN_ZERO_AT) != 0) {
        return err_fail(ERR_FORMAT,
                        "turn %u in the place of turn %u, with parts of %zu bytes in %zu",
                        turn.turn, place.turn, turn_payload_bytes(&turn), payload_bytes);
    }
    turn.storage = allocate(payload_bytes);
    if (turn.storage == NULL) {
        return err_fail(ERR_NOMEM, "turn of %zu bytes", payload_bytes);
    }
    memcpy(turn.storage, payload, payload_bytes);
    uint8_t *at = turn.storage + TURN_FIXED_BYTES;
    turn.prompt_ids = load_ids(&at, turn.prompt_count);
    turn.generated_ids = load_ids(&at, turn.generated_count);
    turn.closing_ids = load_ids(&at, turn.closing_count);
    turn.messages = load_bytes(&at, turn.messages_bytes);
    turn.response = load_bytes(&at, turn.response_bytes);
    turn.extension = load_bytes(&at, turn.extension_bytes);
    enum err code = turn_record_check(&turn);
    if (code != ERR_OK) {
        turn_record_done(&turn);
        return code;
    }
    *out = turn;
    return ERR_OK;
}

void turn_record_done(struct turn_record *turn) {
    free(turn->storage);
    *turn = (struct turn_record){0};
}

/* Conversations */

static enum err check_conversation(const struct conversation_record *conversation) {
    const struct conversation_identity *identity = &conversation->identity;
    if (identity->tenant_bytes > CONVERSATION_KEY_PART_BYTES_MAX ||
        identity->salt_bytes > CONVERSATION_KEY_PART_BYTES_MAX ||
        identity->id_bytes > CONVERSATION_KEY_PART_BYTES_MAX ||
        conversation->extension_bytes > TURN_RECORD_EXTENSION_BYTES_MAX) {
        return err_fail(ERR_FORMAT, "conversation with a name or an extension that is too long");
    }
    if (conversation->chain.length_tokens > TURN_RECORD_TOKENS_MAX ||
        conversation->pending_tokens > conversation->chain.length_tokens) {
        return err_fail(ERR_FORMAT, "conversation of %llu tokens, %u of them pending",
                        (unsigned long long)conversation->chain.length_tokens,
                        conversation->pending_tokens);
    }
    size_t rest = conversation->chain.length_tokens % TOKEN_CHAIN_BLOCK_TOKENS;
    for (size_t i = 0; i < TOKEN_CHAIN_BLOCK_TOKENS; i++) {
        int32_t id = conversation->chain.rest[i];
        if (i < rest ? id < 0 : id != 0) {
            return err_fail(ERR_FORMAT, "conversation whose chain has the id %d at %zu", id, i);
        }
    }
    return ERR_OK;
}

static size_t conversation_payload_bytes(const struct conversation_record *conversation) {
    return CONVERSATION_FIXED_BYTES + conversation->identity.tenant_bytes +
           conversation->identity.salt_bytes + conversation->identity.id_bytes +
           conversation->extension_bytes;
}

enum err turn_record_encode_conversation(const struct conversation_record *conversation,
                                         struct buf *out) {
    const struct conversation_identity *identity = &conversation->identity;
    uint8_t *payload;
    if (check_conversation(conversation) != ERR_OK) {
        return err_context(ERR_INVALID, "conversation to be encoded");
    }
    TRY(record_frame_begin(RECORD_FRAME_CONVERSATION, conversation_payload_bytes(conversation), out,
                           &payload));
    record_frame_store_u64(payload + SERIAL_AT, conversation->serial);
    record_frame_store_u64(payload + CREATED_AT, conversation->created_ms);
    record_frame_store_u64(payload + UPDATED_AT, conversation->updated_ms);
    record_frame_store_u64(payload + EXPIRES_AT, conversation->expires_ms);
    record_frame_store_u64(payload + CONVERSATION_GENERATION_AT, conversation->generation);
    record_frame_store_u64(payload + TOKENS_AT, conversation->chain.length_tokens);
    record_frame_store_u32(payload + CONVERSATION_TURN_AT, conversation->turn);
    record_frame_store_u32(payload + CONVERSATION_PENDING_AT, conversation->pending_tokens);
    record_frame_store_u32(payload + CONVERSATION_FLAGS_AT, conversation->flags);
    record_frame_store_u32(payload + TENANT_BYTES_AT, (uint32_t)identity->tenant_bytes);
    record_frame_store_u32(payload + SALT_BYTES_AT, (uint32_t)identity->salt_bytes);
    record_frame_store_u32(payload + ID_BYTES_AT, (uint32_t)identity->id_bytes);
    record_frame_store_u32(payload + CONVERSATION_EXTENSION_BYTES_AT,
                           (uint32_t)conversation->extension_bytes);
    memcpy(payload + BOUNDARY_AT, conversation->chain.boundary, TOKEN_CHAIN_DIGEST_BYTES);
    memcpy(payload + DIALECT_DIGEST_AT, conversation->dialect_digest, TURN_RECORD_DIGEST_BYTES);
    store_ids(payload + REST_AT, conversation->chain.rest, TOKEN_CHAIN_BLOCK_TOKENS);
    uint8_t *at = payload + CONVERSATION_FIXED_BYTES;
    at = store_bytes(at, identity->tenant, identity->tenant_bytes);
    at = store_bytes(at, identity->salt, identity->salt_bytes);
    at = store_bytes(at, identity->id, identity->id_bytes);
    store_bytes(at, conversation->extension, conversation->extension_bytes);
    record_frame_seal(out, conversation_frame_key(&conversation->key));
    return ERR_OK;
}

static void load_conversation(const uint8_t *payload, struct conversation_record *conversation) {
    struct conversation_identity *identity = &conversation->identity;
    conversation->serial = record_frame_load_u64(payload + SERIAL_AT);
    conversation->created_ms = record_frame_load_u64(payload + CREATED_AT);
    conversation->updated_ms = record_frame_load_u64(payload + UPDATED_AT);
    conversation->expires_ms = record_frame_load_u64(payload + EXPIRES_AT);
    conversation->generation = record_frame_load_u64(payload + CONVERSATION_GENERATION_AT);
    conversation->chain.length_tokens = record_frame_load_u64(payload + TOKENS_AT);
    conversation->turn = record_frame_load_u32(payload + CONVERSATION_TURN_AT);
    conversation->pending_tokens = record_frame_load_u32(payload + CONVERSATION_PENDING_AT);
    conversation->flags = record_frame_load_u32(payload + CONVERSATION_FLAGS_AT);
    identity->tenant_bytes = record_frame_load_u32(payload + TENANT_BYTES_AT);
    identity->salt_bytes = record_frame_load_u32(payload + SALT_BYTES_AT);
    identity->id_bytes = record_frame_load_u32(payload + ID_BYTES_AT);
    conversation->extension_bytes =
        record_frame_load_u32(payload + CONVERSATION_EXTENSION_BYTES_AT);
    memcpy(conversation->chain.boundary, payload + BOUNDARY_AT, TOKEN_CHAIN_DIGEST_BYTES);
    memcpy(conversation->dialect_digest, payload + DIALECT_DIGEST_AT, TURN_RECORD_DIGEST_BYTES);
    for (size_t i = 0; i < TOKEN_CHAIN_BLOCK_TOKENS; i++) {
        conversation->chain.rest[i] = (int32_t)record_frame_load_u32(payload + REST_AT + 4 * i);
    }
}

enum err turn_record_decode_conversation(const uint8_t *bytes, size_t len,
                                         const struct conversation_key *key,
                                         struct conversation_record *out) {
    const uint8_t *payload;
    size_t payload_bytes;
    TRY(record_frame_open(RECORD_FRAME_CONVERSATION, bytes, len, conversation_frame_key(key),
                          &payload, &payload_bytes));
    if (payload_bytes < CONVERSATION_FIXED_BYTES) {
        return err_fail(ERR_FORMAT, "conversation of %zu bytes", payload_bytes);
    }
    struct conversation_record conversation = {.key = *key};
    load_conversation(payload, &conversation);
    TRY(check_conversation(&conversation)); /* first: it bounds the sum below */
    if (conversation_payload_bytes(&conversation) != payload_bytes ||
        record_frame_load_u32(payload + CONVERSATION_ZERO_AT) != 0) {
        return err_fail(ERR_FORMAT, "conversation with parts of %zu bytes in %zu",
                        conversation_payload_bytes(&conversation), payload_bytes);
    }
    conversation.storage = allocate(payload_bytes);
    if (conversation.storage == NULL) {
        return err_fail(ERR_NOMEM, "conversation of %zu bytes", payload_bytes);
    }
    memcpy(conversation.storage, payload, payload_bytes);
    uint8_t *at = conversation.storage + CONVERSATION_FIXED_BYTES;
    struct conversation_identity *identity = &conversation.identity;
    identity->tenant = (const char *)load_bytes(&at, identity->tenant_bytes);
    identity->salt = (const char *)load_bytes(&at, identity->salt_bytes);
    identity->id = (const char *)load_bytes(&at, identity->id_bytes);
    conversation.extension = load_bytes(&at, conversation.extension_bytes);
    *out = conversation;
    return ERR_OK;
}

void turn_record_conversation_done(struct conversation_record *conversation) {
    free(conversation->storage);
    *conversation = (struct conversation_record){.storage = NULL};
}

/* Dialects */

enum err turn_record_encode_dialect(const uint8_t *text, size_t text_bytes, uint64_t serial,
                                    struct buf *out) {
    uint8_t key[PLACE_KEY_BYTES];
    uint8_t *payload;
    if (text_bytes > TURN_RECORD_BYTES_MAX - RECORD_FRAME_HEADER_BYTES) {
        return err_fail(ERR_INVALID, "dialect of %zu bytes", text_bytes);
    }
    TRY(record_frame_begin(RECORD_FRAME_DIALECT, text_bytes, out, &payload));
    store_bytes(payload, text, text_bytes);
    record_frame_seal(out, place_key((struct turn_record_place){serial, 0}, key));
    return ERR_OK;
}

enum err turn_record_decode_dialect(const uint8_t *bytes, size_t len, uint64_t serial,
                                    const uint8_t **text, size_t *text_bytes) {
    uint8_t key[PLACE_KEY_BYTES];
    return record_frame_open(RECORD_FRAME_DIALECT, bytes, len,
                             place_key((struct turn_record_place){serial, 0}, key), text,
                             text_bytes);
}
