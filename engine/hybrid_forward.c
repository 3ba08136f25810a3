/*
 * I1: between hybrid_forward_enqueue and hybrid_forward_wait the batch, the activations and the
 *     logits belong to the step; is_pending says so.
 * I2: every activation row has its place by row index alone, so that no op of a layer sees a row
 *     of the layer before except through `x`.
 */
#include "engine/hybrid_forward.h"

#include <stdlib.h>
#include <string.h>

enum { ALIGN_VALUES = 16 }; /* rows start on 64 bytes */

/* Where a step's activations lie in the one buffer. Strides in values. */
struct activations {
    struct device_ptr x;      /* [rows][hidden]: the residual stream */
    struct device_ptr normed; /* [rows][hidden] */
    struct device_ptr wide;   /* what the projections of a layer give, see the mixers */
    struct device_ptr conv;   /* [rows][channels] */
    struct device_ptr mixed;  /* [rows][what a mixer gives its output projection] */
    struct device_ptr rope;   /* [rows][pairs][2] */
    struct device_ptr picked; /* [outputs][hidden] */
    struct device_ptr logits; /* [outputs][vocabulary] */
    size_t hidden_stride;
    size_t conv_stride;
    size_t mixed_stride;
    size_t bytes;
};

struct hybrid_forward {
    struct hybrid_forward_config config;
    struct device_stream *stream;
    struct device_event *done;
    struct batch *batch;
    struct device_buffer *buffer;
    struct activations activations;
    float *logits; /* host memory, [outputs_max][vocabulary] */
    int outputs;   /* of the last step */
    int is_pending;
    /* The step's batch description, rebuilt for each. */
    struct batch_sequence *sequences;
    int32_t *tokens;
    int32_t *output_rows;
};

/* --- activations ---------------------------------------------------------------------- */

static size_t aligned(size_t values) {
    return (values + ALIGN_VALUES - 1) / ALIGN_VALUES * ALIGN_VALUES;
}

static size_t max_size(size_t a, size_t b) {
    return a > b ? a : b;
}

/* The widest that a row gets in each kind of region, over all layers. */
struct widths {
    size_t wide;
    size_t conv;
    size_t mixed;
};

static struct widths widths_of(const struct model_shape *shape) {
    struct widths widths = {0};
    for (int i = 0; i < shape->layer_count; i++) {
        const struct model_attention *attention = &shape->layers[i].attention;
        const struct model_mamba2 *mamba2 = &shape->layers[i].mamba2;
        size_t query = aligned((size_t)attention->heads * (size_t)attention->key_size);
        size_t key = aligned((size_t)attention->kv_heads * (size_t)attention->key_size);
        size_t value = aligned((size_t)attention->kv_heads * (size_t)attention->value_size);
        size_t inner = (size_t)model_mamba2_inner(mamba2);
        size_t channels = (size_t)model_mamba2_channels(mamba2);
        widths.wide = max_size(widths.wide, query + key + value);
        widths.wide = max_size(widths.wide, aligned(inner + channels + (size_t)mamba2->heads));
        widths.wide = max_size(widths.wide, 2 * aligned((size_t)shape->layers[i].feed_forward));
        widths.conv = max_size(widths.conv, aligned(channels));
        widths.mixed = max_size(widths.mixed, aligned(inner));
        widths.mixed = max_size(widths.mixed,
                                aligned((size_t)attention->heads * (size_t)attention->value_size));
    }
    return widths;
}

/* Hands out ROWS rows of WIDTH values behind what was handed out before. */
static struct device_ptr region(size_t *used_bytes, int rows, size_t width) {
    struct device_ptr ptr = device_ptr_at(NULL, *used_bytes);
    *used_bytes += (size_t)rows * width * sizeof(float);
    return ptr;
}

