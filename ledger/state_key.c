#include "ledger/state_key.h"

#include "ledger/record_frame.h"

#include <sodium.h>
#include <string.h>

void state_key_make(const struct conversation_key *key, uint64_t serial,
                    uint8_t out[STATE_KEY_BYTES]) {
    uint8_t text[CONVERSATION_KEY_BYTES + 8];
    memcpy(text, key->bytes, CONVERSATION_KEY_BYTES);
    record_frame_store_u64(text + CONVERSATION_KEY_BYTES, serial);
    crypto_generichash_blake2b(out, STATE_KEY_BYTES, text, sizeof text, NULL, 0);
}
