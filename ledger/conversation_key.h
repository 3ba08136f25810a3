/*
 * The name of a conversation inside tern: BLAKE2b-256 of (tenant, cache_salt, conversation_id)
 * under the server's secret, so that no two tenants or salts can meet and keys tell nothing about
 * the names. Each part goes in with its length in front: ("ab", "c") and ("a", "bc") differ.
 *
 * Pure functions, any thread. libsodium must have been initialised (secret_load does).
 */
#ifndef TERN_LEDGER_CONVERSATION_KEY_H
#define TERN_LEDGER_CONVERSATION_KEY_H

#include "ledger/secret.h"

enum {
    CONVERSATION_KEY_BYTES = 32,
    CONVERSATION_KEY_PART_BYTES_MAX = 1024, /* of tenant, salt and id each */
};

struct conversation_key {
    uint8_t bytes[CONVERSATION_KEY_BYTES];
};

/* Borrowed texts, not terminated; a pointer may be NULL where its length is 0. */
struct conversation_identity {
    const char *tenant;
    size_t tenant_bytes;
    const char *salt; /* cache_salt; empty if the client gave none */
    size_t salt_bytes;
    const char *id; /* conversation_id */
    size_t id_bytes;
};

/* ERR_INVALID if a part is longer than CONVERSATION_KEY_PART_BYTES_MAX or the id is empty. */
MUST_USE enum err conversation_key_make(const struct secret *secret,
                                        const struct conversation_identity *identity,
                                        struct conversation_key *out);

/*
 * The hash of an Idempotency-Key, scoped to tenant and salt; the identity's id is not looked at.
 * Hashes of this function and keys of the one above never collide. ERR_INVALID as above, with
 * the Idempotency-Key in the id's place.
 */
MUST_USE enum err conversation_key_of_idempotency(const struct secret *secret,
                                                  const struct conversation_identity *identity,
                                                  const char *idempotency_key, size_t key_bytes,
                                                  struct conversation_key *out);

/* As memcmp. Not in constant time: keys are no secrets. */
int conversation_key_compare(const struct conversation_key *left,
                             const struct conversation_key *right);

#endif
