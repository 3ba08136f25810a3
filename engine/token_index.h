/*
 * A hash table from byte strings to token ids, over strings that somebody else keeps. Built
 * once, then read by any thread. Keyed by a random seed, so that no file can be made whose
 * strings collide.
 */
#ifndef TERN_ENGINE_TOKEN_INDEX_H
#define TERN_ENGINE_TOKEN_INDEX_H

#include "base/err.h"

struct token_index_slot {
    const char *bytes; /* NULL: free */
    size_t len;
    int32_t id;
};

struct token_index {
    struct token_index_slot *slots; /* a power of two of them */
    size_t mask;
    uint8_t seed[16];
};

/* Room for exactly COUNT strings. */
MUST_USE enum err token_index_init(struct token_index *index, size_t count);
void token_index_done(struct token_index *index); /* also fits CLEANUP, and a zeroed index */

/* Returns the id of BYTES, -1 if there is none. */
int32_t token_index_find(const struct token_index *index, const char *bytes, size_t len);

/* Returns -1, or the id that BYTES has already, which stays. BYTES must outlive the index. */
int32_t token_index_insert(struct token_index *index, const char *bytes, size_t len, int32_t id);

#endif
