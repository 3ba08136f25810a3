#include "engine/tokenizer_special.h"

#include "tests/gguf/vocabulary_image.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { TYPE_CONTROL = 3, TYPE_USER = 4, TYPE_UNUSED = 5, SPECIALS_MAX = 12, SPECIAL_LEN_MAX = 6 };

/* Reads a vocabulary of TOKENS behind the bytes. */
static void load(const struct vocabulary_image_token *tokens, size_t count,
                 struct tokenizer_vocab *vocab) {
    struct vocabulary_image spec = {
        .model = "gpt2", .tokens = tokens, .token_count = count, .leaves_out_byte = -1};
    size_t bytes;
    struct gguf *file;
    uint8_t *image = vocabulary_image_file(&spec, &bytes);
    *vocab = (struct tokenizer_vocab){0};
    assert_int_equal(gguf_parse(image, bytes, &file), ERR_OK);
    assert_int_equal(tokenizer_vocab_init(vocab, file), ERR_OK);
    gguf_close(file);
    free(image);
}

static void expect(const struct tokenizer_special *special, const char *text, size_t from,
                   size_t at, int32_t id) {
    struct tokenizer_special_match match;
    assert_true(tokenizer_special_find(special, text, strlen(text), from, &match));
    assert_int_equal(match.at, at);
    assert_int_equal(match.id, id);
}

static void test_tokenizer_special_takes_leftmost_then_longest(void **state) {
    (void)state;
    static const struct vocabulary_image_token tokens[] = {
        {"<think>", TYPE_USER},  {"<think>\n", TYPE_USER}, {">>>>>>", TYPE_USER},
        {"<sep>", TYPE_CONTROL}, {"[PAD]", TYPE_UNUSED},   {"<unk>", 2},
    };
    struct tokenizer_vocab vocab;
    struct tokenizer_special user;
    struct tokenizer_special all;
    struct tokenizer_special_match match;
    load(tokens, ARRAY_LEN(tokens), &vocab);
    assert_int_equal(tokenizer_special_init(&user, &vocab, 0), ERR_OK);
    assert_int_equal(tokenizer_special_init(&all, &vocab, 1), ERR_OK);
    expect(&all, "a<think>\nb", 0, 1, 257);
    expect(&all, "a<think> b", 0, 1, 256);
    expect(&all, "<sep>>>>>>>", 0, 0, 259);
    assert_false(tokenizer_special_find(&all, "<sep>>>>>>", 10, 5, &match));
    expect(&user, "<sep>>>>>>>", 0, 4, 258);
    expect(&all, "<unk>", 0, 0, 261);
    assert_false(tokenizer_special_find(&user, "<unk>", 5, 0, &match));
    assert_false(tokenizer_special_find(&all, "[PAD]", 5, 0, &match));
    assert_false(tokenizer_special_find(&all, "<thin", 5, 0, &match));
    assert_false(tokenizer_special_find(&all, "", 0, 0, &match));
    tokenizer_special_done(&user);
    tokenizer_special_done(&all);
    tokenizer_vocab_done(&vocab);
}

static int has_text(const struct vocabulary_image_token *tokens, size_t count, const char *text) {
    for (size_t i = 0; i < count; i++) {
        if (strcmp(tokens[i].text, text) == 0) {
            return 1;
        }
    }
    return 0;
}

static int find_naively(const struct vocabulary_image_token *tokens, size_t count, const char *text,
                        size_t from, struct tokenizer_special_match *out) {
    for (size_t at = from; at < strlen(text); at++) {
        size_t longest = 0;
        for (size_t i = 0; i < count; i++) {
            size_t len = strlen(tokens[i].text);
            if (len > longest && strncmp(text + at, tokens[i].text, len) == 0) {
                longest = len;
                *out = (struct tokenizer_special_match){.at = at, .len = len};
                out->id = (int32_t)(VOCABULARY_IMAGE_BYTES + i);
            }
        }
        if (longest > 0) {
            return 1;
        }
    }
    return 0;
}

static void random_text(char *out, size_t len_max) {
    static const char letters[] = "ab\xff";
    size_t len = 1 + (size_t)rand() % len_max;
    for (size_t i = 0; i < len; i++) {
        out[i] = letters[(size_t)rand() % (sizeof letters - 1)];
    }
    out[len] = '\0';
}

static void test_tokenizer_special_finds_what_a_search_finds(void **state) {
    (void)state;
    srand(11);
    for (int round = 0; round < 200; round++) {
        struct vocabulary_image_token tokens[SPECIALS_MAX];
        char texts[SPECIALS_MAX][SPECIAL_LEN_MAX + 1];
        size_t count = 0;
        for (int i = 0; i < 1 + rand() % SPECIALS_MAX; i++) {
            random_text(texts[count], SPECIAL_LEN_MAX);
            if (!has_text(tokens, count, texts[count])) {
                tokens[count] = (struct vocabulary_image_token){texts[count], TYPE_USER};
                count++;
            }
        }
        struct tokenizer_vocab vocab;
        struct tokenizer_special special;
        load(tokens, count, &vocab);
        assert_int_equal(tokenizer_special_init(&special, &vocab, rand() % 2), ERR_OK);
        for (int i = 0; i < 50; i++) {
            char text[32];
            random_text(text, sizeof text - 1);
            struct tokenizer_special_match want;
            struct tokenizer_special_match got;
            size_t from = (size_t)rand() % strlen(text);
            int is_found = find_naively(tokens, count, text, from, &want);
            assert_int_equal(tokenizer_special_find(&special, text, strlen(text), from, &got),
                             is_found);
            if (is_found) {
                assert_int_equal(got.at, want.at);
                assert_int_equal(got.len, want.len);
                assert_int_equal(got.id, want.id);
            }
        }
        tokenizer_special_done(&special);
        tokenizer_vocab_done(&vocab);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tokenizer_special_takes_leftmost_then_longest),
        cmocka_unit_test(test_tokenizer_special_finds_what_a_search_finds),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
