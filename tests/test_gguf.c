#include "engine/gguf.h"
#include "tests/gguf/gguf_builder.h"
#include "tests/gguf/gguf_walk.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

/* A parsed file and the memory under it. */
struct parsed {
    uint8_t *data;
    struct gguf *file;
};

static struct parsed parse_built(const struct gguf_builder *builder) {
    struct parsed parsed = {0};
    size_t bytes;
    parsed.data = gguf_builder_file(builder, &bytes);
    enum err err = gguf_parse(parsed.data, bytes, &parsed.file);
    if (err != ERR_OK) {
        fail_msg("%s: %s", err_name(err), err_message());
    }
    return parsed;
}

static void release(struct parsed *parsed) {
    gguf_close(parsed->file);
    free(parsed->data);
}

static struct parsed parse_sample(void) {
    struct gguf_builder builder;
    gguf_builder_init(&builder);
    gguf_builder_sample(&builder);
    struct parsed parsed = parse_built(&builder);
    gguf_builder_done(&builder);
    return parsed;
}

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

/* ---- values ---- */

static void assert_u32(const struct gguf *file, const char *key, uint32_t expected) {
    uint32_t value = 0;
    assert_int_equal(gguf_get_u32(file, key, &value), ERR_OK);
    assert_int_equal(value, expected);
}

static void test_gguf_reads_every_integer_type(void **state) {
    (void)state;
    struct parsed parsed = parse_sample();
    assert_u32(parsed.file, "scalar.u8", 200);
    assert_u32(parsed.file, "scalar.u16", 60000);
    assert_u32(parsed.file, "scalar.u32", 4000000000);
    assert_u32(parsed.file, "scalar.i32", 2000000000);
    assert_u32(parsed.file, "scalar.u64", 1 << 20);
    assert_u32(parsed.file, "scalar.i64", 7);
    release(&parsed);
}

static void test_gguf_refuses_integers_that_do_not_fit(void **state) {
    (void)state;
    struct parsed parsed = parse_sample();
    uint32_t value = 77;
    assert_int_equal(gguf_get_u32(parsed.file, "scalar.i8", &value), ERR_FORMAT);
    assert_message("'scalar.i8': -100 does not fit");
    assert_int_equal(gguf_get_u32(parsed.file, "scalar.i16", &value), ERR_FORMAT);
    assert_message("'scalar.i16': -30000 does not fit");
    assert_int_equal(gguf_get_u32(parsed.file, "huge.u64", &value), ERR_FORMAT);
    assert_message("'huge.u64': 18446744073709551615 does not fit");
    assert_int_equal(gguf_get_u32(parsed.file, "scalar.f32", &value), ERR_FORMAT);
    assert_message("'scalar.f32': float32, expected an integer");
    assert_int_equal(gguf_get_u32(parsed.file, "scalar.bool", &value), ERR_FORMAT);
    assert_int_equal(gguf_get_u32(parsed.file, "array.u32", &value), ERR_FORMAT);
    assert_int_equal(gguf_get_u32(parsed.file, "no.such", &value), ERR_NOT_FOUND);
    assert_message("'no.such'");
    assert_int_equal(value, 77);
    release(&parsed);
}

static void test_gguf_reads_floats_bools_and_strings(void **state) {
    (void)state;
    struct parsed parsed = parse_sample();
    float number = 0;
    int is_true = 0;
    struct gguf_string text = {0};
    assert_int_equal(gguf_get_f32(parsed.file, "scalar.f32", &number), ERR_OK);
    assert_true(number == 0.25F);
    assert_int_equal(gguf_get_f32(parsed.file, "scalar.f64", &number), ERR_OK);
    assert_true(number == -1.5F);
    assert_int_equal(gguf_get_bool(parsed.file, "scalar.bool", &is_true), ERR_OK);
    assert_int_equal(is_true, 1);
    assert_int_equal(gguf_get_string(parsed.file, "general.architecture", &text), ERR_OK);
    assert_int_equal(text.len, 13);
    assert_memory_equal(text.text, "granitehybrid", 13);
    assert_int_equal(gguf_get_string(parsed.file, "general.empty", &text), ERR_OK);
    assert_int_equal(text.len, 0);
    release(&parsed);
}

