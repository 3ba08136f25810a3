/*
 * Ten thousand damaged GGUFs in one process: each is read or refused with a message, within
 * the memory that gguf.h promises and without a leak; what was read is used to the full.
 */
#include "engine/gguf.h"
#include "tests/gguf/allocation_meter.h"
#include "tests/gguf/gguf_builder.h"
#include "tests/gguf/gguf_mutator.h"
#include "tests/gguf/gguf_walk.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { MUTANTS = 10000, ALLOCATION_SLACK_BYTES = 64 << 10, SEED_FILES = 4 };

/* Takes a file that was read; ERR_OK or a refusal with a message. Must free all it takes. */
struct consumer {
    const char *name;
    enum err (*run)(const struct gguf *file);
};

static enum err consume_walk(const struct gguf *file) {
    (void)gguf_walk(file);
    return ERR_OK;
}

/* What a GGUF is read for comes here: each runs on every mutant that the reader takes. */
static const struct consumer consumers[] = {
    {"walk", consume_walk},
};

struct seed_file {
    uint8_t *data;
    size_t bytes;
    struct gguf_mutator *mutator;
};

struct tally {
    size_t read[GGUF_MUTATION_DAMAGES];
    size_t refused[GGUF_MUTATION_DAMAGES];
    double worst_factor; /* of peak allocation to file size, slack apart */
};

static struct seed_file load_seed(const char *path) {
    struct seed_file seed = {0};
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    assert_int_equal(fseek(file, 0, SEEK_END), 0);
    seed.bytes = (size_t)ftell(file);
    rewind(file);
    seed.data = malloc(seed.bytes);
    assert_non_null(seed.data);
    assert_int_equal(fread(seed.data, 1, seed.bytes, file), seed.bytes);
    fclose(file);
    return seed;
}

static struct seed_file build_seed(void) {
    struct seed_file seed = {0};
    struct gguf_builder builder;
    gguf_builder_init(&builder);
    gguf_builder_sample(&builder);
    seed.data = gguf_builder_file(&builder, &seed.bytes);
    gguf_builder_done(&builder);
    return seed;
}

static void load_seeds(struct seed_file *seeds) {
    seeds[0] = build_seed();
    seeds[1] = load_seed(TERN_TEST_DATA "/gguf/tiny-q8_0.gguf");
    seeds[2] = load_seed(TERN_TEST_DATA "/gguf/vocab-bpe.gguf");
    seeds[3] = load_seed(TERN_TEST_DATA "/gguf/vocab-spm.gguf");
    for (size_t i = 0; i < SEED_FILES; i++) {
        seeds[i].mutator = gguf_mutator_create(seeds[i].data, seeds[i].bytes);
    }
}

static void free_seeds(struct seed_file *seeds) {
    for (size_t i = 0; i < SEED_FILES; i++) {
        gguf_mutator_destroy(seeds[i].mutator);
        free(seeds[i].data);
    }
}

static void consume(const struct gguf *file, const char *label) {
    for (size_t i = 0; i < ARRAY_LEN(consumers); i++) {
        err_clear();
        enum err err = consumers[i].run(file);
        if (err != ERR_OK && err_message()[0] == '\0') {
            fail_msg("%s: %s refuses without a message", label, consumers[i].name);
        }
    }
}

/* Returns whether it was read. */
static int run_mutant(const struct gguf_mutant *mutant, const char *label, struct tally *tally) {
    struct gguf *file = NULL;
    err_clear();
    allocation_meter_start();
    enum err err = gguf_parse(mutant->data, mutant->bytes, &file);
    size_t peak = allocation_meter_peak_bytes();
    if (peak > GGUF_ALLOCATION_FACTOR * mutant->bytes + ALLOCATION_SLACK_BYTES) {
        fail_msg("%s: %zu bytes of %zu allocated", label, peak, mutant->bytes);
    }
    double factor = (double)peak / (double)(mutant->bytes + 1);
    if (peak > ALLOCATION_SLACK_BYTES && factor > tally->worst_factor) {
        tally->worst_factor = factor;
    }
    if (err == ERR_OK) {
        if (mutant->must_fail) {
            fail_msg("%s: was read, expected a refusal", label);
        }
        consume(file, label);
        gguf_close(file);
    } else {
        if (err_message()[0] == '\0' || (err != ERR_FORMAT && err != ERR_UNSUPPORTED)) {
            fail_msg("%s: refused as %s: \"%s\"", label, err_name(err), err_message());
        }
    }
    if (allocation_meter_held_bytes() != 0) {
        fail_msg("%s: %td bytes leaked", label, allocation_meter_held_bytes());
    }
    return err == ERR_OK;
}

