/* What the GGUF reader turns down; messages name the key or tensor and what was expected. */
#include "engine/gguf.h"
#include "tests/gguf/gguf_builder.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void assert_message(const char *part) {
    if (strstr(err_message(), part) == NULL) {
        fail_msg("message \"%s\" lacks \"%s\"", err_message(), part);
    }
}

/* Parses and frees; asserts that it fails with CODE and a message with both parts. */
static void assert_bytes_refused(uint8_t *data, size_t bytes, enum err code, const char *culprit,
                                 const char *expected) {
    struct gguf *file = NULL;
    err_clear();
    enum err err = gguf_parse(data, bytes, &file);
    free(data);
    assert_null(file);
    assert_string_equal(err_name(err), err_name(code));
    assert_message(culprit);
    assert_message(expected);
}

static void assert_refused(struct gguf_builder *builder, enum err code, const char *culprit,
                           const char *expected) {
    size_t bytes;
    uint8_t *data = gguf_builder_file(builder, &bytes);
    gguf_builder_done(builder);
    assert_bytes_refused(data, bytes, code, culprit, expected);
}

static struct gguf_builder empty_builder(void) {
    struct gguf_builder builder;
    gguf_builder_init(&builder);
    return builder;
}

/* ---- refusals: header ---- */

static void test_gguf_refusal_of_other_magic(void **state) {
    (void)state;
    struct gguf_builder builder = empty_builder();
    size_t bytes;
    uint8_t *data = gguf_builder_file(&builder, &bytes);
    data[3] = 'X';
    gguf_builder_done(&builder);
    assert_bytes_refused(data, bytes, ERR_FORMAT, "47 47 55 58", "expected \"GGUF\"");
}

static void test_gguf_refusal_of_other_versions(void **state) {
    (void)state;
    static const uint32_t versions[] = {0, 1, 2, 4, UINT32_MAX};
    for (size_t i = 0; i < ARRAY_LEN(versions); i++) {
        struct gguf_builder builder = empty_builder();
        builder.version = versions[i];
        char culprit[32];
        snprintf(culprit, sizeof culprit, "version %u", versions[i]);
        assert_refused(&builder, ERR_UNSUPPORTED, culprit, "expected 3");
    }
}

static void test_gguf_refusal_of_big_endian(void **state) {
    (void)state;
    struct gguf_builder builder = empty_builder();
    builder.version = 0x03000000;
    assert_refused(&builder, ERR_UNSUPPORTED, "big-endian", "expected little-endian");
}

static void test_gguf_refusal_of_short_headers(void **state) {
    (void)state;
    struct gguf_builder builder = empty_builder();
    for (size_t cut = 0; cut < 24; cut++) {
        size_t bytes;
        uint8_t *data = gguf_builder_file(&builder, &bytes);
        assert_int_equal(bytes, 24);
        uint8_t *exact = malloc(cut + 1);
        memcpy(exact, data, cut);
        free(data);
        assert_bytes_refused(exact, cut, ERR_FORMAT, "GGUF header", "takes 24 bytes");
    }
    gguf_builder_done(&builder);
}

static void test_gguf_refusal_of_claimed_counts(void **state) {
    (void)state;
    static const uint64_t counts[] = {1000, 1ULL << 32, 1ULL << 60, UINT64_MAX};
    for (size_t i = 0; i < ARRAY_LEN(counts); i++) {
        struct gguf_builder builder = empty_builder();
        gguf_builder_u32(&builder, "a", 1);
        builder.key_count = counts[i];
        assert_refused(&builder, ERR_FORMAT, "keys claimed", "expected at most");
        builder = empty_builder();
        gguf_builder_u32(&builder, "a", 1);
        builder.tensor_count = counts[i];
        assert_refused(&builder, ERR_FORMAT, "tensors claimed", "expected at most");
    }
}

/* ---- refusals: keys ---- */