static struct activations plan_activations(const struct hybrid_forward_config *config) {
    const struct model_shape *shape = &config->model->shape;
    struct widths widths = widths_of(shape);
    int rows = config->rows_max;
    struct activations plan = {
        .hidden_stride = aligned((size_t)shape->hidden),
        .conv_stride = widths.conv,
        .mixed_stride = widths.mixed,
    };
    plan.x = region(&plan.bytes, rows, (size_t)shape->hidden);
    plan.bytes = (plan.bytes + 63) / 64 * 64; /* x is dense: op_embed and op_gather_rows say so */
    plan.normed = region(&plan.bytes, rows, plan.hidden_stride);
    plan.wide = region(&plan.bytes, rows, widths.wide);
    plan.conv = region(&plan.bytes, rows, widths.conv);
    plan.mixed = region(&plan.bytes, rows, widths.mixed);
    plan.rope = region(&plan.bytes, rows, aligned((size_t)shape->rope.pairs * 2));
    plan.picked = region(&plan.bytes, config->outputs_max, (size_t)shape->hidden);
    plan.bytes = (plan.bytes + 63) / 64 * 64;
    plan.logits = region(&plan.bytes, config->outputs_max, (size_t)shape->vocabulary);
    return plan;
}

static void place_activations(struct activations *plan, struct device_buffer *buffer) {
    plan->x.buffer = buffer;
    plan->normed.buffer = buffer;
    plan->wide.buffer = buffer;
    plan->conv.buffer = buffer;
    plan->mixed.buffer = buffer;
    plan->rope.buffer = buffer;
    plan->picked.buffer = buffer;
    plan->logits.buffer = buffer;
}

/* VALUES F32 values behind PTR. */
static struct device_ptr ahead(struct device_ptr ptr, size_t values) {
    return device_ptr_add(ptr, values * sizeof(float));
}

/* --- creation ------------------------------------------------------------------------- */

static enum err create_device_parts(struct hybrid_forward *forward) {
    const struct hybrid_forward_config *config = &forward->config;
    struct device *device = config->model->device;
    int table_entries = layout_blocks(&config->model->layout, config->context_max);
    TRY(device_stream_create(device, DEVICE_STREAM_COMPUTE, &forward->stream));
    TRY(device_event_create(device, &forward->done));
    TRY(batch_create(device,
                     &(struct batch_limits){
                         .rows_max = config->rows_max,
                         .sequences_max = config->sequences_max,
                         .blocks_max = config->sequences_max * table_entries,
                         .marks_max = config->marks_max,
                     },
                     &forward->batch));
    forward->activations = plan_activations(config);
    enum err code = device_buffer_create(device, forward->activations.bytes, &forward->buffer);
    if (code != ERR_OK) {
        return err_context(code, "activations of %d rows", config->rows_max);
    }
    place_activations(&forward->activations, forward->buffer);
    device_buffer_warm(forward->buffer, 0, forward->activations.bytes); /* every step uses it */
    void *logits = NULL;
    TRY(device_host_alloc(device,
                          (size_t)config->outputs_max * (size_t)config->model->shape.vocabulary *
                              sizeof(float),
                          &logits));
    forward->logits = logits;
    return ERR_OK;
}

enum err hybrid_forward_create(const struct hybrid_forward_config *config,
                               struct hybrid_forward **out) {
    if (config->rows_max < 1 || config->sequences_max < 1 || config->outputs_max < 1 ||
        config->marks_max < 0 || config->context_max < 1) {
        return err_fail(ERR_INVALID, "a forward pass of %d rows, %d sequences, %d outputs",
                        config->rows_max, config->sequences_max, config->outputs_max);
    }
    struct hybrid_forward *forward = calloc(1, sizeof *forward);
    if (forward == NULL) {
        return err_fail(ERR_NOMEM, "forward pass");
    }
    forward->config = *config;
    enum err code = ERR_OK;
    forward->sequences = calloc((size_t)config->sequences_max, sizeof *forward->sequences);
    forward->tokens = calloc((size_t)config->rows_max, sizeof *forward->tokens);
    forward->output_rows = calloc((size_t)config->outputs_max, sizeof *forward->output_rows);
    if (forward->sequences == NULL || forward->tokens == NULL || forward->output_rows == NULL) {
        code = err_fail(ERR_NOMEM, "forward pass of %d rows", config->rows_max);
    } else {
        code = create_device_parts(forward);
    }
    if (code != ERR_OK) {
        hybrid_forward_destroy(forward);
        return code;
    }
    *out = forward;
    return ERR_OK;
}

