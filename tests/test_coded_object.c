#include "store/coded_object.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { RAW_BYTES = 6000 };

struct sample {
    struct codec *codec;
    uint8_t digest[RECORD_DIGEST_BYTES];
    struct object_identity identity;
    uint8_t raw[RAW_BYTES];
    uint8_t *stored;
    size_t coded_bytes;
    size_t stored_bytes;
};

static int setup(void **state) {
    struct sample *sample = calloc(1, sizeof *sample);
    assert_int_equal(codec_create(&sample->codec), ERR_OK);
    memset(sample->digest, 7, sizeof sample->digest);
    sample->identity =
        (struct object_identity){.key = {RECORD_BLOCK, 5, 9}, .state_digest = sample->digest};
    for (size_t i = 0; i < RAW_BYTES; i++) {
        sample->raw[i] = (uint8_t)(i % 2 ? 0x3c : (i * 2654435761u) >> 13);
    }
    sample->stored = malloc(coded_object_bound(RAW_BYTES));
    struct codec_input input = {CODEC_F16, sample->raw, RAW_BYTES};
    assert_int_equal(coded_object_encode(sample->codec, &sample->identity, &input, sample->stored,
                                         &sample->coded_bytes),
                     ERR_OK);
    sample->stored_bytes = coded_object_extent(sample->coded_bytes).stored_bytes;
    *state = sample;
    return 0;
}

static int teardown(void **state) {
    struct sample *sample = *state;
    codec_destroy(sample->codec);
    free(sample->stored);
    free(sample);
    return 0;
}

static enum object_verdict decode(struct sample *sample, const struct object_identity *identity,
                                  size_t stored_bytes) {
    /* A block of its own, so that a sanitizer sees a read behind it. */
    uint8_t *copy = malloc(stored_bytes + (stored_bytes == 0));
    memcpy(copy, sample->stored, stored_bytes);
    uint8_t back[RAW_BYTES];
    struct codec_output output = {CODEC_F16, back, RAW_BYTES};
    enum object_verdict verdict =
        coded_object_decode(sample->codec, identity, copy, stored_bytes, &output);
    if (verdict == OBJECT_SOUND) {
        assert_memory_equal(back, sample->raw, RAW_BYTES);
    }
    free(copy);
    return verdict;
}

static void test_coded_object_gives_back_what_went_in(void **state) {
    struct sample *sample = *state;
    assert_int_equal(decode(sample, &sample->identity, sample->stored_bytes), OBJECT_SOUND);
    struct object_info info;
    assert_int_equal(coded_object_inspect(sample->stored, sample->stored_bytes, &info),
                     OBJECT_SOUND);
    assert_int_equal(info.raw_bytes, RAW_BYTES);
    assert_int_equal(info.coded_bytes, sample->coded_bytes);
    assert_int_equal(info.element, CODEC_F16);
}

static void test_coded_object_rejects_every_flipped_bit(void **state) {
    struct sample *sample = *state;
    for (size_t at = 0; at < sample->stored_bytes; at++) {
        for (int bit = 0; bit < 8; bit++) {
            sample->stored[at] ^= (uint8_t)(1 << bit);
            assert_int_not_equal(decode(sample, &sample->identity, sample->stored_bytes),
                                 OBJECT_SOUND);
            sample->stored[at] ^= (uint8_t)(1 << bit);
        }
    }
}

static void test_coded_object_rejects_every_truncation(void **state) {
    struct sample *sample = *state;
    for (size_t len = 0; len < sample->stored_bytes; len++) {
        assert_int_not_equal(decode(sample, &sample->identity, len), OBJECT_SOUND);
    }
}

static void test_coded_object_rejects_another_place(void **state) {
    struct sample *sample = *state;
    struct object_identity other = sample->identity;
    other.key.index++;
    assert_int_equal(decode(sample, &other, sample->stored_bytes), OBJECT_WRONG_IDENTITY);
    other = sample->identity;
    other.key.lineage++;
    assert_int_equal(decode(sample, &other, sample->stored_bytes), OBJECT_WRONG_IDENTITY);
    other = sample->identity;
    other.key.part = RECORD_TAIL;
    assert_int_equal(decode(sample, &other, sample->stored_bytes), OBJECT_WRONG_IDENTITY);
    uint8_t digest[RECORD_DIGEST_BYTES];
    memcpy(digest, sample->digest, sizeof digest);
    digest[31] ^= 1;
    other = (struct object_identity){.key = sample->identity.key, .state_digest = digest};
    assert_int_equal(decode(sample, &other, sample->stored_bytes), OBJECT_WRONG_IDENTITY);
}

