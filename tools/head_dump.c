#include "tools/head_dump.h"

#include "store/head_reader.h"
#include "tools/safetensors.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum err head_dump_kv_type(uint32_t element, enum dtype *out) {
    switch (element) {
    case CODEC_F32:
        *out = DTYPE_F32;
        return ERR_OK;
    case CODEC_F16:
        *out = DTYPE_F16;
        return ERR_OK;
    case CODEC_BF16:
        *out = DTYPE_BF16;
        return ERR_OK;
    default:
        return err_fail(ERR_CONFLICT, "the head's KV has element type %" PRIu32, element);
    }
}

enum err head_dump_check(const struct record_head *head, const struct layout *layout) {
    enum dtype kv_type = DTYPE_F16;
    if (head->block_bytes > 0) {
        TRY(head_dump_kv_type(head->block_element, &kv_type));
    }
    if (head->state_bytes > 0 && head->state_element != CODEC_F32) {
        return err_fail(ERR_CONFLICT, "the head's state has element type %" PRIu32,
                        head->state_element);
    }
    if (head->block_bytes != layout->block_bytes || head->state_bytes != layout->slot_bytes ||
        (head->block_bytes > 0 &&
         (head->block_size != (uint32_t)layout->block_size || kv_type != layout->kv_type))) {
        return err_fail(ERR_CONFLICT,
                        "the head has KV blocks of %" PRIu64 " bytes and %" PRIu64
                        " bytes of state, the model %zu and %zu",
                        head->block_bytes, head->state_bytes, layout->block_bytes,
                        layout->slot_bytes);
    }
    return ERR_OK;
}

/* --- writing ------------------------------------------------------------------------------- */

struct head_dump {
    const struct record_head *head;
    const struct layout *layout;
    struct safetensors *file;
    struct safetensors_tensor *tensors; /* key and value of each KV entry, then the states */
    size_t tensor_count;
    size_t element_bytes; /* of KV */
    uint8_t *raw;         /* the object that was read last */
    uint8_t *rows;        /* a tensor's part of a block, token by token */
};

static void name_tensors(struct head_dump *dump) {
    const struct layout *layout = dump->layout;
    struct safetensors_tensor *tensor = dump->tensors;
    for (int i = 0; i < layout->kv_count; i++) {
        const struct layout_kv *kv = &layout->kv[i];
        for (int is_value = 0; is_value < 2; is_value++, tensor++) {
            *tensor = (struct safetensors_tensor){
                .type = layout->kv_type,
                .dim_count = 3,
                .dims = {dump->head->length, (uint64_t)kv->kv_heads,
                         (uint64_t)(is_value ? kv->value_size : kv->key_size)},
            };
            snprintf(tensor->name, sizeof tensor->name, "blk.%d.attn.%s", kv->layer,
                     is_value ? "value" : "key");
        }
    }
    for (int i = 0; i < layout->state_count; i++, tensor++) {
        const struct layout_state *state = &layout->states[i];
        *tensor = (struct safetensors_tensor){.type = DTYPE_F32};
        /* A convolution's state has two dimensions; the first of its three stands for nothing. */
        int first = strcmp(state->part, "conv") == 0 && state->dims[0] == 1;
        for (int d = first; d < LAYOUT_DIMS_MAX; d++) {
            tensor->dims[tensor->dim_count++] = (uint64_t)state->dims[d];
        }
        snprintf(tensor->name, sizeof tensor->name, "blk.%d.%s", state->layer, state->part);
    }
}

/* K lies as [head][dim][token], V as [head][token][dim]; both leave as [token][head][dim]. */
static void gather(const struct head_dump *dump, const struct layout_kv *kv, int is_value,
                   size_t tokens) {
    size_t block = (size_t)dump->layout->block_size;
    size_t size = (size_t)(is_value ? kv->value_size : kv->key_size);
    size_t element = dump->element_bytes;
    const uint8_t *from = dump->raw + (is_value ? kv->value_offset_bytes : kv->key_offset_bytes);
    uint8_t *to = dump->rows;
    for (size_t token = 0; token < tokens; token++) {
        for (size_t head = 0; head < (size_t)kv->kv_heads; head++) {
            for (size_t dim = 0; dim < size; dim++, to += element) {
                size_t at = is_value ? (head * block + token) * size + dim
                                     : (head * size + dim) * block + token;
                memcpy(to, from + at * element, element);
            }
        }
    }
}