static void test_gguf_mutation_seeds_are_valid(void **state) {
    (void)state;
    struct seed_file seeds[SEED_FILES];
    struct tally tally = {0};
    load_seeds(seeds);
    for (size_t i = 0; i < SEED_FILES; i++) {
        struct gguf_mutant whole = {.data = seeds[i].data, .bytes = seeds[i].bytes};
        assert_true(run_mutant(&whole, "seed file", &tally));
    }
    free_seeds(seeds);
}

static void test_gguf_mutation_is_read_or_refused(void **state) {
    (void)state;
    struct seed_file seeds[SEED_FILES];
    struct tally tally = {0};
    load_seeds(seeds);
    for (uint64_t number = 0; number < MUTANTS; number++) {
        const struct seed_file *seed = &seeds[number % SEED_FILES];
        struct gguf_mutant mutant;
        gguf_mutator_make(seed->mutator, number, &mutant);
        char label[64];
        snprintf(label, sizeof label, "mutant %u (%s)", (unsigned)number,
                 gguf_mutator_kind_name(mutant.kind));
        if (run_mutant(&mutant, label, &tally)) {
            tally.read[mutant.kind]++;
        } else {
            tally.refused[mutant.kind]++;
        }
        free(mutant.data);
    }
    free_seeds(seeds);

    size_t read = 0;
    for (int kind = 0; kind < GGUF_MUTATION_DAMAGES; kind++) {
        print_message("%-9s %5zu read, %5zu refused\n",
                      gguf_mutator_kind_name((enum gguf_mutation)kind), tally.read[kind],
                      tally.refused[kind]);
        assert_true(tally.refused[kind] > 0);
        read += tally.read[kind];
    }
    print_message("most memory: %.2f times the file's size\n", tally.worst_factor);
    assert_true(read > MUTANTS / 20); /* or the consumers would see next to nothing */
}

/* The dearest files: the smallest records, as many as fit. */
static void test_gguf_mutation_smallest_records_stay_within_the_bound(void **state) {
    (void)state;
    enum { RECORDS = 60000 };
    for (int is_tensor = 0; is_tensor < 2; is_tensor++) {
        struct gguf_builder builder;
        gguf_builder_init(&builder);
        builder.alignment = 8;
        gguf_builder_u32(&builder, "general.alignment", 8);
        for (unsigned i = 0; i < RECORDS; i++) {
            /* Three bytes that are not NUL: all different. */
            char name[] = {(char)(i % 200 + 1), (char)(i / 200 % 200 + 1),
                           (char)(i / 40000 % 200 + 1), '\0'};
            if (is_tensor) {
                gguf_builder_tensor(
                    &builder,
                    &(struct gguf_builder_tensor){
                        .name = name, .type_number = 24, .dim_count = 1, .dims = {1}, .bytes = 1});
            } else {
                gguf_builder_bool(&builder, name, 1);
            }
        }
        struct gguf_mutant file = {0};
        struct tally tally = {0};
        file.data = gguf_builder_file(&builder, &file.bytes);
        gguf_builder_done(&builder);
        assert_true(run_mutant(&file, is_tensor ? "tensors" : "keys", &tally));
        print_message("%d %s: %.2f times the file's size\n", RECORDS,
                      is_tensor ? "tensors" : "keys", tally.worst_factor);
        assert_true(tally.worst_factor > 1); /* or the meter measures nothing */
        free(file.data);
    }
}

/* Each allocation fails in turn: an error with a message, and nothing kept. */
static void test_gguf_mutation_survives_failed_allocations(void **state) {
    (void)state;
    struct seed_file seed = build_seed();
    struct gguf *file = NULL;
    size_t number = 1;
    for (;; number++) {
        err_clear();
        allocation_meter_start();
        allocation_meter_fail_at(number);
        enum err err = gguf_parse(seed.data, seed.bytes, &file);
        allocation_meter_fail_at(0);
        if (err == ERR_OK) {
            break;
        }
        assert_int_equal(err, ERR_NOMEM);
        assert_null(file);
        assert_non_null(strstr(err_message(), "no memory"));
        assert_int_equal(allocation_meter_held_bytes(), 0);
    }
    assert_int_equal(number,
                     8); /* all seven: reader, keys, index, strings; tensors, index, offsets */
    gguf_close(file);
    assert_int_equal(allocation_meter_held_bytes(), 0);
    free(seed.data);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gguf_mutation_seeds_are_valid),
        cmocka_unit_test(test_gguf_mutation_is_read_or_refused),
        cmocka_unit_test(test_gguf_mutation_smallest_records_stay_within_the_bound),
        cmocka_unit_test(test_gguf_mutation_survives_failed_allocations),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
