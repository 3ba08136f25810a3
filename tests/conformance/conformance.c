/*
 * The harness. What must hold:
 * I1  The content that a build function makes depends on the case's seed alone, never on the
 *     device: both sides draw from equal generators in equal order.
 * I2  Images are uploaded after build has returned and downloaded after the op has run; what is
 *     compared is the whole buffer, guards before and behind the operand included.
 * I3  What is expected comes from reference_run over the images and the weights' GGUF bytes
 *     themselves: no packing, copying or stream of the backend has a part in it. The oracle's
 *     device only lends the objects that a command names.
 */
#include "tests/conformance/conformance.h"

#include "base/half.h"
#include "gpu/reference/reference.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BUFFERS_MAX = 16, WEIGHTS_MAX = 4, SUBJECTS_MAX = 16, GUARD_BYTES = 192, REPORTED_MAX = 20 };

struct image {
    const char *name;
    enum dtype type; /* of its elements, for comparing NaN */
    uint8_t *bytes;
    size_t size_bytes;
    size_t operand_offset_bytes;
    struct device_buffer *buffer;
};

struct weight {
    struct device_weight *packed;
    uint8_t *data; /* as in a GGUF file */
    size_t row_bytes;
};

/* One device while a case runs on it. */
struct conformance_side {
    struct device *device;
    struct device_stream *compute;
    struct device_stream *copy;
    uint64_t random;
    enum conformance_fill fill;
    struct image images[BUFFERS_MAX];
    int image_count;
    struct weight weights[WEIGHTS_MAX];
    int weight_count;
    struct batch *batch;
};

struct subject {
    char name[48]; /* "avx2, 3 threads" */
    struct conformance_side side;
};

struct conformance {
    struct conformance_side oracle;
    struct subject subjects[SUBJECTS_MAX];
    int subject_count;
    uint64_t random;
    const char *only_op;
    int is_quick;
    int case_count;
    int run_count;
    int failure_count;
};

static void require(enum err code, const char *what) {
    if (code != ERR_OK) {
        fprintf(stderr, "conformance: %s: %s\n", what, err_message());
        exit(2);
    }
}

static void *allocate(size_t count, size_t size) {
    void *memory = calloc(count > 0 ? count : 1, size);
    if (memory == NULL) {
        fprintf(stderr, "conformance: out of memory\n");
        exit(2);
    }
    return memory;
}

/* --- random content -------------------------------------------------------------------- */

