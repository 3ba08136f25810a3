/*
 * Ten thousand damaged and edited models in one process: each that the reader takes goes through
 * its shape, its layout, its tokenizer and onto a device, and what loads runs a few tokens. Each
 * is refused with a message or taken, within the memory that gguf.h and model.h promise.
 */
#include "engine/hybrid_forward.h"
#include "engine/model.h"
#include "engine/tokenizer.h"
#include "tests/gguf/allocation_meter.h"
#include "tests/gguf/gguf_mutator.h"
#include "tests/gguf/model_image.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { MUTANTS = 10000, SLACK_BYTES = 64 << 10, RUN_EVERY = 4, SEED_FILES = 4 };

struct seed_file {
    uint8_t *data;
    size_t bytes;
    struct gguf_mutator *mutator;
};

struct tally {
    size_t loaded[GGUF_MUTATION_KINDS];
    size_t refused[GGUF_MUTATION_KINDS];
    size_t run;
    double worst_heap;
    double worst_device;
};

/* --- seeds ---------------------------------------------------------------------------- */

static void make_seeds(struct seed_file *seeds) {
    struct model_image images[SEED_FILES];
    for (size_t i = 0; i < SEED_FILES; i++) {
        images[i] = model_image_default();
    }
    images[1].type = DTYPE_Q8_0;
    images[1].has_output = 1;
    images[1].rope_dimensions = 8;
    images[2].type = DTYPE_BF16;
    images[2].has_biases = 1;
    images[2].head_size = 12;
    images[2].rope_dimensions = 4; /* partial: rows are reordered at load */
    images[3].layers = "A";
    images[3].has_no_tokenizer = 1;
    for (size_t i = 0; i < SEED_FILES; i++) {
        seeds[i].data = model_image_file(&images[i], &seeds[i].bytes);
        seeds[i].mutator = gguf_mutator_create(seeds[i].data, seeds[i].bytes);
    }
}

static void free_seeds(struct seed_file *seeds) {
    for (size_t i = 0; i < SEED_FILES; i++) {
        gguf_mutator_destroy(seeds[i].mutator);
        free(seeds[i].data);
    }
}

/* --- what is done with a model -------------------------------------------------------- */

/* Three tokens in one step. The weights may hold anything, NaN too: any logits are right. */
static enum err run_model(const struct model *model) {
    struct pool *pool = NULL;
    struct hybrid_forward *forward = NULL;
    struct sequence sequence = {.slot = -1};
    const int32_t tokens[] = {0, model->shape.vocabulary - 1, 0};
    enum err code = pool_create(
        &(struct pool_config){
            .device = model->device, .layout = &model->layout, .blocks = 1, .slots = 1},
        &pool);
    if (code == ERR_OK) {
        code = hybrid_forward_create(&(struct hybrid_forward_config){.model = model,
                                                                     .pool = pool,
                                                                     .rows_max = 3,
                                                                     .sequences_max = 1,
                                                                     .outputs_max = 1,
                                                                     .context_max = 8},
                                     &forward);
    }
    if (code == ERR_OK) {
        assert_int_equal(sequence_init(&sequence, pool, 8), ERR_OK);
        assert_int_equal(sequence_start(&sequence, hybrid_forward_stream(forward)), ERR_OK);
        assert_int_equal(sequence_reserve(&sequence, 3), ERR_OK);
        code = hybrid_forward_enqueue(
            forward,
            &(struct hybrid_forward_item){
                .sequence = &sequence, .tokens = tokens, .count = 3, .outputs = 1},
            1);
        if (code == ERR_OK) {
            code = hybrid_forward_wait(forward);
        }
    }
    sequence_done(&sequence);
    hybrid_forward_destroy(forward);
    pool_destroy(pool);
    return code;
}

static void expect_message(enum err code, const char *label, const char *what) {
    if (code != ERR_OK && err_message()[0] == '\0') {
        fail_msg("%s: %s refuses without a message", label, what);
    }
    if (code == ERR_NOMEM || code == ERR_FULL) {
        fail_msg("%s: %s runs out of memory: %s", label, what, err_message());
    }
}

static void check_shape(const struct gguf *file, const char *label) {
    struct model_shape shape;
    struct layout layout;
    err_clear();
    enum err code = model_shape_read(file, &shape);
    expect_message(code, label, "shape");
    if (code != ERR_OK) {
        return;
    }
    code = model_shape_layout(&shape, 8, DTYPE_BF16, &layout);
    expect_message(code, label, "layout");
    if (code == ERR_OK) {
        layout_done(&layout);
    }
    model_shape_done(&shape);
}