void hybrid_forward_destroy(struct hybrid_forward *forward) {
    if (forward == NULL) {
        return;
    }
    device_stream_destroy(forward->stream); /* waits for a step in flight */
    device_event_destroy(forward->done);
    batch_destroy(forward->batch);
    device_buffer_destroy(forward->buffer);
    if (forward->logits != NULL) {
        device_host_free(forward->config.model->device, forward->logits);
    }
    free(forward->sequences);
    free(forward->tokens);
    free(forward->output_rows);
    free(forward);
}

struct device_stream *hybrid_forward_stream(struct hybrid_forward *forward) {
    return forward->stream;
}

/* --- the step's batch ----------------------------------------------------------------- */

static enum err check_item(const struct hybrid_forward *forward,
                           const struct hybrid_forward_item *item) {
    const struct model_shape *shape = &forward->config.model->shape;
    const struct layout *layout = &forward->config.model->layout;
    int end = item->sequence->length + item->count;
    if (item->count < 1 || item->outputs < 0 || item->outputs > item->count) {
        return err_fail(ERR_INVALID, "%d outputs of %d tokens", item->outputs, item->count);
    }
    if (end > forward->config.context_max) {
        return err_fail(ERR_INVALID, "%d tokens are more than the context of %d", end,
                        forward->config.context_max);
    }
    assert(layout->kv_count == 0 || item->sequence->block_count >= layout_blocks(layout, end));
    assert(layout->state_count == 0 || item->sequence->slot >= 0);
    for (int i = 0; i < item->count; i++) {
        if (item->tokens[i] < 0 || item->tokens[i] >= shape->vocabulary) {
            return err_fail(ERR_INVALID, "token id %d is not in the vocabulary of %d",
                            (int)item->tokens[i], shape->vocabulary);
        }
    }
    return ERR_OK;
}

static enum err set_batch(struct hybrid_forward *forward, const struct hybrid_forward_item *items,
                          int item_count) {
    int rows = 0, outputs = 0;
    if (item_count < 1 || item_count > forward->config.sequences_max) {
        return err_fail(ERR_INVALID, "a step of %d sequences, at most %d fit", item_count,
                        forward->config.sequences_max);
    }
    for (int i = 0; i < item_count; i++) {
        const struct hybrid_forward_item *item = &items[i];
        TRY(check_item(forward, item));
        if (item->count > forward->config.rows_max - rows ||
            item->outputs > forward->config.outputs_max - outputs) {
            return err_fail(ERR_INVALID, "a step of more than %d rows or %d outputs",
                            forward->config.rows_max, forward->config.outputs_max);
        }
        memcpy(forward->tokens + rows, item->tokens, (size_t)item->count * sizeof *forward->tokens);
        forward->sequences[i] = (struct batch_sequence){
            .rows = item->count,
            .position = item->sequence->length,
            .state_slot = item->sequence->slot,
            .block_table = item->sequence->blocks,
            .blocks = item->sequence->block_count,
            .marks = item->marks,
            .mark_count = item->mark_count,
        };
        rows += item->count;
        for (int j = item->outputs; j > 0; j--) {
            forward->output_rows[outputs++] = rows - j;
        }
    }
    forward->outputs = outputs;
    return batch_set(forward->batch, forward->stream,
                     &(struct batch_layout){
                         .sequences = forward->sequences,
                         .sequence_count = item_count,
                         .tokens = forward->tokens,
                         .output_rows = forward->output_rows,
                         .output_count = outputs,
                     });
}

/* --- layers --------------------------------------------------------------------------- */

/* One product in the form that op_matmul takes: stored, into OUT of STRIDE. */
static struct op_product store_product(const struct model_matrix *matrix, struct device_ptr out,
                                       size_t stride) {
    return (struct op_product){
        .weight = matrix->weight,
        .bias = matrix->bias,
        .out = out,
        .out_stride = stride,
        .epilogue = OP_EPILOGUE_STORE,
    };
}

/* x += (W in) * residual_scale. */
static enum err add_to_residual(struct hybrid_forward *forward, const struct model_matrix *matrix,
                                struct device_ptr in, size_t in_stride, int rows) {
    const struct model_shape *shape = &forward->config.model->shape;
    struct op_matmul params = {
        .rows = rows,
        .in = in,
        .in_stride = in_stride,
        .product_count = 1,
        .products = {{
            .weight = matrix->weight,
            .bias = matrix->bias,
            .out = forward->activations.x,
            .out_stride = (size_t)shape->hidden,
            .epilogue = OP_EPILOGUE_ADD,
            .factor = shape->residual_scale,
        }},
    };
    return op_matmul(forward->stream, &params);
}

