/*
 * Finds memory for the first turns while a new server waits for them: a thread of the lowest
 * priority that ends by itself.
 */
#ifndef TERN_SERVER_WARM_UP_H
#define TERN_SERVER_WARM_UP_H

#include "store/store.h"

struct warm_up;

/* For one request of TOKENS tokens; STORE outlives it. ERR_NOMEM: the server works without. */
MUST_USE enum err warm_up_start(struct store *store, int tokens, struct warm_up **out);

/* Ends it, done or not. Accepts NULL. */
void warm_up_stop(struct warm_up *warm_up);

#endif
