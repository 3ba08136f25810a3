/*
 * A sequence whose state is copied out at any position, poisoned, copied back and
 * continued gives bitwise the logits and the state of one that never stopped; so
 * does one that continues from a shared prefix with a copied tail, and one that
 * starts from a mark inside a chunk. One flipped bit of the state, of the tail or
 * of a full KV block must show.
 *
 *   state_continuity MODEL [--tokens N] [--block-size N]
 */
#include "engine/hybrid_forward.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    CONTEXT = 2048,
    CONTINUED_TOKENS = 9, /* run after each restore */
    CHUNK = 24,           /* no divisor of a block, so that chunks end anywhere */
    POISON = 0xa5,
};

#define CHECK(expression)                                                                          \
    do {                                                                                           \
        enum err check_code_ = (expression);                                                       \
        if (check_code_ != ERR_OK) {                                                               \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, err_message());                     \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

struct harness {
    struct gguf *file;
    struct device *device;
    struct model *model;
    struct pool *pool;
    struct hybrid_forward *forward;
    struct device_stream *copies;
    int32_t *tokens;
    int token_count;
    float *expected; /* [tokens][vocabulary] of the run that never stops */
    int passed;
    int failed;
};

/* A head's bytes in host memory, as a spill would hold them. */
struct image {
    uint8_t *blocks;
    uint8_t *slot;
    int length;
    int block_count;
};

static const struct layout *layout_of(const struct harness *harness) {
    return &harness->model->layout;
}

static size_t vocabulary_of(const struct harness *harness) {
    return (size_t)harness->model->shape.vocabulary;
}

static void harness_init(struct harness *harness, const char *path, int tokens, int block_size,
                         enum dtype kv_type) {
    *harness = (struct harness){.token_count = tokens};
    CHECK(gguf_open(path, &harness->file));
    CHECK(device_open(&(struct device_config){.threads = 2}, &harness->device));
    CHECK(model_load(harness->file,
                     &(struct model_config){
                         .device = harness->device, .block_size = block_size, .kv_type = kv_type},
                     &harness->model));
    CHECK(
        pool_create(&(struct pool_config){.device = harness->device,
                                          .layout = layout_of(harness),
                                          .blocks = 4 * layout_blocks(layout_of(harness), CONTEXT),
                                          .slots = 8},
                    &harness->pool));
    CHECK(hybrid_forward_create(&(struct hybrid_forward_config){.model = harness->model,
                                                                .pool = harness->pool,
                                                                .rows_max = 4 * CHUNK,
                                                                .sequences_max = 4,
                                                                .outputs_max = 4 * CHUNK,
                                                                .marks_max = 4 * CHUNK,
                                                                .context_max = CONTEXT},
                                &harness->forward));
    CHECK(device_stream_create(harness->device, DEVICE_STREAM_COPY, &harness->copies));
    harness->tokens = calloc((size_t)tokens, sizeof *harness->tokens);
    harness->expected = calloc((size_t)tokens * vocabulary_of(harness), sizeof(float));
    if (harness->tokens == NULL || harness->expected == NULL) {
        abort();
    }
    uint32_t random = 12345;
    for (int i = 0; i < tokens; i++) {
        random = random * 1664525u + 1013904223u;
        harness->tokens[i] = (int32_t)((random >> 8) % (uint32_t)vocabulary_of(harness));
    }
}

static void harness_done(struct harness *harness) {
    device_stream_destroy(harness->copies);
    hybrid_forward_destroy(harness->forward);
    pool_destroy(harness->pool);
    model_destroy(harness->model);
    device_close(harness->device);
    gguf_close(harness->file);
    free(harness->tokens);
    free(harness->expected);
}

/* Runs tokens up to END; logits go to OUT [rows][vocabulary] unless NULL. */
static void advance(struct harness *harness, struct sequence *sequence, int end, int chunk,
                    float *out) {
    size_t row_bytes = vocabulary_of(harness) * sizeof(float);
    while (sequence->length < end) {
        int start = sequence->length;
        int count = end - start < chunk ? end - start : chunk;
        struct hybrid_forward_item item = {.sequence = sequence,
                                           .tokens = harness->tokens + start,
                                           .count = count,
                                           .outputs = out != NULL ? count : 0};
        CHECK(sequence_reserve(sequence, count));
        CHECK(hybrid_forward_enqueue(harness->forward, &item, 1));
        CHECK(hybrid_forward_wait(harness->forward));
        for (int i = 0; out != NULL && i < count; i++) {
            memcpy(out, hybrid_forward_logits(harness->forward, i), row_bytes);
            out += vocabulary_of(harness);
        }
    }
}

static void start(struct harness *harness, struct sequence *sequence) {
    CHECK(sequence_init(sequence, harness->pool, CONTEXT));
    CHECK(sequence_start(sequence, hybrid_forward_stream(harness->forward)));
}

/* The copy stream continues when everything enqueued on the compute stream has run. */
static void join_streams(struct harness *harness, struct device_stream *first,
                         struct device_stream *second) {
    struct device_event *event = NULL;
    CHECK(device_event_create(harness->device, &event));
    CHECK(device_event_record(event, first));
    CHECK(device_stream_wait_event(second, event));
    CHECK(device_stream_wait_idle(second));
    device_event_destroy(event);
}

/* --- copying a head out and back -------------------------------------------------------- */

static struct image copy_out(struct harness *harness, const struct sequence_head *head) {
    const struct layout *layout = layout_of(harness);
    struct image image = {.length = head->length, .block_count = head->block_count};
    image.blocks = calloc((size_t)head->block_count + 1, layout->block_bytes + 1);
    image.slot = calloc(1, layout->slot_bytes + 1);
    join_streams(harness, hybrid_forward_stream(harness->forward), harness->copies);
    for (int i = 0; i < head->block_count; i++) {
        CHECK(device_copy_out(harness->copies, image.blocks + (size_t)i * layout->block_bytes,
                              pool_block_ptr(harness->pool, head->blocks[i]), layout->block_bytes));
    }
    if (head->slot >= 0) {
        CHECK(device_copy_out(harness->copies, image.slot, pool_slot_ptr(harness->pool, head->slot),
                              layout->slot_bytes));
    }
    CHECK(device_stream_wait_idle(harness->copies));
    return image;
}

static void image_done(struct image *image) {
    free(image->blocks);
    free(image->slot);
}

/* Fills what the head holds with garbage, then gives it back. */
static void poison_and_release(struct harness *harness, struct sequence_head *head) {
    const struct layout *layout = layout_of(harness);
    for (int i = 0; i < head->block_count; i++) {
        CHECK(device_fill(harness->copies, pool_block_ptr(harness->pool, head->blocks[i]), POISON,
                          layout->block_bytes));
    }
    if (head->slot >= 0) {
        CHECK(device_fill(harness->copies, pool_slot_ptr(harness->pool, head->slot), POISON,
                          layout->slot_bytes));
    }
    CHECK(device_stream_wait_idle(harness->copies));
    sequence_head_release(head);
}

static struct sequence_head copy_back(struct harness *harness, const struct image *image) {
    const struct layout *layout = layout_of(harness);
    struct sequence_head head = {.pool = harness->pool, .slot = -1, .length = image->length};
    head.blocks = calloc((size_t)image->block_count + 1, sizeof *head.blocks);
    for (int i = 0; i < image->block_count; i++) {
        CHECK(pool_block_take(harness->pool, &head.blocks[i]));
        head.block_count++;
        CHECK(device_copy_in(harness->copies, pool_block_ptr(harness->pool, head.blocks[i]),
                             image->blocks + (size_t)i * layout->block_bytes, layout->block_bytes));
    }
    if (layout->state_count > 0) {
        CHECK(pool_slot_take(harness->pool, &head.slot));
        CHECK(device_copy_in(harness->copies, pool_slot_ptr(harness->pool, head.slot), image->slot,
                             layout->slot_bytes));
    }
    CHECK(device_stream_wait_idle(harness->copies));
    return head;
}

/* --- what must be equal ------------------------------------------------------------------ */

/* Attaches HEAD, continues, and compares logits with the run that never stopped. */
static int continues_equal(struct harness *harness, const struct sequence_head *head) {
    int end = head->length + CONTINUED_TOKENS;
    end = end < harness->token_count ? end : harness->token_count;
    size_t values = (size_t)(end - head->length) * vocabulary_of(harness);
    float *got = malloc(values * sizeof *got);
    struct sequence sequence;
    CHECK(sequence_init(&sequence, harness->pool, CONTEXT));
    CHECK(sequence_attach(&sequence, hybrid_forward_stream(harness->forward), head));
    advance(harness, &sequence, end, 4, got);
    const float *want = harness->expected + (size_t)head->length * vocabulary_of(harness);
    int is_equal = memcmp(got, want, values * sizeof *got) == 0;
    sequence_done(&sequence);
    free(got);
    return is_equal;
}

/* The bytes of HEAD as they stand on the device. */
static int bytes_equal(struct harness *harness, const struct sequence_head *head,
                       const struct image *want) {
    const struct layout *layout = layout_of(harness);
    struct image got = copy_out(harness, head);
    int is_equal =
        got.block_count == want->block_count && got.length == want->length &&
        memcmp(got.blocks, want->blocks, (size_t)want->block_count * layout->block_bytes) == 0 &&
        memcmp(got.slot, want->slot, layout->slot_bytes) == 0;
    image_done(&got);
    return is_equal;
}

static void expect(struct harness *harness, int is_good, const char *what, int length) {
    harness->passed += is_good;
    harness->failed += !is_good;
    if (!is_good) {
        printf("FAIL at length %d: %s\n", length, what);
    }
}

/* Restores IMAGE with one bit flipped: the test must see it, in the logits or in the bytes. */
static void expect_flip_shows(struct harness *harness, const struct image *image, uint8_t *byte,
                              int bit, const char *what) {
    struct image pristine = *image;
    pristine.blocks = calloc((size_t)image->block_count + 1, layout_of(harness)->block_bytes + 1);
    pristine.slot = calloc(1, layout_of(harness)->slot_bytes + 1);
    memcpy(pristine.blocks, image->blocks,
           (size_t)image->block_count * layout_of(harness)->block_bytes);
    memcpy(pristine.slot, image->slot, layout_of(harness)->slot_bytes);
    *byte ^= (uint8_t)(1u << bit);
    struct sequence_head head = copy_back(harness, image);
    int is_silent = bytes_equal(harness, &head, &pristine) && continues_equal(harness, &head);
    expect(harness, !is_silent, what, image->length);
    sequence_head_release(&head);
    *byte ^= (uint8_t)(1u << bit);
    image_done(&pristine);
}

/* Values of which one, with its sign flipped alone, must change the logits that follow: a single
 * one may lie where the model hardly looks. */
enum { FLIPS_TRIED = 64, FLIP_STRIDE = 37 };

struct region {
    uint8_t *values;
    size_t count;
    size_t value_bytes;
};

static void expect_flip_changes_logits(struct harness *harness, const struct image *image,
                                       struct region region, const char *what) {
    int is_changed = 0;
    for (size_t i = 0; i < FLIPS_TRIED && !is_changed; i++) {
        size_t index = i * FLIP_STRIDE % region.count;
        uint8_t *top = region.values + (index + 1) * region.value_bytes - 1;
        *top ^= 0x80;
        struct sequence_head head = copy_back(harness, image);
        is_changed = !continues_equal(harness, &head);
        sequence_head_release(&head);
        *top ^= 0x80;
    }
    expect(harness, is_changed, what, image->length);
}

/* --- the cases --------------------------------------------------------------------------- */

/* V of the first attention layer, all its heads, in one block. */
static struct region value_region(const struct layout *layout, uint8_t *block) {
    const struct layout_kv *kv = &layout->kv[0];
    return (struct region){
        .values = block + kv->value_offset_bytes,
        .count = (size_t)kv->value_size, /* the first token's, which every tail holds */
        .value_bytes = dtype_bytes(layout->kv_type, 1),
    };
}

static struct region state_region(const struct layout *layout, uint8_t *slot, int index) {
    const struct layout_state *state = &layout->states[index];
    return (struct region){
        .values = slot + state->offset_bytes,
        .count = state->bytes / sizeof(float),
        .value_bytes = sizeof(float),
    };
}

static void run_flips(struct harness *harness, struct image *image) {
    const struct layout *layout = layout_of(harness);
    struct region conv = state_region(layout, image->slot, 0);
    struct region ssm = state_region(layout, image->slot, layout->state_count - 1);
    int tail_tokens = image->length % layout->block_size;
    uint8_t *last = image->blocks + (size_t)(image->block_count - 1) * layout->block_bytes;
    expect_flip_shows(harness, image, conv.values, 0, "a flipped bit of the conv state is silent");
    expect_flip_shows(harness, image, ssm.values + ssm.count, 3,
                      "a flipped bit of the SSM state is silent");
    expect_flip_changes_logits(harness, image, conv, "a changed conv state leaves the logits");
    expect_flip_changes_logits(harness, image, ssm, "a changed SSM state leaves the logits");
    expect_flip_shows(harness, image, last, 1,
                      tail_tokens > 0 ? "a flipped bit of the tail is silent"
                                      : "a flipped bit of the last KV block is silent");
    expect_flip_changes_logits(harness, image, value_region(layout, last),
                               "a changed value of the tail leaves the logits");
    if (image->length > layout->block_size) {
        struct region first = value_region(layout, image->blocks);
        expect_flip_shows(harness, image, first.values, 0,
                          "a flipped bit of a full KV block is silent");
        expect_flip_changes_logits(harness, image, first,
                                   "a changed value of a full KV block leaves the logits");
    }
}

/* Commit at LENGTH, continue from the head on the device, copy it out, poison, back, continue. */
static void run_length(struct harness *harness, int length, int with_flips) {
    struct device_stream *stream = hybrid_forward_stream(harness->forward);
    struct sequence sequence;
    struct sequence_head head;
    start(harness, &sequence);
    advance(harness, &sequence, length, CHUNK, NULL);
    CHECK(sequence_commit(&sequence, stream, length, -1, &head));
    /* The line that goes on writes into neither the committed tail nor the committed state. */
    int end = length + 3 < harness->token_count ? length + 3 : harness->token_count;
    advance(harness, &sequence, end, 3, NULL);
    expect(harness, continues_equal(harness, &head), "continued from the head on the device",
           length);
    expect(harness, continues_equal(harness, &head), "continued from the same head again", length);
    struct image image = copy_out(harness, &head);
    sequence_done(&sequence);
    poison_and_release(harness, &head);
    head = copy_back(harness, &image);
    expect(harness, bytes_equal(harness, &head, &image), "bytes after the copy back", length);
    expect(harness, continues_equal(harness, &head), "continued from the restored head", length);
    sequence_head_release(&head);
    if (with_flips) {
        run_flips(harness, &image);
    }
    image_done(&image);
}

/* One chunk with a mark after each of its tokens: every copied state must be the right one. */
static void run_marks(struct harness *harness, int first) {
    struct device_stream *stream = hybrid_forward_stream(harness->forward);
    struct sequence sequence;
    struct batch_mark marks[4];
    int offsets[4] = {0, 1, 6, CHUNK - 1};
    if (layout_of(harness)->state_count == 0) {
        return;
    }
    start(harness, &sequence);
    advance(harness, &sequence, first, CHUNK, NULL);
    for (int i = 0; i < 4; i++) {
        int32_t slot = -1;
        CHECK(pool_slot_take(harness->pool, &slot));
        marks[i] = (struct batch_mark){.row = offsets[i], .slot = slot};
    }
    struct hybrid_forward_item item = {.sequence = &sequence,
                                       .tokens = harness->tokens + first,
                                       .count = CHUNK,
                                       .marks = marks,
                                       .mark_count = 4};
    CHECK(sequence_reserve(&sequence, CHUNK));
    CHECK(hybrid_forward_enqueue(harness->forward, &item, 1));
    CHECK(hybrid_forward_wait(harness->forward));
    for (int i = 0; i < 4; i++) {
        struct sequence_head head;
        int length = first + offsets[i] + 1;
        CHECK(sequence_commit(&sequence, stream, length, marks[i].slot, &head));
        expect(harness, continues_equal(harness, &head), "continued from a mark", length);
        sequence_head_release(&head);
    }
    sequence_done(&sequence);
}

/* Two branches of one head, in the same batches, never meet. */
static void run_branches(struct harness *harness, int length) {
    struct device_stream *stream = hybrid_forward_stream(harness->forward);
    struct sequence parent, branches[2];
    struct sequence_head head;
    size_t vocabulary = vocabulary_of(harness);
    start(harness, &parent);
    advance(harness, &parent, length, CHUNK, NULL);
    CHECK(sequence_commit(&parent, stream, length, -1, &head));
    sequence_done(&parent);
    for (int i = 0; i < 2; i++) {
        CHECK(sequence_init(&branches[i], harness->pool, CONTEXT));
        CHECK(sequence_attach(&branches[i], stream, &head));
    }
    sequence_head_release(&head);
    int is_equal = 1;
    int32_t other = 1;
    for (int at = length; at < length + CONTINUED_TOKENS && at < harness->token_count; at++) {
        struct hybrid_forward_item items[2] = {
            {.sequence = &branches[0], .tokens = &other, .count = 1, .outputs = 1},
            {.sequence = &branches[1], .tokens = &harness->tokens[at], .count = 1, .outputs = 1},
        };
        CHECK(sequence_reserve(&branches[0], 1));
        CHECK(sequence_reserve(&branches[1], 1));
        CHECK(hybrid_forward_enqueue(harness->forward, items, 2));
        CHECK(hybrid_forward_wait(harness->forward));
        is_equal &=
            memcmp(hybrid_forward_logits(harness->forward, 1),
                   harness->expected + (size_t)at * vocabulary, vocabulary * sizeof(float)) == 0;
    }
    expect(harness, is_equal, "a branch beside another of the same head", length);
    sequence_done(&branches[0]);
    sequence_done(&branches[1]);
}

static void run_all(struct harness *harness) {
    struct sequence sequence;
    int block_size = layout_of(harness)->block_size;
    start(harness, &sequence);
    advance(harness, &sequence, harness->token_count, CHUNK, harness->expected);
    sequence_done(&sequence);
    for (int residue = 0; residue < block_size; residue++) {
        int length = block_size + residue < harness->token_count ? block_size + residue : 1;
        run_length(harness, length, residue % 5 == 0);
        run_branches(harness, length);
    }
    run_length(harness, 1, 1);
    for (int first = 0; first < block_size; first += 7) {
        run_marks(harness, first);
    }
}

int main(int argc, char **argv) {
    static const struct option options[] = {{"tokens", required_argument, NULL, 't'},
                                            {"block-size", required_argument, NULL, 'b'},
                                            {NULL, 0, NULL, 0}};
    int tokens = 160, block_size = 32, option;
    int passed = 0, failed = 0;
    while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
        if (option == 't') {
            tokens = atoi(optarg);
        } else if (option == 'b') {
            block_size = atoi(optarg);
        } else {
            return 2;
        }
    }
    if (optind + 1 != argc || tokens < 2 * block_size + CHUNK || tokens > CONTEXT) {
        fprintf(stderr, "state_continuity MODEL [--tokens N] [--block-size N]\n");
        return 2;
    }
    const enum dtype types[] = {DTYPE_F16, DTYPE_BF16, DTYPE_F32};
    for (size_t i = 0; i < ARRAY_LEN(types); i++) {
        struct harness harness;
        harness_init(&harness, argv[optind], tokens, block_size, types[i]);
        run_all(&harness);
        struct pool_usage usage;
        pool_get_usage(harness.pool, &usage);
        expect(&harness, usage.blocks == usage.blocks_free && usage.slots == usage.slots_free,
               "blocks or slots leaked", 0);
        printf("%s KV: %d checks, %d failed\n", dtype_name(types[i]),
               harness.passed + harness.failed, harness.failed);
        passed += harness.passed;
        failed += harness.failed;
        harness_done(&harness);
    }
    printf("%d passed, %d failed\n", passed, failed);
    return failed > 0;
}
