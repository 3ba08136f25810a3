/*
 * The forward pass of a hybrid model: one step runs new tokens of one or more
 * sequences through all layers, advances their KV blocks and running states, and
 * computes logits for the rows that are asked for. Which chunks a sequence is cut
 * into, and what else is in the batch, changes no bit of its logits or state.
 *
 * A step is enqueued, then waited for; one step is in flight at a time. One
 * thread, the engine's. Owns its stream, its activations and the host memory
 * that logits come out in.
 */
#ifndef TERN_ENGINE_HYBRID_FORWARD_H
#define TERN_ENGINE_HYBRID_FORWARD_H

#include "engine/model.h"
#include "store/sequence.h"

struct hybrid_forward;

struct hybrid_forward_config {
    const struct model *model; /* outlives this */
    struct pool *pool;         /* of the model's layout; outlives this */
    int rows_max;              /* tokens in a step */
    int sequences_max;
    int outputs_max; /* rows of logits in a step */
    int marks_max;
    int context_max; /* of any sequence */
};

/* ERR_NOMEM when the device refuses the activations. */
MUST_USE enum err hybrid_forward_create(const struct hybrid_forward_config *config,
                                        struct hybrid_forward **out);
void hybrid_forward_destroy(struct hybrid_forward *forward);

/* The compute stream that steps run on, for copies that are to be ordered with them. */
struct device_stream *hybrid_forward_stream(struct hybrid_forward *forward);

/* The next tokens of one sequence. */
struct hybrid_forward_item {
    struct sequence *sequence; /* started or attached, and reserved for `count` tokens */
    const int32_t *tokens;
    int count;   /* at least 1 */
    int outputs; /* logits for the last so many of them */
    /* After token `row` of this item the running state is copied to `slot`, which the caller
     * holds and which nobody else reads before the step has ended. Ascending by row. */
    const struct batch_mark *marks;
    int mark_count;
};

/*
 * Enqueues one step and advances each sequence's length. ERR_INVALID for a token outside the
 * vocabulary and for limits passed: nothing is enqueued then. After any other error the
 * sequences of the step are unusable.
 */
MUST_USE enum err hybrid_forward_enqueue(struct hybrid_forward *forward,
                                         const struct hybrid_forward_item *items, int item_count);

/* Blocks until the step has run. ERR_DEVICE: its sequences are unusable. */
MUST_USE enum err hybrid_forward_wait(struct hybrid_forward *forward);

/* Logits of output row INDEX of the last step, in item order: F32 [vocabulary], valid after
 * hybrid_forward_wait and until the next step. */
const float *hybrid_forward_logits(const struct hybrid_forward *forward, int index);

#endif
