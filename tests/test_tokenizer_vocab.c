/* Vocabularies that contradict themselves, through tokenizer_create: errors that name the key. */
#include "engine/tokenizer_vocab.h"

#include "tests/gguf/vocabulary_image.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { NORMAL = 1, CONTROL = 3, USER = 4, UNUSED = 5, HEADER_BYTES = 24 };

static const struct vocabulary_image plain = {
    .model = "gpt2", .pre = "gpt-2", .leaves_out_byte = -1};

static void expect_failure(const struct vocabulary_image *spec, enum err want, const char *part) {
    struct tokenizer *tokenizer = NULL;
    assert_int_equal(vocabulary_image_load(spec, &tokenizer), want);
    assert_null(tokenizer);
    if (strstr(err_message(), part) == NULL) {
        fail_msg("'%s' does not name '%s'", err_message(), part);
    }
}

static void expect_success(const struct vocabulary_image *spec) {
    struct tokenizer *tokenizer;
    assert_int_equal(vocabulary_image_load(spec, &tokenizer), ERR_OK);
    tokenizer_destroy(tokenizer);
}

static struct vocabulary_image with_tokens(const struct vocabulary_image_token *tokens,
                                           size_t count) {
    struct vocabulary_image spec = plain;
    spec.tokens = tokens;
    spec.token_count = count;
    return spec;
}

static struct vocabulary_image with_keys(void (*add)(struct gguf_builder *builder)) {
    struct vocabulary_image spec = plain;
    spec.add = add;
    return spec;
}

static void test_tokenizer_vocab_names_unknown_kinds(void **state) {
    (void)state;
    struct vocabulary_image spec = plain;
    expect_success(&spec);
    spec.pre = NULL;
    expect_success(&spec);
    spec.pre = "qwen2";
    expect_failure(&spec, ERR_UNSUPPORTED, "tokenizer.ggml.pre 'qwen2'");
    spec.pre = "";
    expect_failure(&spec, ERR_UNSUPPORTED, "tokenizer.ggml.pre ''");
    spec.pre = "gpt-2 ";
    expect_failure(&spec, ERR_UNSUPPORTED, "tokenizer.ggml.pre 'gpt-2 '");
    spec.pre = "gpt-2";
    spec.model = "llama";
    expect_failure(&spec, ERR_UNSUPPORTED, "tokenizer.ggml.model 'llama'");
    spec.model = NULL;
    expect_failure(&spec, ERR_FORMAT, "tokenizer.ggml.model is missing");
}

static void test_tokenizer_vocab_needs_every_byte(void **state) {
    (void)state;
    for (int byte = 0; byte < 256; byte += 15) {
        struct vocabulary_image spec = plain;
        char want[64];
        spec.leaves_out_byte = byte;
        snprintf(want, sizeof want, "tokens: no normal token for the byte %02X", (unsigned)byte);
        expect_failure(&spec, ERR_FORMAT, want);
    }
}

static void test_tokenizer_vocab_refuses_duplicates(void **state) {
    (void)state;
    static const struct vocabulary_image_token normal[] = {{"ab", NORMAL}, {"ab", NORMAL}};
    static const struct vocabulary_image_token special[] = {{"ab", CONTROL}, {"ab", USER}};
    static const struct vocabulary_image_token mixed[] = {
        {"ab", NORMAL}, {"ab", CONTROL}, {"ab", UNUSED}, {"ab", UNUSED}};
    struct vocabulary_image spec = with_tokens(normal, ARRAY_LEN(normal));
    expect_failure(&spec, ERR_FORMAT, "tokenizer.ggml.tokens: tokens 256 and 257");
    spec = with_tokens(special, ARRAY_LEN(special));
    expect_failure(&spec, ERR_FORMAT, "tokenizer.ggml.tokens: tokens 256 and 257");
    spec = with_tokens(mixed, ARRAY_LEN(mixed));
    expect_success(&spec);
}

static void test_tokenizer_vocab_checks_types(void **state) {
    (void)state;
    static const struct vocabulary_image_token byte_type[] = {{"<0x41>", 6}};
    static const struct vocabulary_image_token no_type[] = {{"x1", 0}};
    static const struct vocabulary_image_token negative[] = {{"x1", -1}};
    struct vocabulary_image spec = with_tokens(byte_type, 1);
    expect_failure(&spec, ERR_FORMAT, "tokenizer.ggml.token_type: token 256 has type 6");
    spec = with_tokens(no_type, 1);
    expect_failure(&spec, ERR_FORMAT, "tokenizer.ggml.token_type: token 256 has type 0");
    spec = with_tokens(negative, 1);
    expect_failure(&spec, ERR_FORMAT, "tokenizer.ggml.token_type: token 256 has type -1");
    spec = plain;
    spec.has_no_types = 1;
    expect_success(&spec);
}