static enum err norm(struct hybrid_forward *forward, struct device_ptr in, struct device_ptr weight,
                     struct device_ptr out, size_t out_stride, int rows) {
    const struct model_shape *shape = &forward->config.model->shape;
    return op_rms_norm(forward->stream, &(struct op_rms_norm){
                                            .rows = rows,
                                            .columns = shape->hidden,
                                            .in = in,
                                            .in_stride = (size_t)shape->hidden,
                                            .weight = weight,
                                            .eps = shape->norm_eps,
                                            .out = out,
                                            .out_stride = out_stride,
                                        });
}

static enum err rotate(struct hybrid_forward *forward, struct device_ptr x, size_t stride,
                       int heads, int head_size, int rows) {
    const struct model_rope *rope = &forward->config.model->shape.rope;
    return op_rope(forward->stream, &(struct op_rope){
                                        .rows = rows,
                                        .heads = heads,
                                        .head_size = head_size,
                                        .pairs = rope->pairs,
                                        .style = rope->style,
                                        .table = forward->activations.rope,
                                        .x = x,
                                        .x_stride = stride,
                                    });
}

/* wide holds queries, keys and values of all rows, one region behind the other. */
static enum err run_attention(struct hybrid_forward *forward, int layer, int rows) {
    const struct model_shape *shape = &forward->config.model->shape;
    const struct model_attention *attention = &shape->layers[layer].attention;
    const struct model_attention_weights *weights = &forward->config.model->layers[layer].attention;
    const struct activations *act = &forward->activations;
    size_t query_stride = aligned((size_t)attention->heads * (size_t)attention->key_size);
    size_t key_stride = aligned((size_t)attention->kv_heads * (size_t)attention->key_size);
    size_t value_stride = aligned((size_t)attention->kv_heads * (size_t)attention->value_size);
    struct device_ptr query = act->wide;
    struct device_ptr key = ahead(query, (size_t)rows * query_stride);
    struct device_ptr value = ahead(key, (size_t)rows * key_stride);
    struct op_kv_view kv = pool_kv_view(forward->config.pool, attention->kv_index);
    struct op_matmul projections = {
        .rows = rows,
        .in = act->normed,
        .in_stride = act->hidden_stride,
        .product_count = 3,
        .products = {store_product(&weights->query, query, query_stride),
                     store_product(&weights->key, key, key_stride),
                     store_product(&weights->value, value, value_stride)},
    };
    TRY(op_matmul(forward->stream, &projections));
    if (shape->rope.pairs > 0) {
        TRY(rotate(forward, query, query_stride, attention->heads, attention->key_size, rows));
        TRY(rotate(forward, key, key_stride, attention->kv_heads, attention->key_size, rows));
    }
    TRY(op_kv_write(forward->stream, &(struct op_kv_write){
                                         .batch = forward->batch,
                                         .kv = kv,
                                         .key = key,
                                         .key_stride = key_stride,
                                         .value = value,
                                         .value_stride = value_stride,
                                     }));
    TRY(op_attention(forward->stream, &(struct op_attention){
                                          .batch = forward->batch,
                                          .kv = kv,
                                          .heads = attention->heads,
                                          .scale = shape->attention_scale,
                                          .query = query,
                                          .query_stride = query_stride,
                                          .out = act->mixed,
                                          .out_stride = act->mixed_stride,
                                      }));
    return add_to_residual(forward, &weights->output, act->mixed, act->mixed_stride, rows);
}

