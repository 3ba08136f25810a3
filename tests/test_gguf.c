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

static void test_gguf_knows_the_ends_of_uint32(void **state) {
    (void)state;
    struct gguf_builder builder = empty_builder();
    gguf_builder_value(&builder, "last", GGUF_TYPE_I64, &(int64_t){UINT32_MAX}, 8);
    gguf_builder_value(&builder, "above", GGUF_TYPE_I64, &(int64_t){1LL << 32}, 8);
    gguf_builder_value(&builder, "above.u64", GGUF_TYPE_U64, &(uint64_t){1ULL << 32}, 8);
    gguf_builder_value(&builder, "below", GGUF_TYPE_I8, &(int8_t){-1}, 1);
    struct parsed parsed = parse_built(&builder);
    uint32_t value = 0;
    assert_u32(parsed.file, "last", UINT32_MAX);
    assert_int_equal(gguf_get_u32(parsed.file, "above", &value), ERR_FORMAT);
    assert_message("'above': 4294967296 does not fit");
    assert_int_equal(gguf_get_u32(parsed.file, "above.u64", &value), ERR_FORMAT);
    assert_int_equal(gguf_get_u32(parsed.file, "below", &value), ERR_FORMAT);
    release(&parsed);
    gguf_builder_done(&builder);
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
        cmocka_unit_test(test_gguf_knows_the_ends_of_uint32),
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
        cmocka_unit_test(test_gguf_maps_files),
        cmocka_unit_test(test_gguf_memory_has_no_identity),
        cmocka_unit_test(test_gguf_open_names_the_path),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