static void test_gguf_getters_name_key_and_type(void **state) {
    (void)state;
    struct parsed parsed = parse_sample();
    float number = 3;
    int is_true = 3;
    struct gguf_string text = {NULL, 3};
    struct gguf_array array = {.count = 3};
    assert_int_equal(gguf_get_f32(parsed.file, "scalar.u32", &number), ERR_FORMAT);
    assert_message("'scalar.u32': uint32, expected float32");
    assert_int_equal(gguf_get_f32(parsed.file, "huge.f64", &number), ERR_FORMAT);
    assert_message("'huge.f64': 1e+300 does not fit");
    assert_int_equal(gguf_get_bool(parsed.file, "scalar.u8", &is_true), ERR_FORMAT);
    assert_message("'scalar.u8': uint8, expected bool");
    assert_int_equal(gguf_get_string(parsed.file, "array.string", &text), ERR_FORMAT);
    assert_message("'array.string': array, expected string");
    assert_int_equal(gguf_get_array(parsed.file, "scalar.f64", &array), ERR_FORMAT);
    assert_message("'scalar.f64': float64, expected array");
    assert_int_equal(gguf_get_f32(parsed.file, "none", &number), ERR_NOT_FOUND);
    assert_int_equal(gguf_get_bool(parsed.file, "none", &is_true), ERR_NOT_FOUND);
    assert_int_equal(gguf_get_string(parsed.file, "none", &text), ERR_NOT_FOUND);
    assert_int_equal(gguf_get_array(parsed.file, "none", &array), ERR_NOT_FOUND);
    assert_true(number == 3 && is_true == 3 && text.len == 3 && array.count == 3);
    release(&parsed);
}

static void test_gguf_lists_keys_in_file_order(void **state) {
    (void)state;
    struct parsed parsed = parse_sample();
    assert_int_equal(gguf_key_count(parsed.file), 28);
    struct gguf_key key = gguf_key_at(parsed.file, 2);
    assert_int_equal(key.type, GGUF_TYPE_U8);
    assert_memory_equal(key.name.text, "scalar.u8", key.name.len);
    assert_true(gguf_has(parsed.file, "scalar.u8"));
    assert_false(gguf_has(parsed.file, "scalar.u"));
    assert_false(gguf_has(parsed.file, "scalar.u88"));
    assert_false(gguf_has(parsed.file, ""));
    release(&parsed);
}

static void assert_array_i64(const struct gguf *file, const char *key, uint64_t index,
                             int64_t expected) {
    struct gguf_array array;
    int64_t value = 0;
    assert_int_equal(gguf_get_array(file, key, &array), ERR_OK);
    assert_int_equal(gguf_array_i64(&array, index, &value), ERR_OK);
    assert_true(value == expected);
}

static void test_gguf_reads_arrays_of_integers(void **state) {
    (void)state;
    struct parsed parsed = parse_sample();
    assert_array_i64(parsed.file, "array.u8", 1, 255);
    assert_array_i64(parsed.file, "array.i8", 1, -1);
    assert_array_i64(parsed.file, "array.u16", 1, 65535);
    assert_array_i64(parsed.file, "array.i16", 1, -2);
    assert_array_i64(parsed.file, "array.u32", 1, UINT32_MAX);
    assert_array_i64(parsed.file, "array.i32", 2, 9);
    assert_array_i64(parsed.file, "array.i32", 1, -3);
    assert_array_i64(parsed.file, "array.bool", 1, 1);
    assert_array_i64(parsed.file, "array.u64", 0, 1);
    assert_array_i64(parsed.file, "array.i64", 0, INT64_MAX);
    assert_array_i64(parsed.file, "array.i64", 1, INT64_MIN);
    release(&parsed);
}