static void test_gguf_refusal_of_bad_key_names(void **state) {
    (void)state;
    struct gguf_builder builder = empty_builder();
    gguf_builder_u32(&builder, "first", 1);
    gguf_builder_key(&builder, "a\0b", 3, GGUF_TYPE_U32);
    gguf_builder_u32(&builder, "filler", 1);
    assert_refused(&builder, ERR_FORMAT, "key 1", "'a?b' holds a NUL");

    builder = empty_builder();
    gguf_builder_u32(&builder, "", 1);
    gguf_builder_u32(&builder, "filler", 1);
    assert_refused(&builder, ERR_FORMAT, "key 0", "expected 1 to 65535");

    char *name = calloc(1, 65536);
    memset(name, 'k', 65536);
    builder = empty_builder();
    gguf_builder_key(&builder, name, 65536, GGUF_TYPE_U32);
    gguf_builder_u32(&builder, "filler", 1);
    free(name);
    assert_refused(&builder, ERR_FORMAT, "key 0", "65536 bytes, expected 1 to 65535");
}

static void test_gguf_refusal_of_a_key_twice(void **state) {
    (void)state;
    struct gguf_builder builder = empty_builder();
    gguf_builder_u32(&builder, "b.two", 1);
    gguf_builder_u32(&builder, "a.one", 1);
    gguf_builder_bool(&builder, "b.two", 1);
    assert_refused(&builder, ERR_FORMAT, "key 'b.two'", "expected once");
}

static void test_gguf_refusal_of_unknown_value_types(void **state) {
    (void)state;
    struct gguf_builder builder = empty_builder();
    gguf_builder_value(&builder, "odd.type", 13, "12345678", 8);
    assert_refused(&builder, ERR_FORMAT, "key 'odd.type'", "value type 13, expected 0 to 12");
    builder = empty_builder();
    gguf_builder_array(&builder, "odd.array", 99, 1, "12345678", 8);
    assert_refused(&builder, ERR_FORMAT, "key 'odd.array'", "value type 99, expected 0 to 12");
}

static void test_gguf_refusal_of_nested_arrays(void **state) {
    (void)state;
    struct gguf_builder builder = empty_builder();
    gguf_builder_array(&builder, "nested", GGUF_TYPE_ARRAY, 1, "0123456789abcdef", 16);
    assert_refused(&builder, ERR_UNSUPPORTED, "key 'nested'", "array of arrays");
}

static void test_gguf_refusal_of_bools_that_are_none(void **state) {
    (void)state;
    struct gguf_builder builder = empty_builder();
    gguf_builder_bool(&builder, "odd.bool", 2);
    assert_refused(&builder, ERR_FORMAT, "key 'odd.bool'", "is 2, expected 0 or 1");
    builder = empty_builder();
    gguf_builder_array(&builder, "odd.bools", GGUF_TYPE_BOOL, 3, "\0\1\377", 3);
    assert_refused(&builder, ERR_FORMAT, "key 'odd.bools'", "bool 2 is 255, expected 0 or 1");
}

static void test_gguf_refusal_of_claimed_array_counts(void **state) {
    (void)state;
    static const uint64_t counts[] = {3, 1ULL << 32, 1ULL << 60, 1ULL << 61, UINT64_MAX};
    static const uint32_t types[] = {GGUF_TYPE_U64, GGUF_TYPE_F64, GGUF_TYPE_STRING};
    for (size_t i = 0; i < ARRAY_LEN(counts); i++) {
        for (size_t t = 0; t < ARRAY_LEN(types); t++) {
            struct gguf_builder builder = empty_builder();
            static const uint8_t zeros[16];
            gguf_builder_array(&builder, "claims", types[t], counts[i], zeros, sizeof zeros);
            assert_refused(&builder, ERR_FORMAT, "key 'claims'", "expected at most the 2 that fit");
        }
    }
}

