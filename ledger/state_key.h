/*
 * The name under which a conversation's heads lie in the state store: BLAKE2b-256, without key or
 * personal string, over the 32 bytes of the conversation key and the ledger's serial of it (64
 * bits, little-endian). With the serial in it, a conversation that was deleted and begun again
 * under its old name never meets the heads of its predecessor.
 *
 * Pure functions, any thread. Knows nothing of the store.
 */
#ifndef TERN_LEDGER_STATE_KEY_H
#define TERN_LEDGER_STATE_KEY_H

#include "ledger/conversation_key.h"

enum { STATE_KEY_BYTES = 32 };

void state_key_make(const struct conversation_key *key, uint64_t serial,
                    uint8_t out[STATE_KEY_BYTES]);

#endif
