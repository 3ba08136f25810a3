#include "ledger/ledger_walk_line.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void ledger_walk_line_init(struct ledger_walk_line *line) {
    *line = (struct ledger_walk_line){.is_known = 1};
    token_chain_init(&line->chain);
}

void ledger_walk_line_done(struct ledger_walk_line *line) {
    free(line->ids);
    line->ids = NULL;
}

void ledger_walk_line_lose(struct ledger_walk_line *line) {
    line->turn++;
    line->is_known = 0;
    line->has_digest = 0;
}

static enum err make_room(struct ledger_walk_line *line, uint64_t tokens) {
    assert(tokens <= TURN_RECORD_TOKENS_MAX); /* turn_record_check */
    if (tokens <= line->capacity) {
        return ERR_OK;
    }
    size_t capacity = (size_t)tokens + (size_t)tokens / 2 + 256;
    int32_t *ids = realloc(line->ids, capacity * sizeof *ids);
    if (ids == NULL) {
        return err_fail(ERR_NOMEM, "line of %zu ids", capacity);
    }
    line->ids = ids;
    line->capacity = capacity;
    return ERR_OK;
}

/* The line as it is in front of TURN; 0 if it can't be. */
static int cut(struct ledger_walk_line *line, const struct turn_record *turn) {
    uint64_t length = line->chain.length_tokens;
    if (turn->base_tokens > length) {
        snprintf(line->detail, sizeof line->detail, "it begins at token %llu of a line of %llu",
                 (unsigned long long)turn->base_tokens, (unsigned long long)length);
        return 0;
    }
    if (turn->base_tokens == length) {
        if (turn->parent_turn + 1 == turn->turn) {
            return 1;
        }
        snprintf(line->detail, sizeof line->detail,
                 "it continues the line of turn %u but has the parent %u", turn->turn - 1,
                 turn->parent_turn);
        return 0;
    }
    token_chain_init(&line->chain);
    token_chain_extend(&line->chain, line->ids, (size_t)turn->base_tokens);
    return 1;
}

static enum err append(struct ledger_walk_line *line, const struct turn_record *turn) {
    const int32_t *arrays[] = {turn->prompt_ids, turn->generated_ids, turn->closing_ids};
    const size_t counts[] = {turn->prompt_count, turn->generated_count, turn->closing_count};
    TRY(make_room(line, turn->end_tokens));
    int32_t *at = line->ids + turn->base_tokens;
    for (size_t i = 0; i < ARRAY_LEN(arrays); i++) {
        if (counts[i] > 0) {
            memcpy(at, arrays[i], counts[i] * sizeof *at);
            at += counts[i];
        }
    }
    return ERR_OK;
}

/* Extends the chain up to LENGTH and compares it with DIGEST, which is named for the detail. */
static int matches(struct ledger_walk_line *line, uint64_t length, const uint8_t *digest,
                   const char *name) {
    struct token_chain chain = line->chain;
    uint8_t expected[TOKEN_CHAIN_DIGEST_BYTES];
    if (length < chain.length_tokens) { /* nothing of the turn was run */
        token_chain_init(&chain);
    }
    token_chain_extend(&chain, line->ids + chain.length_tokens,
                       (size_t)(length - chain.length_tokens));
    token_chain_digest(&chain, expected);
    if (memcmp(expected, digest, sizeof expected) == 0) {
        return 1;
    }
    snprintf(line->detail, sizeof line->detail, "the ids up to token %llu have another digest: %s",
             (unsigned long long)length, name);
    return 0;
}

static int digests_match(struct ledger_walk_line *line, const struct turn_record *turn) {
    static const uint8_t zeros[TOKEN_CHAIN_DIGEST_BYTES];
    if (turn->prompt_end_tokens == 0 && memcmp(turn->prompt_end_digest, zeros, sizeof zeros) != 0) {
        snprintf(line->detail, sizeof line->detail, "a digest at a prompt end that it has not");
        return 0;
    }
    return matches(line, turn->end_tokens, turn->chain_digest, "end of the turn") &&
           matches(line, turn->end_tokens - turn->pending_tokens, turn->head_digest,
                   "turn-end head") &&
           (turn->prompt_end_tokens == 0 ||
            matches(line, turn->prompt_end_tokens, turn->prompt_end_digest, "prompt end"));
}

enum err ledger_walk_line_add(struct ledger_walk_line *line, const struct turn_record *turn,
                              const char **verdict) {
    line->turn = turn->turn;
    line->pending_tokens = turn->pending_tokens;
    line->has_digest = 1;
    memcpy(line->last_digest, turn->chain_digest, sizeof line->last_digest);
    if (!line->is_known && turn->base_tokens > 0) {
        return ERR_OK;
    }
    if (!line->is_known) { /* begun anew */
        token_chain_init(&line->chain);
        line->is_known = 1;
    } else if (!cut(line, turn)) {
        *verdict = "wrong-place";
        line->is_known = 0;
        return ERR_OK;
    }
    TRY(append(line, turn));
    if (!digests_match(line, turn)) {
        *verdict = "wrong-chain";
    }
    token_chain_extend(&line->chain, line->ids + turn->base_tokens,
                       (size_t)(turn->end_tokens - turn->base_tokens));
    return ERR_OK;
}

int ledger_walk_line_ends(struct ledger_walk_line *line,
                          const struct conversation_record *conversation) {
    uint8_t digest[TOKEN_CHAIN_DIGEST_BYTES];
    if (!line->has_digest) {
        return 1; /* the last turn could not be read, and was told of */
    }
    token_chain_digest(&conversation->chain, digest);
    snprintf(line->detail, sizeof line->detail, "its chain is not that of its last turn, %u",
             line->turn);
    return line->pending_tokens == conversation->pending_tokens &&
           memcmp(digest, line->last_digest, sizeof digest) == 0;
}
