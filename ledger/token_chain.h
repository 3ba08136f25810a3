/*
 * The token chain digest: 32 bytes that are a function of the first n token ids of a line alone,
 * however they were cut into turns. Extending costs the new ids only; a chain is 176 bytes and can
 * be kept in a record. Heads of the state store carry the digest at their length, and are attached
 * only where it equals the ledger's.
 *
 * With blocks of 32 ids, each id as 32 bits little-endian, B(0) = 32 zero bytes and
 * B(k+1) = BLAKE2b-256("block", B(k), ids 32k to 32k+31):
 *     digest(n) = BLAKE2b-256("chain", B(n / 32), n as 64 bits, the n % 32 ids left over)
 * Inside a hash the quoted word is BLAKE2b's personal string.
 *
 * Pure functions, any thread.
 */
#ifndef TERN_LEDGER_TOKEN_CHAIN_H
#define TERN_LEDGER_TOKEN_CHAIN_H

#include "base/err.h"

enum { TOKEN_CHAIN_DIGEST_BYTES = 32, TOKEN_CHAIN_BLOCK_TOKENS = 32 };

struct token_chain {
    uint8_t boundary[TOKEN_CHAIN_DIGEST_BYTES]; /* B(length / 32) */
    uint64_t length_tokens;
    int32_t rest[TOKEN_CHAIN_BLOCK_TOKENS]; /* length % 32 ids; zeros behind them */
};

/* The chain of no tokens. */
void token_chain_init(struct token_chain *chain);

void token_chain_extend(struct token_chain *chain, const int32_t *ids, size_t count);

void token_chain_digest(const struct token_chain *chain, uint8_t out[TOKEN_CHAIN_DIGEST_BYTES]);

/* The digest of the first LENGTH of the ids of a line. */
void token_chain_digest_of(const int32_t *ids, size_t length,
                           uint8_t out[TOKEN_CHAIN_DIGEST_BYTES]);

#endif