static void test_gguf_refusal_of_strings_past_the_end(void **state) {
    (void)state;
    struct gguf_builder builder = empty_builder();
    gguf_builder_value(&builder, "long", GGUF_TYPE_STRING, &(uint64_t){UINT64_MAX}, 8);
    assert_refused(&builder, ERR_FORMAT, "key 'long'", "takes 18446744073709551615 bytes");

    builder = empty_builder();
    uint64_t elements[] = {0, 0, 9, 0};
    gguf_builder_array(&builder, "words", GGUF_TYPE_STRING, 3, elements, sizeof elements);
    assert_refused(&builder, ERR_FORMAT, "key 'words': string 2 of 3", "takes 9 bytes");

    builder = empty_builder();
    gguf_builder_key(&builder, "name", 4, GGUF_TYPE_U8);
    gguf_builder_u32(&builder, "filler", 1);
    memcpy(builder.keys.data, &(uint64_t){1ULL << 63}, 8);
    assert_refused(&builder, ERR_FORMAT, "key 0: the name", "takes 9223372036854775808 bytes");
}

/* Wherever keys and tensor records are cut, the reader stops with a message. */
static void test_gguf_refusal_of_every_cut_of_the_header(void **state) {
    (void)state;
    struct gguf_builder builder = empty_builder();
    gguf_builder_sample(&builder);
    size_t header = 24 + builder.keys.len + builder.tensors.len;
    size_t bytes;
    uint8_t *data = gguf_builder_file(&builder, &bytes);
    for (size_t cut = 0; cut < header; cut++) {
        uint8_t *exact = malloc(cut + 1);
        memcpy(exact, data, cut);
        assert_bytes_refused(exact, cut, ERR_FORMAT, "expected", "");
    }
    free(data);
    gguf_builder_done(&builder);
}

/* ---- refusals: tensors ---- */

static void assert_alignment_refused(uint32_t type, const void *value, size_t bytes,
                                     const char *expected) {
    struct gguf_builder builder = empty_builder();
    gguf_builder_value(&builder, "general.alignment", type, value, bytes);
    assert_refused(&builder, ERR_FORMAT, "key 'general.alignment'", expected);
}

static void test_gguf_refusal_of_odd_alignments(void **state) {
    (void)state;
    static const uint32_t alignments[] = {0, 1, 4, 12, 33, 1U << 22, UINT32_MAX};
    for (size_t i = 0; i < ARRAY_LEN(alignments); i++) {
        assert_alignment_refused(GGUF_TYPE_U32, &alignments[i], 4,
                                 "expected a power of two from 8 to 2097152");
    }
    assert_alignment_refused(GGUF_TYPE_F32, &(float){32}, 4, "expected an integer");
}

static void assert_tensor_refused(const struct gguf_builder_tensor *tensor, const char *culprit,
                                  const char *expected) {
    struct gguf_builder builder = empty_builder();
    gguf_builder_tensor(&builder, tensor);
    assert_refused(&builder, ERR_FORMAT, culprit, expected);
}

static void test_gguf_refusal_of_bad_tensor_names(void **state) {
    (void)state;
    struct gguf_builder_tensor tensor = {
        .name = "a\0b", .name_len = 3, .dim_count = 1, .dims = {4}, .bytes = 16};
    assert_tensor_refused(&tensor, "tensor 0", "'a?b' holds a NUL");
    tensor.name = "";
    tensor.name_len = 0;
    assert_tensor_refused(&tensor, "tensor 0", "0 bytes, expected 1 to 64");
    char name[66] = "";
    memset(name, 't', 65);
    tensor.name = name;
    assert_tensor_refused(&tensor, "tensor 0", "65 bytes, expected 1 to 64");
}

static void test_gguf_refusal_of_a_tensor_twice(void **state) {
    (void)state;
    struct gguf_builder builder = empty_builder();
    struct gguf_builder_tensor tensor = {.name = "w", .dim_count = 1, .dims = {4}, .bytes = 16};
    gguf_builder_tensor(&builder, &tensor);
    tensor.name = "v";
    gguf_builder_tensor(&builder, &tensor);
    tensor.name = "w";
    gguf_builder_tensor(&builder, &tensor);
    assert_refused(&builder, ERR_FORMAT, "tensor 'w'", "expected once");
}