static void check_tokenizer(const struct gguf *file, const char *label) {
    struct tokenizer *tokenizer = NULL;
    err_clear();
    expect_message(tokenizer_create(file, &tokenizer), label, "tokenizer");
    tokenizer_destroy(tokenizer);
}

static double factor_of(size_t bytes, size_t file_bytes) {
    return (double)bytes / (double)(file_bytes + 1);
}

/* Returns whether it loaded; runs it if IS_RUN. */
static int check_load(struct device *device, const struct gguf *file, size_t bytes,
                      const char *label, int is_run, struct tally *tally) {
    struct model *model = NULL;
    struct device_info before, after;
    device_get_info(device, &before);
    err_clear();
    allocation_meter_start();
    enum err code = model_load(
        file, &(struct model_config){.device = device, .block_size = 8, .kv_type = DTYPE_F16},
        &model);
    size_t heap = allocation_meter_peak_bytes();
    expect_message(code, label, "loading");
    device_get_info(device, &after);
    size_t taken = after.memory_used_bytes - before.memory_used_bytes;
    if (heap > MODEL_ALLOCATION_FACTOR * bytes + SLACK_BYTES ||
        taken > MODEL_DEVICE_FACTOR * bytes) {
        fail_msg("%s: loading %zu bytes took %zu, and %zu on the device", label, bytes, heap,
                 taken);
    }
    if (heap > SLACK_BYTES && factor_of(heap, bytes) > tally->worst_heap) {
        tally->worst_heap = factor_of(heap, bytes);
    }
    if (factor_of(taken, bytes) > tally->worst_device) {
        tally->worst_device = factor_of(taken, bytes);
    }
    if (code != ERR_OK) {
        assert_int_equal(taken, 0);
        return 0;
    }
    if (is_run) {
        err_clear();
        expect_message(run_model(model), label, "running");
        tally->run++;
    }
    model_destroy(model);
    device_get_info(device, &after);
    if (!is_run) { /* a run leaves the device with scratch memory */
        assert_int_equal(after.memory_used_bytes, before.memory_used_bytes);
    }
    return 1;
}

static void expect_no_leak(const char *label) {
    if (allocation_meter_held_bytes() != 0) {
        fail_msg("%s: %td bytes leaked", label, allocation_meter_held_bytes());
    }
}

/* Returns whether it loaded. */
static int run_mutant(struct device *device, const struct gguf_mutant *mutant, const char *label,
                      int is_run, struct tally *tally) {
    struct gguf *file = NULL;
    err_clear();
    enum err code = gguf_parse(mutant->data, mutant->bytes, &file);
    expect_message(code, label, "reading");
    if (code != ERR_OK) {
        return 0;
    }
    allocation_meter_start();
    check_shape(file, label);
    check_tokenizer(file, label);
    expect_no_leak(label);
    int is_loaded = check_load(device, file, mutant->bytes, label, is_run, tally);
    expect_no_leak(label);
    gguf_close(file);
    return is_loaded;
}

/* MUTANTS of the environment, for builds in which a load takes long. */
static uint64_t mutant_count(void) {
    const char *text = getenv("MUTANTS");
    return text == NULL ? MUTANTS : strtoull(text, NULL, 10);
}

/* --- the tests ------------------------------------------------------------------------ */

/* The cap is met by what a load may take at once, so that no load takes more and gives it back. */
static struct device *open_device(const struct seed_file *seeds) {
    struct device *device = NULL;
    size_t largest = 0;
    for (size_t i = 0; i < SEED_FILES; i++) {
        largest = seeds[i].bytes > largest ? seeds[i].bytes : largest;
    }
    assert_int_equal(
        device_open(&(struct device_config){.threads = 1,
                                            .memory_max_bytes = MODEL_DEVICE_FACTOR * largest},
                    &device),
        ERR_OK);
    return device;
}

static void test_model_mutation_seeds_load_and_run(void **state) {
    (void)state;
    struct seed_file seeds[SEED_FILES];
    struct tally tally = {0};
    make_seeds(seeds);
    struct device *device = open_device(seeds);
    for (size_t i = 0; i < SEED_FILES; i++) {
        struct gguf_mutant whole = {.data = seeds[i].data, .bytes = seeds[i].bytes};
        assert_true(run_mutant(device, &whole, "seed file", 1, &tally));
    }
    assert_int_equal(tally.run, SEED_FILES);
    device_close(device);
    free_seeds(seeds);
}