static void add_few_types(struct gguf_builder *builder) {
    static const int32_t types[] = {NORMAL, NORMAL};
    gguf_builder_array(builder, "tokenizer.ggml.token_type", GGUF_TYPE_I32, ARRAY_LEN(types), types,
                       sizeof types);
}

static void add_text_types(struct gguf_builder *builder) {
    const char *types[VOCABULARY_IMAGE_BYTES];
    for (size_t i = 0; i < ARRAY_LEN(types); i++) {
        types[i] = "1";
    }
    gguf_builder_strings(builder, "tokenizer.ggml.token_type", types, ARRAY_LEN(types));
}

static void test_tokenizer_vocab_checks_the_types_array(void **state) {
    (void)state;
    struct vocabulary_image spec = with_keys(add_few_types);
    spec.has_no_types = 1;
    expect_failure(&spec, ERR_FORMAT, "tokenizer.ggml.token_type holds 2 types for 256 tokens");
    spec.add = add_text_types;
    expect_failure(&spec, ERR_FORMAT, "tokenizer.ggml.token_type");
}

static void test_tokenizer_vocab_checks_merges(void **state) {
    (void)state;
    static const char *const unknown_result[] = {"a b"};
    static const char *const unknown_part[] = {"a b", "ab c"};
    static const char *const no_space[] = {"a b", "ab"};
    static const char *const no_right[] = {"ab "};
    static const char *const no_left[] = {" ab"};
    static const char *const empty[] = {""};
    static const char *const not_mapped[] = {"a \n"};
    static const struct vocabulary_image_token tokens[] = {{"ab", NORMAL}};
    struct vocabulary_image spec = plain;
    spec.merge_count = 1;
    spec.merges = unknown_result;
    expect_failure(&spec, ERR_FORMAT, "tokenizer.ggml.merges: merge 0: 'ab' is not in");
    spec.tokens = tokens;
    spec.token_count = 1;
    expect_success(&spec);
    spec.merges = no_right;
    expect_failure(&spec, ERR_FORMAT, "tokenizer.ggml.merges: merge 0");
    spec.merges = no_left;
    expect_failure(&spec, ERR_FORMAT, "tokenizer.ggml.merges: merge 0");
    spec.merges = empty;
    expect_failure(&spec, ERR_FORMAT, "tokenizer.ggml.merges: merge 0");
    spec.merges = not_mapped;
    expect_failure(&spec, ERR_FORMAT, "tokenizer.ggml.merges: merge 0");
    spec.merge_count = 2;
    spec.merges = unknown_part;
    expect_failure(&spec, ERR_FORMAT, "tokenizer.ggml.merges: merge 1: 'abc' is not in");
    spec.merges = no_space;
    expect_failure(&spec, ERR_FORMAT, "tokenizer.ggml.merges: merge 1");
}

static void add_bos_without_id(struct gguf_builder *builder) {
    gguf_builder_bool(builder, "tokenizer.ggml.add_bos_token", 1);
}

static void add_eos_without_id(struct gguf_builder *builder) {
    gguf_builder_bool(builder, "tokenizer.ggml.add_eos_token", 1);
}

static void add_bos_out_of_range(struct gguf_builder *builder) {
    gguf_builder_u32(builder, "tokenizer.ggml.bos_token_id", 256);
}

static void add_eot_out_of_range(struct gguf_builder *builder) {
    gguf_builder_u32(builder, "tokenizer.ggml.eot_token_id", UINT32_MAX);
}

static void add_flag_of_another_type(struct gguf_builder *builder) {
    gguf_builder_string(builder, "tokenizer.ggml.add_bos_token", "true");
}

static void test_tokenizer_vocab_checks_ids_and_flags(void **state) {
    (void)state;
    struct vocabulary_image spec = with_keys(add_bos_without_id);
    expect_failure(&spec, ERR_FORMAT, "tokenizer.ggml.bos_token_id is missing");
    spec.add = add_eos_without_id;
    expect_failure(&spec, ERR_FORMAT, "tokenizer.ggml.eos_token_id is missing");
    spec.add = add_bos_out_of_range;
    expect_failure(&spec, ERR_FORMAT, "tokenizer.ggml.bos_token_id is 256");
    spec.add = add_eot_out_of_range;
    expect_failure(&spec, ERR_FORMAT, "tokenizer.ggml.eot_token_id");
    spec.add = add_flag_of_another_type;
    expect_failure(&spec, ERR_FORMAT, "tokenizer.ggml.add_bos_token");
}