/* Convolution and recurrence over what the in-projection left in wide: z, x, B, C, dt a row. */
static enum err run_recurrence(struct hybrid_forward *forward, int layer, size_t wide_stride) {
    const struct model_mamba2 *mamba2 = &forward->config.model->shape.layers[layer].mamba2;
    const struct model_mamba2_weights *weights = &forward->config.model->layers[layer].mamba2;
    const struct activations *act = &forward->activations;
    size_t inner = (size_t)model_mamba2_inner(mamba2);
    size_t channels = (size_t)model_mamba2_channels(mamba2);
    size_t group_values = (size_t)mamba2->groups * (size_t)mamba2->state_size;
    TRY(op_conv1d(forward->stream,
                  &(struct op_conv1d){
                      .batch = forward->batch,
                      .state = pool_state_view(forward->config.pool, mamba2->conv_index),
                      .channels = (int)channels,
                      .taps = mamba2->taps,
                      .weight = weights->conv_weight,
                      .bias = weights->conv_bias,
                      .in = ahead(act->wide, inner),
                      .in_stride = wide_stride,
                      .out = act->conv,
                      .out_stride = act->conv_stride,
                  }));
    return op_ssm_scan(forward->stream,
                       &(struct op_ssm_scan){
                           .batch = forward->batch,
                           .state = pool_state_view(forward->config.pool, mamba2->ssm_index),
                           .heads = mamba2->heads,
                           .head_size = mamba2->head_size,
                           .state_size = mamba2->state_size,
                           .groups = mamba2->groups,
                           .x = act->conv,
                           .x_stride = act->conv_stride,
                           .b = ahead(act->conv, inner),
                           .b_stride = act->conv_stride,
                           .c = ahead(act->conv, inner + group_values),
                           .c_stride = act->conv_stride,
                           .dt = ahead(act->wide, inner + channels),
                           .dt_stride = wide_stride,
                           .dt_bias = weights->dt_bias,
                           .a = weights->a,
                           .d = weights->d,
                           .out = act->mixed,
                           .out_stride = act->mixed_stride,
                       });
}

static enum err run_mamba2(struct hybrid_forward *forward, int layer, int rows) {
    const struct model_shape *shape = &forward->config.model->shape;
    const struct model_mamba2 *mamba2 = &shape->layers[layer].mamba2;
    const struct model_mamba2_weights *weights = &forward->config.model->layers[layer].mamba2;
    const struct activations *act = &forward->activations;
    int inner = model_mamba2_inner(mamba2);
    size_t wide_stride = aligned((size_t)(inner + model_mamba2_channels(mamba2) + mamba2->heads));
    struct op_matmul projection = {
        .rows = rows,
        .in = act->normed,
        .in_stride = act->hidden_stride,
        .product_count = 1,
        .products = {store_product(&weights->in, act->wide, wide_stride)},
    };
    TRY(op_matmul(forward->stream, &projection));
    TRY(run_recurrence(forward, layer, wide_stride));
    TRY(op_gated_norm(forward->stream, &(struct op_gated_norm){
                                           .rows = rows,
                                           .columns = inner,
                                           .groups = mamba2->groups,
                                           .in = act->mixed,
                                           .in_stride = act->mixed_stride,
                                           .gate = act->wide,
                                           .gate_stride = wide_stride,
                                           .weight = weights->norm,
                                           .eps = shape->norm_eps,
                                           .out = act->mixed,
                                           .out_stride = act->mixed_stride,
                                       }));
    return add_to_residual(forward, &weights->out, act->mixed, act->mixed_stride, rows);
}

/* wide holds the gates of all rows, then their ups. */
static enum err run_feed_forward(struct hybrid_forward *forward, int layer, int rows) {
    const struct model_shape *shape = &forward->config.model->shape;
    const struct model_feed_forward_weights *weights =
        &forward->config.model->layers[layer].feed_forward;
    const struct activations *act = &forward->activations;
    int width = shape->layers[layer].feed_forward;
    size_t stride = aligned((size_t)width);
    struct device_ptr gate = act->wide;
    struct device_ptr up = ahead(gate, (size_t)rows * stride);
    struct op_matmul projections = {
        .rows = rows,
        .in = act->normed,
        .in_stride = act->hidden_stride,
        .product_count = 2,
        .products = {store_product(&weights->gate, gate, stride),
                     store_product(&weights->up, up, stride)},
    };
    TRY(op_matmul(forward->stream, &projections));
    TRY(op_swiglu(forward->stream, &(struct op_swiglu){
                                       .rows = rows,
                                       .columns = width,
                                       .gate = gate,
                                       .gate_stride = stride,
                                       .up = up,
                                       .up_stride = stride,
                                       .out = gate,
                                       .out_stride = stride,
                                   }));
    return add_to_residual(forward, &weights->down, gate, stride, rows);
}

