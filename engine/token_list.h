/*
 * A growing list of token ids. Embedded by value, zero-initialised; owns its ids. Not safe
 * for use by two threads at once.
 */
#ifndef TERN_ENGINE_TOKEN_LIST_H
#define TERN_ENGINE_TOKEN_LIST_H

#include "base/err.h"

struct token_list {
    int32_t *ids; /* NULL while capacity is 0 */
    size_t count;
    size_t capacity;
};

void token_list_done(struct token_list *list); /* also fits CLEANUP */

/* ERR_NOMEM leaves the list as it was. */
MUST_USE enum err token_list_append(struct token_list *list, const int32_t *ids, size_t count);

#endif