static void test_gguf_reads_arrays_of_floats_and_strings(void **state) {
    (void)state;
    struct parsed parsed = parse_sample();
    struct gguf_array array;
    float number = 0;
    struct gguf_string text = {0};
    assert_int_equal(gguf_get_array(parsed.file, "array.f32", &array), ERR_OK);
    assert_int_equal(gguf_array_f32(&array, 1, &number), ERR_OK);
    assert_true(number == -2.0F);
    assert_int_equal(gguf_get_array(parsed.file, "array.f64", &array), ERR_OK);
    assert_int_equal(gguf_array_f32(&array, 0, &number), ERR_OK);
    assert_true(number == 0.75F);
    assert_int_equal(gguf_get_array(parsed.file, "array.string", &array), ERR_OK);
    assert_int_equal(array.type, GGUF_TYPE_STRING);
    assert_int_equal(array.count, 4);
    assert_int_equal(gguf_array_string(&array, 1, &text), ERR_OK);
    assert_int_equal(text.len, 0);
    assert_int_equal(gguf_array_string(&array, 3, &text), ERR_OK);
    assert_int_equal(text.len, 4);
    assert_memory_equal(text.text, "drei", 4);
    assert_int_equal(gguf_get_array(parsed.file, "array.empty", &array), ERR_OK);
    assert_int_equal(array.count, 0);
    release(&parsed);
}

static void test_gguf_array_getters_name_key_and_type(void **state) {
    (void)state;
    struct parsed parsed = parse_sample();
    struct gguf_array array;
    float number = 3;
    int64_t integer = 3;
    struct gguf_string text = {NULL, 3};
    assert_int_equal(gguf_get_array(parsed.file, "array.string", &array), ERR_OK);
    assert_int_equal(gguf_array_i64(&array, 0, &integer), ERR_FORMAT);
    assert_message("'array.string': array of string, expected integers");
    assert_int_equal(gguf_array_f32(&array, 0, &number), ERR_FORMAT);
    assert_message("'array.string': array of string, expected float32");
    assert_int_equal(gguf_array_string(&array, 4, &text), ERR_INVALID);
    assert_message("'array.string': element 4 of 4");
    assert_int_equal(gguf_get_array(parsed.file, "array.f32", &array), ERR_OK);
    assert_int_equal(gguf_array_i64(&array, 0, &integer), ERR_FORMAT);
    assert_message("'array.f32': array of float32, expected integers");
    assert_int_equal(gguf_array_string(&array, 0, &text), ERR_FORMAT);
    assert_message("'array.f32': array of float32, expected strings");
    assert_int_equal(gguf_array_f32(&array, UINT64_MAX, &number), ERR_INVALID);
    assert_int_equal(gguf_get_array(parsed.file, "array.u64", &array), ERR_OK);
    assert_int_equal(gguf_array_i64(&array, 1, &integer), ERR_FORMAT);
    assert_message("'array.u64': element 1: 18446744073709551615 does not fit");
    assert_int_equal(gguf_get_array(parsed.file, "array.f64", &array), ERR_OK);
    assert_int_equal(gguf_array_f32(&array, 1, &number), ERR_FORMAT);
    assert_message("'array.f64': element 1: 1e+300 does not fit");
    assert_true(number == 3 && integer == 3 && text.len == 3);
    release(&parsed);
}

/* ---- tensors ---- */