static void expect_piece(const struct tokenizer *tokenizer, int32_t id, int special,
                         const char *want) {
    const char *bytes;
    size_t len;
    assert_int_equal(tokenizer_piece(tokenizer, id, special, &bytes, &len), ERR_OK);
    assert_int_equal(len, strlen(want));
    assert_memory_equal(bytes, want, len);
}

static void test_tokenizer_vocab_writes_each_kind(void **state) {
    (void)state;
    static const struct vocabulary_image_token tokens[] = {
        {"\xc4\xa0\xc3\xa9", NORMAL}, /* mapped: a space and the byte E9 */
        {"two words", NORMAL},        /* not mapped: as it is */
        {"<s>", CONTROL},
        {"<unk>", 2},
        {"a b", USER},
        {"[PAD]", UNUSED},
        {"", NORMAL},
        {"", CONTROL},
        {"", USER},
    };
    static const char *const hidden[] = {" \xe9", "two words", "", "", "a b", "", "", "", ""};
    static const char *const shown[] = {" \xe9", "two words", "<s>", "<unk>", "a b",
                                        "",      "",          "",    ""};
    struct vocabulary_image spec = with_tokens(tokens, ARRAY_LEN(tokens));
    struct tokenizer *tokenizer;
    assert_int_equal(vocabulary_image_load(&spec, &tokenizer), ERR_OK);
    for (int32_t i = 0; i < (int32_t)ARRAY_LEN(tokens); i++) {
        expect_piece(tokenizer, 256 + i, 0, hidden[i]);
        expect_piece(tokenizer, 256 + i, 1, shown[i]);
    }
    const char *bytes = NULL;
    size_t len = 7;
    int32_t count = tokenizer_vocabulary(tokenizer);
    assert_int_equal(count, 256 + ARRAY_LEN(tokens));
    assert_int_equal(tokenizer_piece(tokenizer, count, 1, &bytes, &len), ERR_INVALID);
    assert_int_equal(tokenizer_piece(tokenizer, -1, 1, &bytes, &len), ERR_INVALID);
    assert_null(bytes);
    assert_int_equal(len, 7);
    tokenizer_destroy(tokenizer);
}

/* Every file with one byte changed is refused or is a vocabulary; none crashes. */
static void test_tokenizer_vocab_survives_flipped_bytes(void **state) {
    (void)state;
    static const struct vocabulary_image_token tokens[] = {{"ab", NORMAL}, {"<s>", CONTROL}};
    static const char *const merges[] = {"a b"};
    struct vocabulary_image spec = with_tokens(tokens, ARRAY_LEN(tokens));
    spec.merges = merges;
    spec.merge_count = 1;
    size_t bytes;
    uint8_t *image = vocabulary_image_file(&spec, &bytes);
    srand(3);
    int failures = 0;
    for (int round = 0; round < 3000; round++) {
        size_t at = HEADER_BYTES + (size_t)rand() % (bytes - HEADER_BYTES);
        uint8_t byte = image[at];
        image[at] = (uint8_t)rand();
        struct tokenizer *tokenizer = NULL;
        if (vocabulary_image_parse(image, bytes, &tokenizer) != ERR_OK) {
            failures++;
        }
        tokenizer_destroy(tokenizer);
        image[at] = byte;
    }
    assert_true(failures > 100);
    free(image);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tokenizer_vocab_names_unknown_kinds),
        cmocka_unit_test(test_tokenizer_vocab_needs_every_byte),
        cmocka_unit_test(test_tokenizer_vocab_refuses_duplicates),
        cmocka_unit_test(test_tokenizer_vocab_checks_types),
        cmocka_unit_test(test_tokenizer_vocab_checks_the_types_array),
        cmocka_unit_test(test_tokenizer_vocab_checks_merges),
        cmocka_unit_test(test_tokenizer_vocab_checks_ids_and_flags),
        cmocka_unit_test(test_tokenizer_vocab_writes_each_kind),
        cmocka_unit_test(test_tokenizer_vocab_survives_flipped_bytes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