static void test_gguf_refusal_of_odd_dimensions(void **state) {
    (void)state;
    struct gguf_builder_tensor tensor = {.name = "w", .dim_count = 0, .bytes = 64};
    assert_tensor_refused(&tensor, "tensor 'w'", "0 dimensions, expected 1 to 4");
    tensor = (struct gguf_builder_tensor){
        .name = "w", .dim_count = 5, .dims = {1, 1, 1, 1, 1}, .bytes = 4};
    assert_tensor_refused(&tensor, "tensor 'w'", "5 dimensions, expected 1 to 4");
    tensor = (struct gguf_builder_tensor){.name = "w", .dim_count = 2, .dims = {4, 0}, .bytes = 16};
    assert_tensor_refused(&tensor, "tensor 'w'", "dimension 1 is 0");
    tensor.dims[0] = tensor.dims[1] = 1ULL << 32;
    assert_tensor_refused(&tensor, "tensor 'w'", "dimension 1 of 4294967296");
    tensor.dims[0] = 1ULL << 63;
    tensor.dims[1] = 1;
    assert_tensor_refused(&tensor, "tensor 'w'", "dimension 0 of 9223372036854775808");
    tensor.dims[0] = 1ULL << 62;
    assert_tensor_refused(&tensor, "tensor 'w'", "more bytes than 64 bits count");
}

static void test_gguf_refusal_of_rows_of_broken_blocks(void **state) {
    (void)state;
    struct gguf_builder_tensor tensor = {
        .name = "w", .type_number = 8, .dim_count = 2, .dims = {16, 2}, .bytes = 34};
    assert_tensor_refused(&tensor, "tensor 'w'", "rows of 16 values of type Q8_0");
    tensor.type_number = 12;
    tensor.dims[0] = 128;
    assert_tensor_refused(&tensor, "tensor 'w'", "expected a multiple of 256");
}

static void test_gguf_refusal_of_data_out_of_the_file(void **state) {
    (void)state;
    struct gguf_builder_tensor tensor = {
        .name = "w", .dim_count = 1, .dims = {8}, .bytes = 32, .has_offset = 1, .offset = 32};
    assert_tensor_refused(&tensor, "tensor 'w'", "32 bytes of data at offset 32");
    tensor.offset = UINT64_MAX - 31;
    assert_tensor_refused(&tensor, "tensor 'w'", "at offset 18446744073709551584");
    tensor.offset = 0;
    tensor.dims[0] = 9;
    assert_tensor_refused(&tensor, "tensor 'w'", "36 bytes of data at offset 0");
    tensor.type_number = 12; /* cannot be run, but its size is known */
    tensor.dims[0] = 256;
    assert_tensor_refused(&tensor, "tensor 'w'", "144 bytes of data at offset 0");
    tensor.type_number = 99; /* not even the size is known */
    tensor.offset = 64;
    assert_tensor_refused(&tensor, "tensor 'w'", "at offset 64");
    tensor.has_offset = 0;
    tensor.bytes = 0;
    assert_tensor_refused(&tensor, "tensor 'w'", "data section of 0 bytes");
}

static void test_gguf_refusal_of_offsets_off_the_alignment(void **state) {
    (void)state;
    struct gguf_builder_tensor tensor = {
        .name = "w", .dim_count = 1, .dims = {1}, .bytes = 64, .has_offset = 1, .offset = 16};
    assert_tensor_refused(&tensor, "tensor 'w'", "offset 16, expected a multiple of 32");
}

