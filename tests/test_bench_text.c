/* Messages for benchmarks. */
#include "tools/bench_text.h"

#include "engine/demo/demo_model.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void test_bench_text_words_are_as_many_as_asked(void **state) {
    (void)state;
    char *text;
    assert_int_equal(bench_text_words(7, 1, &text), ERR_OK);
    int blanks = 0;
    for (const char *at = text; *at != '\0'; at++) {
        blanks += *at == ' ';
    }
    assert_int_equal(blanks, 6);
    free(text);
}

static void test_bench_text_follows_from_the_seed(void **state) {
    (void)state;
    char *first, *again, *other;
    assert_int_equal(bench_text_words(20, 1, &first), ERR_OK);
    assert_int_equal(bench_text_words(20, 1, &again), ERR_OK);
    assert_int_equal(bench_text_words(20, 2, &other), ERR_OK);
    assert_string_equal(first, again);
    assert_string_not_equal(first, other);
    free(first);
    free(again);
    free(other);
}

static void test_bench_text_has_about_the_tokens_asked(void **state) {
    (void)state;
    struct gguf *file;
    struct tokenizer *tokenizer;
    size_t bytes;
    const void *data = demo_model_data(&bytes);
    assert_int_equal(gguf_parse(data, bytes, &file), ERR_OK);
    assert_int_equal(tokenizer_create(file, &tokenizer), ERR_OK);
    for (long long tokens = 100; tokens <= 10000; tokens *= 10) {
        char *text;
        long long found;
        assert_int_equal(bench_text_tokens(tokenizer, tokens, 3, &text), ERR_OK);
        assert_int_equal(bench_text_count(tokenizer, text, &found), ERR_OK);
        assert_in_range(found, tokens - tokens / 20, tokens + tokens / 20);
        free(text);
    }
    char *hundred;
    long long count;
    assert_int_equal(bench_text_words(100, 3, &hundred), ERR_OK);
    assert_int_equal(bench_text_count(tokenizer, hundred, &count), ERR_OK);
    assert_in_range(count, 100, 105); /* a word is a token */
    free(hundred);
    tokenizer_destroy(tokenizer);
    gguf_close(file);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bench_text_words_are_as_many_as_asked),
        cmocka_unit_test(test_bench_text_follows_from_the_seed),
        cmocka_unit_test(test_bench_text_has_about_the_tokens_asked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