static void test_gguf_finds_tensors(void **state) {
    (void)state;
    struct parsed parsed = parse_sample();
    assert_int_equal(gguf_tensor_count(parsed.file), 5);
    const struct gguf_tensor *tensor = gguf_find_tensor(parsed.file, "token_embd.weight");
    assert_non_null(tensor);
    assert_ptr_equal(tensor, gguf_tensor_at(parsed.file, 0));
    assert_true(tensor->is_supported);
    assert_int_equal(tensor->type, DTYPE_Q8_0);
    assert_int_equal(tensor->dim_count, 2);
    assert_int_equal(tensor->dims[0], 64);
    assert_int_equal(tensor->dims[1], 3);
    assert_int_equal(tensor->dims[2], 1);
    assert_int_equal(tensor->values, 192);
    assert_int_equal(tensor->bytes, 204);
    const uint8_t *data = tensor->data;
    assert_int_equal(data[0], 0);
    assert_int_equal(data[203], 203);

    tensor = gguf_find_tensor(parsed.file, "blk.0.bf16");
    assert_non_null(tensor);
    assert_int_equal(tensor->type, DTYPE_BF16);
    assert_int_equal(tensor->dim_count, 4);
    assert_int_equal(tensor->bytes, 16);
    data = tensor->data;
    assert_int_equal(data[15], 15);
    assert_null(gguf_find_tensor(parsed.file, "blk.0"));
    assert_null(gguf_find_tensor(parsed.file, "blk.0.bf16x"));
    release(&parsed);
}

static void test_gguf_names_types_it_cannot_run(void **state) {
    (void)state;
    struct parsed parsed = parse_sample();
    const struct gguf_tensor *tensor = gguf_find_tensor(parsed.file, "blk.0.q4_k");
    assert_non_null(tensor);
    assert_false(tensor->is_supported);
    assert_null(tensor->data);
    assert_int_equal(tensor->bytes, 288);
    assert_string_equal(gguf_tensor_type_name(tensor->type_number), "Q4_K");
    assert_string_equal(gguf_tensor_type_name(39), "MXFP4");
    assert_string_equal(gguf_tensor_type_name(20), "IQ4_NL");
    assert_string_equal(gguf_tensor_type_name(99), "type 99");
    assert_string_equal(gguf_tensor_type_name(UINT32_MAX), "type 4294967295");
    release(&parsed);
}

static void test_gguf_takes_tensors_of_unknown_type(void **state) {
    (void)state;
    struct gguf_builder builder = empty_builder();
    gguf_builder_tensor(
        &builder, &(struct gguf_builder_tensor){
                      .name = "later", .type_number = 77, .dim_count = 1, .dims = {3}, .bytes = 9});
    struct parsed parsed = parse_built(&builder);
    const struct gguf_tensor *tensor = gguf_find_tensor(parsed.file, "later");
    assert_non_null(tensor);
    assert_false(tensor->is_supported);
    assert_null(tensor->data);
    assert_int_equal(tensor->bytes, 0);
    assert_int_equal(tensor->type_number, 77);
    release(&parsed);
    gguf_builder_done(&builder);
}

static void test_gguf_heeds_the_alignment_key(void **state) {
    (void)state;
    static const uint32_t alignments[] = {8, 16, 32, 64, 4096};
    for (size_t i = 0; i < ARRAY_LEN(alignments); i++) {
        struct gguf_builder builder = empty_builder();
        builder.alignment = alignments[i];
        gguf_builder_u32(&builder, "general.alignment", alignments[i]);
        struct gguf_builder_tensor tensor = {.name = "a", .dim_count = 1, .dims = {3}, .bytes = 12};
        gguf_builder_tensor(&builder, &tensor);
        tensor.name = "b";
        gguf_builder_tensor(&builder, &tensor);
        struct parsed parsed = parse_built(&builder);
        const uint8_t *a = gguf_find_tensor(parsed.file, "a")->data;
        const uint8_t *b = gguf_find_tensor(parsed.file, "b")->data;
        assert_int_equal((size_t)(a - parsed.data) % alignments[i], 0);
        assert_int_equal(b - a, alignments[i] < 16 ? 16 : alignments[i]);
        assert_int_equal(b[0], 0);
        assert_int_equal(b[11], 11);
        release(&parsed);
        gguf_builder_done(&builder);
    }
}

static void test_gguf_takes_a_file_without_keys_and_tensors(void **state) {
    (void)state;
    struct gguf_builder builder = empty_builder();
    struct parsed parsed = parse_built(&builder);
    assert_int_equal(gguf_tensor_count(parsed.file), 0);
    assert_int_equal(gguf_key_count(parsed.file), 0);
    assert_false(gguf_has(parsed.file, "general.architecture"));
    assert_null(gguf_find_tensor(parsed.file, "x"));
    release(&parsed);
    gguf_builder_done(&builder);
}

