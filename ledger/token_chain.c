#include "ledger/token_chain.h"

#include "ledger/record_frame.h"

#include <sodium.h>
#include <string.h>

static const char personal_block[] = "tern.chain.block";
static const char personal_chain[] = "tern.chain.chain";

static void begin(crypto_generichash_blake2b_state *state, const char *personal) {
    crypto_generichash_blake2b_init_salt_personal(state, NULL, 0, TOKEN_CHAIN_DIGEST_BYTES, NULL,
                                                  (const uint8_t *)personal);
}

static void update_ids(crypto_generichash_blake2b_state *state, const int32_t *ids, size_t count) {
    uint8_t bytes[TOKEN_CHAIN_BLOCK_TOKENS * sizeof(int32_t)];
    for (size_t i = 0; i < count; i++) {
        record_frame_store_u32(bytes + i * sizeof(int32_t), (uint32_t)ids[i]);
    }
    crypto_generichash_blake2b_update(state, bytes, count * sizeof(int32_t));
}

static void fold_block(struct token_chain *chain, const int32_t *ids) {
    crypto_generichash_blake2b_state state;
    begin(&state, personal_block);
    crypto_generichash_blake2b_update(&state, chain->boundary, sizeof chain->boundary);
    update_ids(&state, ids, TOKEN_CHAIN_BLOCK_TOKENS);
    crypto_generichash_blake2b_final(&state, chain->boundary, sizeof chain->boundary);
}

void token_chain_init(struct token_chain *chain) {
    *chain = (struct token_chain){.length_tokens = 0};
}

void token_chain_extend(struct token_chain *chain, const int32_t *ids, size_t count) {
    for (size_t done = 0; done < count;) {
        size_t held = chain->length_tokens % TOKEN_CHAIN_BLOCK_TOKENS;
        size_t step = TOKEN_CHAIN_BLOCK_TOKENS - held;
        if (step > count - done) {
            step = count - done;
        }
        memcpy(chain->rest + held, ids + done, step * sizeof(int32_t));
        if (held + step == TOKEN_CHAIN_BLOCK_TOKENS) {
            fold_block(chain, chain->rest);
            memset(chain->rest, 0, sizeof chain->rest);
        }
        chain->length_tokens += step;
        done += step;
    }
}

void token_chain_digest(const struct token_chain *chain, uint8_t out[TOKEN_CHAIN_DIGEST_BYTES]) {
    crypto_generichash_blake2b_state state;
    uint8_t length[8];
    record_frame_store_u64(length, chain->length_tokens);
    begin(&state, personal_chain);
    crypto_generichash_blake2b_update(&state, chain->boundary, sizeof chain->boundary);
    crypto_generichash_blake2b_update(&state, length, sizeof length);
    update_ids(&state, chain->rest, chain->length_tokens % TOKEN_CHAIN_BLOCK_TOKENS);
    crypto_generichash_blake2b_final(&state, out, TOKEN_CHAIN_DIGEST_BYTES);
}

void token_chain_digest_of(const int32_t *ids, size_t length,
                           uint8_t out[TOKEN_CHAIN_DIGEST_BYTES]) {
    struct token_chain chain;
    token_chain_init(&chain);
    token_chain_extend(&chain, ids, length);
    token_chain_digest(&chain, out);
}