static void test_gguf_refusal_of_overlapping_data(void **state) {
    (void)state;
    for (int is_unknown = 0; is_unknown < 2; is_unknown++) {
        struct gguf_builder builder = empty_builder();
        struct gguf_builder_tensor tensor = {.name = "high",
                                             .dim_count = 1,
                                             .dims = {8},
                                             .bytes = 96,
                                             .has_offset = 1,
                                             .offset = 32};
        gguf_builder_tensor(&builder, &tensor);
        tensor = (struct gguf_builder_tensor){
            .name = "low", .dim_count = 1, .dims = {9}, .bytes = 0, .has_offset = 1};
        gguf_builder_tensor(&builder, &tensor);
        if (is_unknown) { /* the size of type 99 is not known, but its first byte is its own */
            builder.tensors.data[8 + 4 + 4 + 8] = 99;
        }
        assert_refused(&builder, ERR_FORMAT, "tensor 'high': data at offset 32",
                       "within that of tensor 'low'");
    }
}

/* The size of type 99 is not known, but its first byte is its own. */
static void test_gguf_refusal_of_data_at_one_place(void **state) {
    (void)state;
    struct gguf_builder builder = empty_builder();
    struct gguf_builder_tensor tensor = {
        .name = "one", .type_number = 99, .dim_count = 1, .dims = {8}, .bytes = 64};
    gguf_builder_tensor(&builder, &tensor);
    tensor.name = "other";
    tensor.bytes = 0;
    tensor.has_offset = 1;
    gguf_builder_tensor(&builder, &tensor);
    assert_refused(&builder, ERR_FORMAT, "data at offset 0 lies within", "expected it apart");
}

static void test_gguf_refusal_of_cut_data(void **state) {
    (void)state;
    struct gguf_builder builder = empty_builder();
    gguf_builder_sample(&builder);
    size_t bytes;
    uint8_t *data = gguf_builder_file(&builder, &bytes);
    gguf_builder_done(&builder);
    uint8_t *exact = malloc(bytes - 1);
    memcpy(exact, data, bytes - 1);
    free(data);
    assert_bytes_refused(exact, bytes - 1, ERR_FORMAT, "tensor 'blk.0.q4_k'",
                         "is the file cut short?");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gguf_refusal_of_other_magic),
        cmocka_unit_test(test_gguf_refusal_of_other_versions),
        cmocka_unit_test(test_gguf_refusal_of_big_endian),
        cmocka_unit_test(test_gguf_refusal_of_short_headers),
        cmocka_unit_test(test_gguf_refusal_of_claimed_counts),
        cmocka_unit_test(test_gguf_refusal_of_bad_key_names),
        cmocka_unit_test(test_gguf_refusal_of_a_key_twice),
        cmocka_unit_test(test_gguf_refusal_of_unknown_value_types),
        cmocka_unit_test(test_gguf_refusal_of_nested_arrays),
        cmocka_unit_test(test_gguf_refusal_of_bools_that_are_none),
        cmocka_unit_test(test_gguf_refusal_of_claimed_array_counts),
        cmocka_unit_test(test_gguf_refusal_of_strings_past_the_end),
        cmocka_unit_test(test_gguf_refusal_of_every_cut_of_the_header),
        cmocka_unit_test(test_gguf_refusal_of_odd_alignments),
        cmocka_unit_test(test_gguf_refusal_of_bad_tensor_names),
        cmocka_unit_test(test_gguf_refusal_of_a_tensor_twice),
        cmocka_unit_test(test_gguf_refusal_of_odd_dimensions),
        cmocka_unit_test(test_gguf_refusal_of_rows_of_broken_blocks),
        cmocka_unit_test(test_gguf_refusal_of_data_out_of_the_file),
        cmocka_unit_test(test_gguf_refusal_of_offsets_off_the_alignment),
        cmocka_unit_test(test_gguf_refusal_of_overlapping_data),
        cmocka_unit_test(test_gguf_refusal_of_data_at_one_place),
        cmocka_unit_test(test_gguf_refusal_of_cut_data),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