static enum err write_block(struct head_dump *dump, uint64_t index, size_t tokens) {
    uint64_t first = index * (uint64_t)dump->layout->block_size;
    for (int i = 0; i < dump->layout->kv_count; i++) {
        const struct layout_kv *kv = &dump->layout->kv[i];
        for (int is_value = 0; is_value < 2; is_value++) {
            size_t row = (size_t)kv->kv_heads * (size_t)(is_value ? kv->value_size : kv->key_size) *
                         dump->element_bytes;
            gather(dump, kv, is_value, tokens);
            TRY(safetensors_write(dump->file, &dump->tensors[2 * i + is_value], first * row,
                                  dump->rows, tokens * row));
        }
    }
    return ERR_OK;
}

static enum err write_state(struct head_dump *dump) {
    const struct layout *layout = dump->layout;
    for (int i = 0; i < layout->state_count; i++) {
        const struct layout_state *state = &layout->states[i];
        TRY(safetensors_write(dump->file, &dump->tensors[2 * layout->kv_count + i], 0,
                              dump->raw + state->offset_bytes, state->bytes));
    }
    return ERR_OK;
}

static enum err place(void *context, const struct record_object_key *key, void **destination) {
    struct head_dump *dump = context;
    (void)key;
    *destination = dump->raw;
    return ERR_OK;
}

static enum err placed(void *context, const struct record_object_key *key) {
    struct head_dump *dump = context;
    if (key->part == RECORD_BLOCK) {
        return write_block(dump, key->index, dump->head->block_size);
    }
    if (key->part == RECORD_TAIL || key->part == RECORD_PROMPT_TAIL) {
        return write_block(dump, dump->head->block_count, dump->head->tail_tokens);
    }
    return write_state(dump);
}

/* --- the whole ----------------------------------------------------------------------------- */

static enum err read_all(struct head_dump *dump, struct state_env *env,
                         const struct head_plan *plan, size_t object_bytes) {
    struct head_reader *reader = NULL;
    struct head_failure failure;
    struct head_want want = {.end_block = dump->head->block_count, .tail = 1, .state = 1};
    struct head_sink sink = {.place = place, .placed = placed, .context = dump};
    TRY(head_reader_create(env, object_bytes, &reader));
    enum err code = head_reader_stream(reader, plan, &want, &sink, &failure);
    head_reader_destroy(reader);
    return code;
}

static enum err open_and_read(struct head_dump *dump, const struct head_dump_params *params,
                              const struct head_plan *plan) {
    size_t block_bytes = dump->layout->block_bytes;
    size_t object_bytes =
        block_bytes > dump->layout->slot_bytes ? block_bytes : dump->layout->slot_bytes;
    dump->tensor_count = (size_t)(2 * dump->layout->kv_count + dump->layout->state_count);
    dump->tensors = calloc(dump->tensor_count + 1, sizeof *dump->tensors);
    dump->raw = malloc(object_bytes + 1);
    dump->rows = malloc(block_bytes + 1);
    if (dump->tensors == NULL || dump->raw == NULL || dump->rows == NULL) {
        return err_fail(ERR_NOMEM, "no memory for objects of %zu bytes", object_bytes);
    }
    name_tensors(dump);
    TRY(safetensors_create(params->path, dump->tensors, dump->tensor_count, params->metadata,
                           &dump->file));
    TRY(read_all(dump, params->env, plan, object_bytes));
    TRY(safetensors_finish(dump->file));
    dump->file = NULL;
    return ERR_OK;
}

enum err head_dump_write(const struct head_dump_params *params) {
    struct head_dump dump = {.head = params->head, .layout = params->layout};
    struct head_plan *plan = NULL;
    TRY(head_dump_check(params->head, params->layout));
    dump.element_bytes = dtype_bytes(params->layout->kv_type, 1);
    enum err code = head_plan_create(params->env, params->head, &plan);
    if (code == ERR_OK) {
        code = open_and_read(&dump, params, plan);
    }
    safetensors_abandon(dump.file);
    head_plan_destroy(plan);
    free(dump.tensors);
    free(dump.raw);
    free(dump.rows);
    return code;
}
