/*
 * key = BLAKE2b-256, keyed with the secret, personal string as below, no salt, over
 *     length of tenant (64 bits, little-endian), tenant, length of salt, salt, length of id, id
 */
#include "ledger/conversation_key.h"

#include "ledger/record_frame.h"

#include <sodium.h>
#include <string.h>

_Static_assert(crypto_generichash_blake2b_PERSONALBYTES == 16, "personal strings have 16 bytes");
_Static_assert(SECRET_BYTES >= crypto_generichash_blake2b_KEYBYTES_MIN &&
                   SECRET_BYTES <= crypto_generichash_blake2b_KEYBYTES_MAX,
               "the secret is a BLAKE2b key");

static const char personal_conversation[] = "tern.conv.key.v1";
static const char personal_idempotency[] = "tern.idem.key.v1";

static enum err check_part(const char *what, size_t part_bytes) {
    if (part_bytes > CONVERSATION_KEY_PART_BYTES_MAX) {
        return err_fail(ERR_INVALID, "%s of %zu bytes is longer than %d", what, part_bytes,
                        CONVERSATION_KEY_PART_BYTES_MAX);
    }
    return ERR_OK;
}

static void hash_part(crypto_generichash_blake2b_state *state, const char *part,
                      size_t part_bytes) {
    uint8_t length[8];
    record_frame_store_u64(length, part_bytes);
    crypto_generichash_blake2b_update(state, length, sizeof length);
    if (part_bytes > 0) {
        crypto_generichash_blake2b_update(state, (const uint8_t *)part, part_bytes);
    }
}

static void hash(const struct secret *secret, const char *personal,
                 const struct conversation_identity *identity, const char *name, size_t name_bytes,
                 struct conversation_key *out) {
    crypto_generichash_blake2b_state state;
    crypto_generichash_blake2b_init_salt_personal(&state, secret->bytes, SECRET_BYTES,
                                                  CONVERSATION_KEY_BYTES, NULL,
                                                  (const uint8_t *)personal);
    hash_part(&state, identity->tenant, identity->tenant_bytes);
    hash_part(&state, identity->salt, identity->salt_bytes);
    hash_part(&state, name, name_bytes);
    crypto_generichash_blake2b_final(&state, out->bytes, CONVERSATION_KEY_BYTES);
    sodium_memzero(&state, sizeof state);
}

enum err conversation_key_make(const struct secret *secret,
                               const struct conversation_identity *identity,
                               struct conversation_key *out) {
    TRY(check_part("tenant", identity->tenant_bytes));
    TRY(check_part("cache_salt", identity->salt_bytes));
    TRY(check_part("conversation_id", identity->id_bytes));
    if (identity->id_bytes == 0) {
        return err_fail(ERR_INVALID, "conversation_id is empty");
    }
    hash(secret, personal_conversation, identity, identity->id, identity->id_bytes, out);
    return ERR_OK;
}

enum err conversation_key_of_idempotency(const struct secret *secret,
                                         const struct conversation_identity *identity,
                                         const char *idempotency_key, size_t key_bytes,
                                         struct conversation_key *out) {
    TRY(check_part("tenant", identity->tenant_bytes));
    TRY(check_part("cache_salt", identity->salt_bytes));
    TRY(check_part("Idempotency-Key", key_bytes));
    if (key_bytes == 0) {
        return err_fail(ERR_INVALID, "Idempotency-Key is empty");
    }
    hash(secret, personal_idempotency, identity, idempotency_key, key_bytes, out);
    return ERR_OK;
}

int conversation_key_compare(const struct conversation_key *left,
                             const struct conversation_key *right) {
    return memcmp(left->bytes, right->bytes, CONVERSATION_KEY_BYTES);
}