/* splitmix64. */
static uint64_t next(uint64_t *state) {
    uint64_t x = *state += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

static int choose(uint64_t *state, int low, int high) {
    return low + (int)(next(state) % (uint64_t)(high - low + 1));
}

int conformance_choose(struct conformance *suite, int low, int high) {
    return choose(&suite->random, low, high);
}

uint64_t conformance_random(struct conformance_side *side) {
    return next(&side->random);
}

int conformance_uniform(struct conformance_side *side, int low, int high) {
    return choose(&side->random, low, high);
}

/* Half way between two values that are rounded to: integers below 127, F16, BF16; or 127 itself,
 * which makes the scale of a block of activations 1. */
static float tie(uint64_t bits) {
    float sign = bits % 2 == 0 ? 1.0f : -1.0f;
    float odd = (float)(2 * (int)((bits >> 8) % 128) + 1);
    int exponent = (int)((bits >> 24) % 20) - 14;
    switch ((bits >> 1) % 8) {
    case 0:
        return sign * 127.0f;
    case 1:
        return sign * ldexpf(1.0f + odd * 0x1p-11f, exponent);
    case 2:
        return sign * ldexpf(1.0f + odd * 0x1p-8f, exponent);
    default:
        return sign * (odd - 2.0f < 0 ? 0.5f : odd / 2.0f - 1.0f);
    }
}

float conformance_value(struct conformance_side *side) {
    static const float specials[] = {
        0.0f,         -0.0f,
        0x1p-149f,    -0x1p-149f,
        0x1p-130f,    0x1p-126f,
        -0x1p-126f,   0x1p-127f,
        0x1p-100f,    0x1.fffffep-101f,
        -0x1p-100f,   0x1.fffffep+127f,
        -0x1.8p+127f, 0x1p+64f,
        -0x1p+64f,    1.0f,
        -1.0f,        127.0f,
        88.0f,        -88.0f,
        -87.0f,       89.5f,
        -104.0f,      0.5f,
        65504.0f,     65520.0f,
        0x1p-24f,     0x1p-25f,
        0x1p-14f,     0x1.ffcp-15f,
    };
    uint64_t bits = next(&side->random);
    float unit = (float)(bits >> 40) * 0x1p-24f; /* [0, 1) */
    if (side->fill == CONFORMANCE_SPECIAL && bits % 2 == 0) {
        return specials[(bits >> 1) % ARRAY_LEN(specials)];
    }
    if (side->fill == CONFORMANCE_WIDE) {
        float magnitude = ldexpf(1.0f + unit, (int)((bits >> 8) % 121) - 60);
        return bits % 2 == 0 ? magnitude : -magnitude;
    }
    if (side->fill == CONFORMANCE_TINY) {
        /* About two blocks of 32 in three hold a value from 2^-100 on. */
        float magnitude = ldexpf(1.0f + unit, (bits >> 8) % 32 == 0 ? -100 : -101);
        return bits % 2 == 0 ? magnitude : -magnitude;
    }
    if (side->fill == CONFORMANCE_TIES) {
        return tie(bits);
    }
    return unit * 4.0f - 2.0f;
}

void conformance_store(enum dtype type, uint8_t *array, size_t idx, float value) {
    uint16_t half = type == DTYPE_F16 ? half_f32_to_f16(value) : half_f32_to_bf16(value);
    if (type == DTYPE_F32) {
        memcpy(array + idx * sizeof value, &value, sizeof value);
    } else {
        memcpy(array + idx * sizeof half, &half, sizeof half);
    }
}

/* --- buffers and weights ---------------------------------------------------------------- */

static struct image *add_image(struct conformance_side *side, const char *name, enum dtype type,
                               size_t bytes) {
    if (side->image_count == BUFFERS_MAX) {
        fprintf(stderr, "conformance: more than %d buffers in a case\n", BUFFERS_MAX);
        exit(2);
    }
    struct image *image = &side->images[side->image_count++];
    size_t offset = GUARD_BYTES / 2 + 8 * (size_t)(next(&side->random) % 8);
    size_t size = (bytes + GUARD_BYTES + 63) / 64 * 64;
    *image = (struct image){.name = name,
                            .type = type,
                            .bytes = allocate(size, 1),
                            .size_bytes = size,
                            .operand_offset_bytes = offset};
    require(device_buffer_create(side->device, size, &image->buffer), name);
    return image;
}

struct device_ptr conformance_buffer(struct conformance_side *side, const char *name,
                                     enum dtype type, size_t bytes, uint8_t **out) {
    struct image *image = add_image(side, name, type, bytes);
    for (size_t i = 0; i + 4 <= image->size_bytes; i += 4) {
        float value = half_f32_of_bits((uint32_t)next(&side->random) & 0xbfffffffu);
        memcpy(image->bytes + i, &value, sizeof value);
    }
    if (out != NULL) {
        *out = image->bytes + image->operand_offset_bytes;
    }
    return device_ptr_at(image->buffer, image->operand_offset_bytes);
}

struct device_ptr conformance_nan_buffer(struct conformance_side *side, const char *name,
                                         enum dtype type, size_t bytes, uint8_t **out) {
    struct image *image = add_image(side, name, type, bytes);
    memset(image->bytes, 0xff, image->size_bytes);
    if (out != NULL) {
        *out = image->bytes + image->operand_offset_bytes;
    }
    return device_ptr_at(image->buffer, image->operand_offset_bytes);
}

/* Puts NaN or an infinity into a row, at one place or everywhere. */
static void poison_row(struct conformance_side *side, uint8_t *row, int columns) {
    static const float poisons[] = {NAN, INFINITY, -INFINITY};
    int count = conformance_uniform(side, 0, 3) == 0 ? columns : 1;
    for (int i = 0; i < count; i++) {
        int column = count == 1 ? conformance_uniform(side, 0, columns - 1) : i;
        float poison = poisons[conformance_uniform(side, 0, 2)];
        conformance_store(DTYPE_F32, row, (size_t)column, poison);
    }
}

struct device_ptr conformance_input(struct conformance_side *side, const char *name, int rows,
                                    int columns, size_t stride) {
    uint8_t *image;
    size_t bytes = (size_t)rows * stride * sizeof(float);
    struct device_ptr ptr = conformance_buffer(side, name, DTYPE_F32, bytes, &image);
    for (int row = 0; row < rows; row++) {
        uint8_t *begin = image + (size_t)row * stride * sizeof(float);
        for (int c = 0; c < columns; c++) {
            conformance_store(DTYPE_F32, begin, (size_t)c, conformance_value(side));
        }
        if (side->fill == CONFORMANCE_POISON && rows > 1 && conformance_uniform(side, 0, 2) == 0) {
            poison_row(side, begin, columns);
        }
    }
    return ptr;
}

struct device_ptr conformance_output(struct conformance_side *side, const char *name, int rows,
                                     int columns, size_t stride) {
    (void)columns;
    return conformance_buffer(side, name, DTYPE_F32, (size_t)rows * stride * sizeof(float), NULL);
}

/* A row of blocks: F16 scale, then 32 quants, all of int8 among them. */
static void fill_q8_0(struct conformance_side *side, uint8_t *data, size_t blocks) {
    for (size_t b = 0; b < blocks; b++) {
        uint8_t *block = data + b * 34;
        uint16_t scale = half_f32_to_f16(conformance_value(side) / 64.0f);
        if (side->fill == CONFORMANCE_WIDE || side->fill == CONFORMANCE_SPECIAL ||
            side->fill == CONFORMANCE_TINY) {
            scale = (uint16_t)(next(&side->random) & 0xbfffu); /* any half below 2 */
        }
        memcpy(block, &scale, sizeof scale);
        for (int i = 0; i < 32; i++) {
            block[2 + i] = (uint8_t)next(&side->random);
        }
    }
}

struct device_weight *conformance_weight(struct conformance_side *side, enum dtype type, int rows,
                                         int columns) {
    size_t values = (size_t)rows * (size_t)columns;
    uint8_t *data = allocate(dtype_bytes(type, values), 1);
    if (type == DTYPE_Q8_0) {
        fill_q8_0(side, data, values / 32);
    } else {
        for (size_t i = 0; i < values; i++) {
            float value = conformance_value(side);
            /* An infinity of F16 would make NaN of every row. */
            value = type == DTYPE_F16 && fabsf(value) >= 65520.0f ? 60000.0f : value;
            value = fabsf(value) > 0x1p+126f ? 0x1p+126f : value;
            conformance_store(type, data, i, value);
        }
    }
    struct device_weight_params params = {
        .type = type, .rows = rows, .columns = columns, .data = data};
    assert(side->weight_count < WEIGHTS_MAX);
    struct weight *weight = &side->weights[side->weight_count];
    *weight = (struct weight){.data = data, .row_bytes = dtype_bytes(type, (size_t)columns)};
    require(device_weight_create(side->device, &params, &weight->packed), "weight");
    side->weight_count++;
    return weight->packed;
}

/* --- batches ----------------------------------------------------------------------------- */

int conformance_batch_pattern(int idx, struct conformance_batch_shape *shape, const char **text) {
    static const struct {
        const char *text;
        int count;
        int rows[CONFORMANCE_SEQUENCES_MAX];
        int positions[CONFORMANCE_SEQUENCES_MAX];
    } patterns[] = {
        {"no sequence", 0, {0}, {0}},
        {"an empty sequence", 1, {0}, {17}},
        {"one token at 0", 1, {1}, {0}},
        {"one token at 31", 1, {1}, {31}},
        {"one token at 32", 1, {1}, {32}},
        {"one token at 200", 1, {1}, {200}},
        {"a chunk of 7 at 0", 1, {7}, {0}},
        {"a chunk of 33 at 30", 1, {33}, {30}},
        {"a chunk of 70 at 61", 1, {70}, {61}},
        {"decode of 5", 5, {1, 1, 1, 1, 1}, {0, 15, 16, 127, 63}},
        {"mixed with empties", 6, {0, 3, 1, 0, 18, 1}, {5, 0, 40, 0, 14, 95}},
        {"chunks of 2, 31 and 9", 3, {2, 31, 9}, {64, 1, 128}},
    };
    if (idx >= (int)ARRAY_LEN(patterns)) {
        return 0;
    }
    shape->sequence_count = patterns[idx].count;
    memcpy(shape->rows, patterns[idx].rows, sizeof shape->rows);
    memcpy(shape->positions, patterns[idx].positions, sizeof shape->positions);
    *text = patterns[idx].text;
    return 1;
}

/* The numbers 0 to COUNT - 1 in random order; the caller frees. */
static int32_t *shuffled(struct conformance_side *side, int count) {
    int32_t *numbers = allocate((size_t)count, sizeof *numbers);
    for (int i = 0; i < count; i++) {
        int at = conformance_uniform(side, 0, i);
        numbers[i] = numbers[at];
        numbers[at] = i;
    }
    return numbers;
}

static int blocks_of(const struct conformance_batch_shape *shape, int tokens) {
    return shape->block_size == 0 ? 0 : (tokens + shape->block_size - 1) / shape->block_size;
}

static int has_mark(struct conformance_side *side, const struct conformance_batch_shape *shape,
                    int row, int rows) {
    switch (shape->marks) {
    case CONFORMANCE_MARKS_NONE:
        return 0;
    case CONFORMANCE_MARKS_FIRST:
        return row == 0;
    case CONFORMANCE_MARKS_LAST:
        return row == rows - 1;
    case CONFORMANCE_MARKS_ALL:
        return 1;
    case CONFORMANCE_MARKS_SOME:
        return conformance_uniform(side, 0, 3) == 0;
    }
    return 0;
}

/* Numbers that a batch takes from, and how far it has. */
struct supply {
    int32_t *blocks;
    int32_t *slots;
    struct batch_mark *marks;
    int block_count;
    int slot_count;
    int mark_count;
};

static void make_sequence(struct conformance_side *side,
                          const struct conformance_batch_shape *shape, int idx,
                          const struct batch_sequence *first, struct supply *supply,
                          struct batch_sequence *out) {
    int rows = shape->rows[idx];
    int position = shape->positions[idx];
    int32_t *table = supply->blocks + supply->block_count;
    *out = (struct batch_sequence){.rows = rows,
                                   .position = position,
                                   .state_slot = -1,
                                   .block_table = table,
                                   .blocks = blocks_of(shape, position + rows),
                                   .marks = supply->marks + supply->mark_count};
    supply->block_count += out->blocks;
    for (int i = 0; shape->shares_prefix && idx > 0 && i < out->blocks; i++) {
        int end = (i + 1) * shape->block_size;
        if (end <= position && end <= first->position) {
            table[i] = first->block_table[i];
        }
    }
    if (!shape->has_state) {
        return;
    }
    out->state_slot = supply->slots[supply->slot_count++];
    for (int row = 0; row < rows; row++) {
        if (has_mark(side, shape, row, rows)) {
            supply->marks[supply->mark_count++] =
                (struct batch_mark){row, supply->slots[supply->slot_count++]};
            out->mark_count++;
        }
    }
}

void conformance_make_batch(struct conformance_side *side,
                            const struct conformance_batch_shape *shape,
                            struct conformance_batch *out) {
    int rows = 0;
    int blocks = 0;
    for (int i = 0; i < shape->sequence_count; i++) {
        rows += shape->rows[i];
        blocks += blocks_of(shape, shape->positions[i] + shape->rows[i]);
    }
    out->rows = rows;
    out->block_count = blocks + 2;
    out->slot_count = rows + shape->sequence_count + 2;
    int32_t *block_ids CLEANUP(object_free) = shuffled(side, out->block_count);
    int32_t *slot_ids CLEANUP(object_free) = shuffled(side, out->slot_count);
    int32_t *tokens CLEANUP(object_free) = allocate((size_t)rows, sizeof *tokens);
    int32_t *outputs CLEANUP(object_free) = allocate((size_t)shape->output_count, sizeof *outputs);
    struct batch_mark *marks CLEANUP(object_free) = allocate((size_t)rows, sizeof *marks);
    struct batch_sequence sequences[CONFORMANCE_SEQUENCES_MAX];
    struct supply supply = {.blocks = block_ids, .slots = slot_ids, .marks = marks};
    for (int i = 0; i < shape->sequence_count; i++) {
        make_sequence(side, shape, i, &sequences[0], &supply, &sequences[i]);
    }
    for (int i = 0; i < rows; i++) {
        tokens[i] = conformance_uniform(side, 0, shape->vocabulary - 1);
    }
    int output_count = shape->output_count < rows ? shape->output_count : rows;
    for (int i = 0; i < output_count; i++) {
        outputs[i] = conformance_uniform(side, 0, rows - 1);
    }
    struct batch_limits limits = {.rows_max = rows + 1,
                                  .sequences_max = CONFORMANCE_SEQUENCES_MAX,
                                  .blocks_max = blocks + 1,
                                  .marks_max = rows + 1};
    require(batch_create(side->device, &limits, &side->batch), "batch");
    struct batch_layout layout = {.sequences = sequences,
                                  .sequence_count = shape->sequence_count,
                                  .tokens = tokens,
                                  .output_rows = outputs,
                                  .output_count = output_count};
    require(batch_set(side->batch, side->compute, &layout), "batch");
    out->batch = side->batch;
    out->layout = batch_get_layout(side->batch);
}

/* --- enqueuing --------------------------------------------------------------------------- */

static enum err enqueue_rows(struct device_stream *stream, const struct command *command) {
    switch (command->kind) {
    case COMMAND_EMBED:
        return op_embed(stream, &command->embed);
    case COMMAND_GATHER_ROWS:
        return op_gather_rows(stream, &command->gather_rows);
    case COMMAND_RMS_NORM:
        return op_rms_norm(stream, &command->rms_norm);
    case COMMAND_GATED_NORM:
        return op_gated_norm(stream, &command->gated_norm);
    case COMMAND_MATMUL:
        return op_matmul(stream, &command->matmul);
    case COMMAND_SWIGLU:
        return op_swiglu(stream, &command->swiglu);
    default:
        return err_fail(ERR_INVALID, "no op of kind %d", (int)command->kind);
    }
}

static enum err enqueue(struct device_stream *stream, const struct command *command) {
    switch (command->kind) {
    case COMMAND_ROPE_TABLE:
        return op_rope_table(stream, &command->rope_table);
    case COMMAND_ROPE:
        return op_rope(stream, &command->rope);
    case COMMAND_KV_WRITE:
        return op_kv_write(stream, &command->kv_write);
    case COMMAND_ATTENTION:
        return op_attention(stream, &command->attention);
    case COMMAND_CONV1D:
        return op_conv1d(stream, &command->conv1d);
    case COMMAND_SSM_SCAN:
        return op_ssm_scan(stream, &command->ssm_scan);
    case COMMAND_KV_COPY_TAIL:
        return op_kv_copy_tail(stream, &command->kv_copy_tail);
    case COMMAND_STATE_COPY:
        return op_state_copy(stream, &command->state_copy);
    case COMMAND_STATE_CLEAR:
        return op_state_clear(stream, &command->state_clear);
    default:
        return enqueue_rows(stream, command);
    }
}

/* --- running one case ------------------------------------------------------------------- */

static void run_side(struct conformance_side *side, const struct conformance_case *test,
                     uint64_t seed) {
    struct command command = {.kind = COMMAND_KIND_COUNT};
    side->random = seed;
    side->fill = test->fill;
    test->build(side, test->shape, &command);
    struct device_stream *stream = test->is_on_copy_stream ? side->copy : side->compute;
    for (int i = 0; i < side->image_count; i++) {
        struct image *image = &side->images[i];
        require(device_copy_in(stream, device_ptr_at(image->buffer, 0), image->bytes,
                               image->size_bytes),
                image->name);
    }
    require(device_stream_wait_idle(stream), "upload");
    require(enqueue(stream, &command), test->text);
    require(device_stream_wait_idle(stream), test->text);
    for (int i = 0; i < side->image_count; i++) {
        struct image *image = &side->images[i];
        require(device_copy_out(stream, image->bytes, device_ptr_at(image->buffer, 0),
                                image->size_bytes),
                image->name);
    }
    require(device_stream_wait_idle(stream), "download");
}

static void *resolve_image(void *context, struct device_ptr ptr) {
    struct conformance_side *side = context;
    for (int i = 0; i < side->image_count; i++) {
        if (side->images[i].buffer == ptr.buffer) {
            return side->images[i].bytes + ptr.offset_bytes;
        }
    }
    fprintf(stderr, "conformance: the reference asks for a buffer that the case has not\n");
    exit(2);
}

static void copy_weight_row(void *context, const struct device_weight *weight, int row, void *to) {
    struct conformance_side *side = context;
    for (int i = 0; i < side->weight_count; i++) {
        const struct weight *own = &side->weights[i];
        if (own->packed == weight) {
            memcpy(to, own->data + (size_t)row * own->row_bytes, own->row_bytes);
            return;
        }
    }
    fprintf(stderr, "conformance: the reference asks for a weight that the case has not\n");
    exit(2);
}

static enum command_kind run_oracle(struct conformance_side *side,
                                    const struct conformance_case *test, uint64_t seed) {
    const struct reference_memory memory = {
        .resolve = resolve_image, .weight_row = copy_weight_row, .context = side};
    struct command command = {.kind = COMMAND_KIND_COUNT};
    side->random = seed;
    side->fill = test->fill;
    test->build(side, test->shape, &command);
    require(command_check(&command), test->text);
    require(reference_run(&command, &memory), test->text);
    return command.kind;
}

static void clear_side(struct conformance_side *side) {
    for (int i = 0; i < side->image_count; i++) {
        device_buffer_destroy(side->images[i].buffer);
        free(side->images[i].bytes);
    }
    for (int i = 0; i < side->weight_count; i++) {
        device_weight_destroy(side->weights[i].packed);
        free(side->weights[i].data);
    }
    if (side->batch != NULL) {
        batch_destroy(side->batch);
    }
    side->image_count = 0;
    side->weight_count = 0;
    side->batch = NULL;
}

static float load(enum dtype type, const uint8_t *array, size_t idx) {
    float value;
    uint16_t half;
    if (type == DTYPE_F32) {
        memcpy(&value, array + idx * sizeof value, sizeof value);
        return value;
    }
    memcpy(&half, array + idx * sizeof half, sizeof half);
    return type == DTYPE_F16 ? half_f16_to_f32(half) : half_bf16_to_f32(half);
}

/* Index of the first element that differs, or -1. */
static long first_difference(const struct image *a, const struct image *b) {
    if (memcmp(a->bytes, b->bytes, a->size_bytes) == 0) {
        return -1;
    }
    size_t value_bytes = dtype_block_bytes(a->type);
    for (size_t i = 0; i < a->size_bytes / value_bytes; i++) {
        if (memcmp(a->bytes + i * value_bytes, b->bytes + i * value_bytes, value_bytes) != 0 &&
            !(isnan(load(a->type, a->bytes, i)) && isnan(load(a->type, b->bytes, i)))) {
            return (long)i;
        }
    }
    return -1;
}

static int compare(struct conformance *suite, const struct subject *subject,
                   const struct conformance_case *test, enum command_kind kind, uint64_t seed) {
    for (int i = 0; i < suite->oracle.image_count; i++) {
        const struct image *want = &suite->oracle.images[i];
        const struct image *got = &subject->side.images[i];
        long at = first_difference(want, got);
        if (at < 0) {
            continue;
        }
        size_t value_bytes = dtype_block_bytes(want->type);
        long begin = (long)(want->operand_offset_bytes / value_bytes);
        if (suite->failure_count < REPORTED_MAX) {
            float want_value = load(want->type, want->bytes, (size_t)at);
            float got_value = load(want->type, got->bytes, (size_t)at);
            printf("FAIL %s (%s): %s, fill %d, seed 0x%016llx: %s[%ld] is %a (%g), "
                   "the reference has %a (%g)\n",
                   command_name(kind), subject->name, test->text, (int)test->fill,
                   (unsigned long long)seed, want->name, at - begin, (double)got_value,
                   (double)got_value, (double)want_value, (double)want_value);
        }
        return 1;
    }
    return 0;
}

void conformance_run(struct conformance *suite, const struct conformance_case *test) {
    uint64_t seed = next(&suite->random);
    suite->case_count++;
    if (suite->is_quick && seed % 8 != 0) {
        return;
    }
    enum command_kind kind = run_oracle(&suite->oracle, test, seed);
    if (suite->only_op == NULL || strcmp(suite->only_op, command_name(kind)) == 0) {
        for (int i = 0; i < suite->subject_count; i++) {
            struct subject *subject = &suite->subjects[i];
            run_side(&subject->side, test, seed);
            suite->failure_count += compare(suite, subject, test, kind, seed);
            suite->run_count++;
            clear_side(&subject->side);
        }
    }
    clear_side(&suite->oracle);
}

/* --- devices and main ----------------------------------------------------------------------- */

/* False if this processor lacks the ISA. */
static int open_side(const char *isa, int threads, struct conformance_side *side) {
    struct device_config config = {.backend = "host", .isa = isa, .threads = threads};
    enum err code = device_open(&config, &side->device);
    if (code == ERR_UNSUPPORTED) {
        return 0;
    }
    require(code, isa);
    require(device_stream_create(side->device, DEVICE_STREAM_COMPUTE, &side->compute), isa);
    require(device_stream_create(side->device, DEVICE_STREAM_COPY, &side->copy), isa);
    return 1;
}

static void close_side(struct conformance_side *side) {
    device_stream_destroy(side->copy);
    device_stream_destroy(side->compute);
    device_close(side->device);
}

/* Whether a device of the ISA that runs here is a subject already ("auto" is one of the others
 * unless it has kernels that none of the names selects). */
static int is_known(const struct conformance *suite, const char *isa, int threads) {
    for (int i = 0; i < suite->subject_count; i++) {
        struct device_info info;
        device_get_info(suite->subjects[i].side.device, &info);
        if (strcmp(info.isa, isa) == 0 && info.threads == threads) {
            return 1;
        }
    }
    return 0;
}

static void open_subjects(struct conformance *suite, const char *only_isa) {
    static const char *const isas[] = {"reference", "portable", "avx2", "avx512", "avx512vnni"};
    for (size_t i = 0; i < ARRAY_LEN(isas); i++) {
        for (int threads = 1; threads <= 3; threads++) {
            struct subject *subject = &suite->subjects[suite->subject_count];
            int is_wanted = only_isa == NULL || strcmp(only_isa, isas[i]) == 0;
            if (!is_wanted || threads > (i == 0 ? 1 : 3) || (suite->is_quick && threads == 2) ||
                !open_side(isas[i], threads, &subject->side)) {
                continue;
            }
            struct device_info info;
            device_get_info(subject->side.device, &info);
            if (is_known(suite, info.isa, threads)) {
                close_side(&subject->side);
                *subject = (struct subject){0};
                continue;
            }
            snprintf(subject->name, sizeof subject->name, "%s, %d threads", info.isa, threads);
            suite->subject_count++;
        }
    }
}

static int read_options(struct conformance *suite, int count, char **values,
                        const char **only_isa) {
    for (int i = 1; i < count; i++) {
        if (strcmp(values[i], "--quick") == 0) {
            suite->is_quick = 1;
        } else if (strcmp(values[i], "--isa") == 0 && i + 1 < count) {
            *only_isa = values[++i];
        } else if (strcmp(values[i], "--op") == 0 && i + 1 < count) {
            suite->only_op = values[++i];
        } else if (strcmp(values[i], "--seed") == 0 && i + 1 < count) {
            suite->random = strtoull(values[++i], NULL, 0);
        } else {
            return 0;
        }
    }
    return 1;
}

int main(int count, char **values) {
    struct conformance suite = {.random = 1};
    const char *only_isa = NULL;
    if (!read_options(&suite, count, values, &only_isa)) {
        fprintf(stderr, "usage: conformance [--quick] [--isa NAME] [--op NAME] [--seed N]\n");
        return 2;
    }
    open_subjects(&suite, only_isa);
    if (suite.subject_count == 0 || !open_side("reference", 1, &suite.oracle)) {
        fprintf(stderr, "conformance: nothing to test\n");
        return 2;
    }
    for (int i = 0; i < suite.subject_count; i++) {
        printf("device: %s\n", suite.subjects[i].name);
    }
    conformance_cases_rows(&suite);
    conformance_cases_product(&suite);
    conformance_cases_attention(&suite);
    conformance_cases_recurrence(&suite);
    conformance_cases_pool(&suite);
    printf("%d cases, %d comparisons, %d failures\n", suite.case_count, suite.run_count,
           suite.failure_count);
    for (int i = 0; i < suite.subject_count; i++) {
        close_side(&suite.subjects[i].side);
    }
    close_side(&suite.oracle);
    return suite.failure_count == 0 && suite.run_count > 0 ? 0 : 1;
}