/* Enough of both that a search through all would show, and an order that sorting must undo. */
static void test_gguf_finds_among_many(void **state) {
    (void)state;
    enum { MANY = 20000 };
    struct gguf_builder builder = empty_builder();
    char name[32];
    for (unsigned i = 0; i < MANY; i++) {
        snprintf(name, sizeof name, "n%u", i * 7919 % MANY);
        gguf_builder_u32(&builder, name, i);
        gguf_builder_tensor(&builder, &(struct gguf_builder_tensor){.name = name,
                                                                    .type_number = 24,
                                                                    .dim_count = 1,
                                                                    .dims = {i % 30 + 1},
                                                                    .bytes = i % 30 + 1});
    }
    struct parsed parsed = parse_built(&builder);
    for (unsigned i = 0; i < MANY; i++) {
        snprintf(name, sizeof name, "n%u", i * 7919 % MANY);
        assert_u32(parsed.file, name, i);
        assert_ptr_equal(gguf_find_tensor(parsed.file, name), gguf_tensor_at(parsed.file, i));
    }
    release(&parsed);
    gguf_builder_done(&builder);
}

/* ---- refusals: header ---- */

static void test_gguf_refuses_other_magic(void **state) {
    (void)state;
    struct gguf_builder builder = empty_builder();
    size_t bytes;
    uint8_t *data = gguf_builder_file(&builder, &bytes);
    data[3] = 'X';
    gguf_builder_done(&builder);
    assert_bytes_refused(data, bytes, ERR_FORMAT, "47 47 55 58", "expected \"GGUF\"");
}