static void print_tally(const struct tally *tally, uint64_t count) {
    size_t loaded = 0;
    for (int kind = 0; kind < GGUF_MUTATION_KINDS; kind++) {
        print_message("%-9s %5zu loaded, %5zu refused\n",
                      gguf_mutator_kind_name((enum gguf_mutation)kind), tally->loaded[kind],
                      tally->refused[kind]);
        /* Any bytes in the weights are a model; every other kind of edit is refused somewhere. */
        assert_true(tally->refused[kind] > 0 || kind == GGUF_MUTATION_DATA);
        loaded += tally->loaded[kind];
    }
    print_message("%zu were run; most memory: %.2f times the file's size, %.2f on the device\n",
                  tally->run, tally->worst_heap, tally->worst_device);
    assert_true(loaded > count / 20);
    assert_true(tally->worst_device > 1); /* or nothing is measured */
}

static void test_model_mutation_is_loaded_or_refused(void **state) {
    (void)state;
    struct seed_file seeds[SEED_FILES];
    struct tally tally = {0};
    make_seeds(seeds);
    struct device *device = open_device(seeds);
    const uint64_t count = mutant_count();
    for (uint64_t number = 0; number < count; number++) {
        struct gguf_mutant mutant;
        gguf_mutator_edit(seeds[number % SEED_FILES].mutator, number, &mutant);
        char label[64];
        snprintf(label, sizeof label, "mutant %u (%s)", (unsigned)number,
                 gguf_mutator_kind_name(mutant.kind));
        int is_run = number / SEED_FILES % RUN_EVERY == 0;
        if (run_mutant(device, &mutant, label, is_run, &tally)) {
            tally.loaded[mutant.kind]++;
        } else {
            tally.refused[mutant.kind]++;
        }
        free(mutant.data);
    }
    device_close(device);
    free_seeds(seeds);
    print_tally(&tally, count);
}

/* The dearest files: matrices of a few values, each in a page of its own. */
static void test_model_mutation_smallest_matrices_stay_within_the_bound(void **state) {
    (void)state;
    struct seed_file seeds[SEED_FILES] = {0};
    struct tally tally = {0};
    struct gguf_mutant file = {0};
    struct model_image image = model_image_default();
    image.layers = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    image.hidden = 2;
    image.heads = 1;
    image.kv_heads = 1;
    image.feed_forward = 1;
    image.has_no_tokenizer = 1;
    file.data = model_image_file(&image, &file.bytes);
    seeds[0].bytes = file.bytes;
    struct device *device = open_device(seeds);
    assert_true(run_mutant(device, &file, "tiny matrices", 0, &tally));
    print_message("tiny matrices: %.2f times the file's size, %.2f on the device\n",
                  tally.worst_heap, tally.worst_device);
    assert_true(tally.worst_device > 20);
    device_close(device);
    free(file.data);
}

static void add_huge_heads(struct gguf_builder *builder) {
    gguf_builder_u32(builder, "granitehybrid.attention.key_length", 1 << 22);
}

/* A key that says how large a head is takes no memory until the head's tensors have shown it. */
static void test_model_mutation_believes_no_size_before_its_tensors(void **state) {
    (void)state;
    struct seed_file seeds[SEED_FILES] = {0};
    struct tally tally = {0};
    struct gguf_mutant file = {0};
    struct model_image image = model_image_default();
    image.rope_dimensions = 8;
    image.without = "granitehybrid.rope.dimension_count"; /* the whole head */
    image.add = add_huge_heads;
    file.data = model_image_file(&image, &file.bytes);
    seeds[0].bytes = file.bytes;
    struct device *device = open_device(seeds);
    assert_false(run_mutant(device, &file, "huge heads", 0, &tally));
    assert_non_null(strstr(err_message(), "blk.1.attn_q.weight"));
    device_close(device);
    free(file.data);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_model_mutation_seeds_load_and_run),
        cmocka_unit_test(test_model_mutation_is_loaded_or_refused),
        cmocka_unit_test(test_model_mutation_smallest_matrices_stay_within_the_bound),
        cmocka_unit_test(test_model_mutation_believes_no_size_before_its_tensors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