static void test_coded_object_names_the_reason(void **state) {
    struct sample *sample = *state;
    uint8_t back[RAW_BYTES];
    struct codec_output other_size = {CODEC_F16, back, RAW_BYTES - 2};
    assert_int_equal(coded_object_decode(sample->codec, &sample->identity, sample->stored,
                                         sample->stored_bytes, &other_size),
                     OBJECT_WRONG_SIZE);
    struct codec_output other_type = {CODEC_BF16, back, RAW_BYTES};
    assert_int_equal(coded_object_decode(sample->codec, &sample->identity, sample->stored,
                                         sample->stored_bytes, &other_type),
                     OBJECT_WRONG_SIZE);
    sample->stored[0] ^= 1;
    assert_int_equal(decode(sample, &sample->identity, sample->stored_bytes), OBJECT_NO_MAGIC);
    sample->stored[0] ^= 1;
    sample->stored[4] = 2;
    assert_int_equal(decode(sample, &sample->identity, sample->stored_bytes), OBJECT_NEWER);
    sample->stored[4] = 1;
    sample->stored[6] = 9;
    assert_int_equal(decode(sample, &sample->identity, sample->stored_bytes), OBJECT_HEADER_BAD);
    sample->stored[6] = 1;
    sample->stored[100] ^= 1;
    assert_int_equal(decode(sample, &sample->identity, sample->stored_bytes), OBJECT_DAMAGED);
    sample->stored[100] ^= 1;
    sample->stored[sample->stored_bytes - 1] = 1;
    assert_int_equal(decode(sample, &sample->identity, sample->stored_bytes), OBJECT_PADDING_BAD);
    sample->stored[sample->stored_bytes - 1] = 0;
    sample->stored[18] = 0xff;
    assert_int_equal(decode(sample, &sample->identity, sample->stored_bytes), OBJECT_TRUNCATED);
}

/* Runs are of three sizes, hold all bytes, and lose less than a page and the headers. */
static void test_coded_object_runs_fill_whole_pages(void **state) {
    (void)state;
    for (size_t coded = 1; coded < 5 * OBJECT_RUN_LARGE_BYTES;
         coded += coded < 200000 ? 97 : 4093) {
        struct object_extent extent = coded_object_extent(coded);
        size_t done = 0;
        size_t pages = 0;
        size_t runs = 0;
        size_t before = SIZE_MAX;
        while (done < extent.stored_bytes) {
            size_t run = coded_object_run_bytes(extent.stored_bytes - done);
            assert_true(run == OBJECT_RUN_LARGE_BYTES || run == OBJECT_RUN_MEDIUM_BYTES ||
                        run == OBJECT_RUN_SMALL_BYTES);
            assert_true(run <= before);
            before = run;
            done += run;
            pages += (run + 16) / 4096;
            runs++;
        }
        assert_int_equal(done, extent.stored_bytes);
        assert_int_equal(pages, extent.pages);
        assert_int_equal(runs, extent.runs);
        assert_true(extent.stored_bytes >= coded);
        assert_true(extent.pages * 4096 < coded + 4096 + 16 * (runs + 6));
    }
}

#define OBJECT_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void) {
    const struct CMUnitTest tests[] = {
        OBJECT_TEST(test_coded_object_gives_back_what_went_in),
        OBJECT_TEST(test_coded_object_rejects_every_flipped_bit),
        OBJECT_TEST(test_coded_object_rejects_every_truncation),
        OBJECT_TEST(test_coded_object_rejects_another_place),
        OBJECT_TEST(test_coded_object_names_the_reason),
        cmocka_unit_test(test_coded_object_runs_fill_whole_pages),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
