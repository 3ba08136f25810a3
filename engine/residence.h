/*
 * What a request holds of the device while it runs: its sequence, the slots that
 * its heads will need, two spare blocks for their tails, so that the end of a
 * request never lacks room. Taken as a whole at admission, given back as a whole;
 * or set aside in host memory and taken again later. The engine thread's.
 * Internal to engine/.
 */
#ifndef TERN_ENGINE_RESIDENCE_H
#define TERN_ENGINE_RESIDENCE_H

#include "engine/request.h"

struct residence_context {
    struct pool *pool;
    struct store *store;
    struct device_stream *stream; /* that steps run on */
    int context;
};

/*
 * Admits the request: attaches its head, starts from nothing, or restores what was set aside.
 * ERR_FULL: nothing was taken, even after reclaiming device copies of idle heads; or the head is
 * being read from disk again. To be tried again soon.
 */
MUST_USE enum err residence_take(const struct residence_context *context,
                                 struct engine_request *request);

/* Makes room for one more token. ERR_FULL: none, even after reclaiming. */
MUST_USE enum err residence_grow(const struct residence_context *context,
                                 struct engine_request *request);

/* Copies what the request holds to host memory and gives the device's part back. Without host
 * memory for it, it will be computed again from its tokens: the same bits. */
MUST_USE enum err residence_set_aside(const struct residence_context *context,
                                      struct engine_request *request);

/* Makes the heads that the request asked for, of what has been run; NULL where there is none. */
void residence_make_heads(const struct residence_context *context, struct engine_request *request,
                          struct store_head **turn_end, struct store_head **prompt_end);

/* Gives back everything, what was set aside and the pinned head too. */
void residence_give(const struct residence_context *context, struct engine_request *request);

#endif