static enum err run_layer(struct hybrid_forward *forward, int layer, int rows) {
    const struct model *model = forward->config.model;
    const struct activations *act = &forward->activations;
    TRY(norm(forward, act->x, model->layers[layer].mixer_norm, act->normed, act->hidden_stride,
             rows));
    if (model->shape.layers[layer].attention.heads > 0) {
        TRY(run_attention(forward, layer, rows));
    }
    if (model->shape.layers[layer].mamba2.heads > 0) {
        TRY(run_mamba2(forward, layer, rows));
    }
    TRY(norm(forward, act->x, model->layers[layer].feed_forward_norm, act->normed,
             act->hidden_stride, rows));
    return run_feed_forward(forward, layer, rows);
}

/* --- a step --------------------------------------------------------------------------- */

static enum err run_inputs(struct hybrid_forward *forward) {
    const struct model *model = forward->config.model;
    const struct activations *act = &forward->activations;
    TRY(op_embed(forward->stream, &(struct op_embed){
                                      .batch = forward->batch,
                                      .weight = model->embedding,
                                      .scale = model->shape.embedding_scale,
                                      .out = act->x,
                                  }));
    if (model->shape.rope.pairs == 0) {
        return ERR_OK;
    }
    return op_rope_table(forward->stream, &(struct op_rope_table){
                                              .batch = forward->batch,
                                              .frequencies = model->rope_frequencies,
                                              .pairs = model->shape.rope.pairs,
                                              .table = act->rope,
                                          });
}

/* Only the rows that somebody samples from meet the output matrix. */
static enum err run_outputs(struct hybrid_forward *forward) {
    const struct model *model = forward->config.model;
    const struct activations *act = &forward->activations;
    int outputs = forward->outputs;
    size_t vocabulary = (size_t)model->shape.vocabulary;
    if (outputs == 0) {
        return ERR_OK;
    }
    TRY(op_gather_rows(forward->stream, &(struct op_gather_rows){
                                            .batch = forward->batch,
                                            .in = act->x,
                                            .columns = model->shape.hidden,
                                            .out = act->picked,
                                        }));
    TRY(norm(forward, act->picked, model->output_norm, act->picked, (size_t)model->shape.hidden,
             outputs));
    struct op_matmul product = {
        .rows = outputs,
        .in = act->picked,
        .in_stride = (size_t)model->shape.hidden,
        .product_count = 1,
        .products = {{
            .weight = model->output,
            .out = act->logits,
            .out_stride = vocabulary,
            .epilogue = OP_EPILOGUE_DIVIDE,
            .factor = model->shape.logit_scale,
        }},
    };
    TRY(op_matmul(forward->stream, &product));
    return device_copy_out(forward->stream, forward->logits, act->logits,
                           (size_t)outputs * vocabulary * sizeof(float));
}

static enum err run_step(struct hybrid_forward *forward) {
    int rows = batch_rows(forward->batch);
    TRY(run_inputs(forward));
    for (int i = 0; i < forward->config.model->shape.layer_count; i++) {
        TRY(run_layer(forward, i, rows));
    }
    TRY(run_outputs(forward));
    return device_event_record(forward->done, forward->stream);
}

enum err hybrid_forward_enqueue(struct hybrid_forward *forward,
                                const struct hybrid_forward_item *items, int item_count) {
    assert(!forward->is_pending); /* I1 */
    TRY(set_batch(forward, items, item_count));
    enum err code = run_step(forward);
    if (code != ERR_OK) {
        /* Part of the step may be on its way: the batch is free again only when that has run. */
        enum err idle = device_stream_wait_idle(forward->stream);
        return idle == ERR_OK ? code : idle;
    }
    forward->is_pending = 1;
    for (int i = 0; i < item_count; i++) {
        items[i].sequence->length += items[i].count;
    }
    return ERR_OK;
}

enum err hybrid_forward_wait(struct hybrid_forward *forward) {
    enum err code = device_event_wait(forward->done);
    forward->is_pending = 0;
    return code;
}

const float *hybrid_forward_logits(const struct hybrid_forward *forward, int index) {
    assert(index >= 0 && index < forward->outputs);
    return forward->logits + (size_t)index * (size_t)forward->config.model->shape.vocabulary;
}