static void test_gguf_refuses_other_versions(void **state) {
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

static void test_gguf_refuses_big_endian(void **state) {
    (void)state;
    struct gguf_builder builder = empty_builder();
    builder.version = 0x03000000;
    assert_refused(&builder, ERR_UNSUPPORTED, "big-endian", "expected little-endian");
}

static void test_gguf_refuses_short_headers(void **state) {
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

static void test_gguf_refuses_claimed_counts(void **state) {
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

static void test_gguf_refuses_bad_key_names(void **state) {
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

static void test_gguf_refuses_a_key_twice(void **state) {
    (void)state;
    struct gguf_builder builder = empty_builder();
    gguf_builder_u32(&builder, "b.two", 1);
    gguf_builder_u32(&builder, "a.one", 1);
    gguf_builder_bool(&builder, "b.two", 1);
    assert_refused(&builder, ERR_FORMAT, "key 'b.two'", "expected once");
}

static void test_gguf_refuses_unknown_value_types(void **state) {
    (void)state;
    struct gguf_builder builder = empty_builder();
    gguf_builder_value(&builder, "odd.type", 13, "12345678", 8);
    assert_refused(&builder, ERR_FORMAT, "key 'odd.type'", "value type 13, expected 0 to 12");
    builder = empty_builder();
    gguf_builder_array(&builder, "odd.array", 99, 1, "12345678", 8);
    assert_refused(&builder, ERR_FORMAT, "key 'odd.array'", "value type 99, expected 0 to 12");
}

static void test_gguf_refuses_nested_arrays(void **state) {
    (void)state;
    struct gguf_builder builder = empty_builder();
    gguf_builder_array(&builder, "nested", GGUF_TYPE_ARRAY, 1, "0123456789abcdef", 16);
    assert_refused(&builder, ERR_UNSUPPORTED, "key 'nested'", "array of arrays");
}

static void test_gguf_refuses_bools_that_are_none(void **state) {
    (void)state;
    struct gguf_builder builder = empty_builder();
    gguf_builder_bool(&builder, "odd.bool", 2);
    assert_refused(&builder, ERR_FORMAT, "key 'odd.bool'", "is 2, expected 0 or 1");
    builder = empty_builder();
    gguf_builder_array(&builder, "odd.bools", GGUF_TYPE_BOOL, 3, "\0\1\377", 3);
    assert_refused(&builder, ERR_FORMAT, "key 'odd.bools'", "bool 2 is 255, expected 0 or 1");
}

static void test_gguf_refuses_claimed_array_counts(void **state) {
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

static void test_gguf_refuses_strings_past_the_end(void **state) {
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
static void test_gguf_refuses_every_cut_of_the_header(void **state) {
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

static void test_gguf_refuses_odd_alignments(void **state) {
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

static void test_gguf_refuses_bad_tensor_names(void **state) {
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

static void test_gguf_refuses_a_tensor_twice(void **state) {
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

static void test_gguf_refuses_odd_dimensions(void **state) {
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

static void test_gguf_refuses_rows_of_broken_blocks(void **state) {
    (void)state;
    struct gguf_builder_tensor tensor = {
        .name = "w", .type_number = 8, .dim_count = 2, .dims = {16, 2}, .bytes = 34};
    assert_tensor_refused(&tensor, "tensor 'w'", "rows of 16 values of type Q8_0");
    tensor.type_number = 12;
    tensor.dims[0] = 128;
    assert_tensor_refused(&tensor, "tensor 'w'", "expected a multiple of 256");
}

static void test_gguf_refuses_data_out_of_the_file(void **state) {
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

static void test_gguf_refuses_offsets_off_the_alignment(void **state) {
    (void)state;
    struct gguf_builder_tensor tensor = {
        .name = "w", .dim_count = 1, .dims = {1}, .bytes = 64, .has_offset = 1, .offset = 16};
    assert_tensor_refused(&tensor, "tensor 'w'", "offset 16, expected a multiple of 32");
}

static void test_gguf_refuses_overlapping_data(void **state) {
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

static void test_gguf_refuses_cut_data(void **state) {
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

/* ---- files ---- */

static void write_file(const char *path, const void *bytes, size_t len) {
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, len, file), len);
    assert_int_equal(fclose(file), 0);
}

static void test_gguf_maps_files(void **state) {
    (void)state;
    struct gguf *file = NULL;
    const char *path = TERN_TEST_DATA "/gguf/tiny-q8_0.gguf";
    enum err err = gguf_open(path, &file);
    assert_string_equal(err == ERR_OK ? "" : err_message(), "");
    struct stat status;
    struct gguf_identity identity = {0};
    assert_int_equal(stat(path, &status), 0);
    assert_true(gguf_get_identity(file, &identity));
    assert_int_equal(identity.inode, status.st_ino);
    assert_int_equal(identity.size_bytes, status.st_size);
    assert_int_equal(gguf_tensor_count(file), 50);
    assert_non_null(gguf_find_tensor(file, "token_embd.weight"));
    struct gguf_array tokens;
    assert_int_equal(gguf_get_array(file, "tokenizer.ggml.tokens", &tokens), ERR_OK);
    assert_int_equal(tokens.count, 512);
    size_t bytes;
    assert_non_null(gguf_data(file, &bytes));
    assert_int_equal(bytes, status.st_size);
    assert_true(gguf_walk(file) != 0);
    gguf_close(file);
}

static void test_gguf_memory_has_no_identity(void **state) {
    (void)state;
    struct parsed parsed = parse_sample();
    struct gguf_identity identity = {.inode = 5};
    assert_false(gguf_get_identity(parsed.file, &identity));
    assert_int_equal(identity.inode, 5);
    release(&parsed);
}

static void assert_open_refused(const char *path, enum err code, const char *expected) {
    struct gguf *file = NULL;
    assert_string_equal(err_name(gguf_open(path, &file)), err_name(code));
    assert_null(file);
    assert_message(path);
    assert_message(expected);
}

static void test_gguf_open_names_the_path(void **state) {
    (void)state;
    char folder[] = "/tmp/test_gguf_XXXXXX";
    assert_non_null(mkdtemp(folder));
    char path[64];
    snprintf(path, sizeof path, "%s/file.gguf", folder);
    assert_open_refused(path, ERR_IO, "No such file");
    assert_open_refused(folder, ERR_IO, "not a regular file");
    write_file(path, "", 0);
    assert_open_refused(path, ERR_FORMAT, "0 bytes long, expected a GGUF header of 24");
    write_file(path, "GGUFxxxxxxxxxxxxxxxxxxxxxxxx", 28);
    assert_open_refused(path, ERR_UNSUPPORTED, "version");
    write_file(path, "PK\3\4xxxxxxxxxxxxxxxxxxxxxxxx", 28);
    assert_open_refused(path, ERR_FORMAT, "not a GGUF file: begins with 50 4b 03 04");
    assert_int_equal(unlink(path), 0);
    assert_int_equal(mkfifo(path, 0600), 0);
    assert_open_refused(path, ERR_IO, "not a regular file");
    assert_int_equal(unlink(path), 0);
    assert_int_equal(rmdir(folder), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gguf_reads_every_integer_type),
        cmocka_unit_test(test_gguf_refuses_integers_that_do_not_fit),
        cmocka_unit_test(test_gguf_reads_floats_bools_and_strings),
        cmocka_unit_test(test_gguf_getters_name_key_and_type),
        cmocka_unit_test(test_gguf_lists_keys_in_file_order),
        cmocka_unit_test(test_gguf_reads_arrays_of_integers),
        cmocka_unit_test(test_gguf_reads_arrays_of_floats_and_strings),
        cmocka_unit_test(test_gguf_array_getters_name_key_and_type),
        cmocka_unit_test(test_gguf_finds_tensors),
        cmocka_unit_test(test_gguf_names_types_it_cannot_run),
        cmocka_unit_test(test_gguf_takes_tensors_of_unknown_type),
        cmocka_unit_test(test_gguf_heeds_the_alignment_key),
        cmocka_unit_test(test_gguf_takes_a_file_without_keys_and_tensors),
        cmocka_unit_test(test_gguf_finds_among_many),
        cmocka_unit_test(test_gguf_refuses_other_magic),
        cmocka_unit_test(test_gguf_refuses_other_versions),
        cmocka_unit_test(test_gguf_refuses_big_endian),
        cmocka_unit_test(test_gguf_refuses_short_headers),
        cmocka_unit_test(test_gguf_refuses_claimed_counts),
        cmocka_unit_test(test_gguf_refuses_bad_key_names),
        cmocka_unit_test(test_gguf_refuses_a_key_twice),
        cmocka_unit_test(test_gguf_refuses_unknown_value_types),
        cmocka_unit_test(test_gguf_refuses_nested_arrays),
        cmocka_unit_test(test_gguf_refuses_bools_that_are_none),
        cmocka_unit_test(test_gguf_refuses_claimed_array_counts),
        cmocka_unit_test(test_gguf_refuses_strings_past_the_end),
        cmocka_unit_test(test_gguf_refuses_every_cut_of_the_header),
        cmocka_unit_test(test_gguf_refuses_odd_alignments),
        cmocka_unit_test(test_gguf_refuses_bad_tensor_names),
        cmocka_unit_test(test_gguf_refuses_a_tensor_twice),
        cmocka_unit_test(test_gguf_refuses_odd_dimensions),
        cmocka_unit_test(test_gguf_refuses_rows_of_broken_blocks),
        cmocka_unit_test(test_gguf_refuses_data_out_of_the_file),
        cmocka_unit_test(test_gguf_refuses_offsets_off_the_alignment),
        cmocka_unit_test(test_gguf_refuses_overlapping_data),
        cmocka_unit_test(test_gguf_refuses_cut_data),
        cmocka_unit_test(test_gguf_maps_files),
        cmocka_unit_test(test_gguf_memory_has_no_identity),
        cmocka_unit_test(test_gguf_open_names_the_path),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
