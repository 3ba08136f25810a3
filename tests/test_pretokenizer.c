/* The pre-tokenizers' data, through the splitter that runs their patterns. */
#include "engine/pretokenizer.h"

#include "engine/tokenizer_pattern.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static void test_pretokenizer_knows_names_exactly(void **state) {
    (void)state;
    static const char *const names[][4] = {
        {"gpt-2", "granite-docling", "exaone4", "a.x-4.0"},
        {"dbrx", "smaug-bpe", "glm4", "chatglm-bpe"},
        {"llama-bpe", "falcon-h1", "lfm2", "jina-v5-nano"},
        {"default", "default", "default", "default"},
    };
    static const char *const unknown[] = {"", "gpt", "gpt-22", "GPT-2", "qwen2", "tekken", "spm"};
    for (size_t i = 0; i < 4; i++) {
        for (size_t k = 0; k < 4; k++) {
            const struct pretokenizer *found = pretokenizer_find(names[i][k], strlen(names[i][k]));
            assert_non_null(found);
            assert_string_equal(found->name, names[i][0]);
            assert_int_equal(found->ignores_merges, i == 2);
            assert_int_equal(found->adds_bos, i == 2);
        }
    }
    for (size_t i = 0; i < sizeof unknown / sizeof unknown[0]; i++) {
        assert_null(pretokenizer_find(unknown[i], strlen(unknown[i])));
    }
}

/* Pieces joined by '|'. */
struct joined {
    char text[256];
    size_t len;
};

static enum err join(void *context, const char *piece, size_t len) {
    struct joined *joined = context;
    int added = snprintf(joined->text + joined->len, sizeof joined->text - joined->len, "%s%.*s",
                         joined->len == 0 ? "" : "|", (int)len, piece);
    joined->len += (size_t)added;
    return ERR_OK;
}

static void expect(const char *name, const char *text, const char *want) {
    struct tokenizer_pattern *pattern;
    struct joined joined = {.len = 0};
    struct tokenizer_pattern_sink sink = {.take = join, .context = &joined};
    const struct pretokenizer *found = pretokenizer_find(name, strlen(name));
    assert_int_equal(tokenizer_pattern_create(found->stages, &pattern), ERR_OK);
    assert_int_equal(tokenizer_pattern_split(pattern, text, strlen(text), &sink), ERR_OK);
    assert_string_equal(joined.text, want);
    tokenizer_pattern_destroy(pattern);
}

static void test_pretokenizer_splits_words(void **state) {
    (void)state;
    expect("gpt-2", "", "");
    expect("gpt-2", "it's  IT'S 12 a1!", "it|'s| | IT|'|S| 12| a|1|!");
    expect("dbrx", "it's  IT'S 1234", "it|'s| | IT|'S| |123|4");
    expect("dbrx", "x'\xc5\xbf!\n\ny", "x|'\xc5\xbf|!\n\n|y"); /* a long s is an s */
    expect("gpt-2", "x'\xc5\xbf", "x|'|\xc5\xbf");
    expect("dbrx", "a  \n \n b", "a|  \n \n| b");
}

/* U+180E is no white space, U+3000 and U+0085 are. */
static void test_pretokenizer_takes_unicode_white_space(void **state) {
    (void)state;
    expect("gpt-2", "a\xe1\xa0\x8e!", "a|\xe1\xa0\x8e!");
    expect("dbrx", "a\n\xe1\xa0\x8e\n", "a|\n|\xe1\xa0\x8e\n");
    expect("gpt-2", "a\xe3\x80\x80 b", "a|\xe3\x80\x80| b");
    expect("gpt-2", "a\xc2\x85 b", "a|\xc2\x85| b");
    expect("gpt-2", "a\x1c b", "a|\x1c| b");
    expect("gpt-2", "a\x1c!", "a|\x1c!");
}

/* Each stage sees a piece alone: "  " in front of punctuation ends its piece. */
static void test_pretokenizer_runs_stages_alone(void **state) {
    (void)state;
    expect("default", "a  .b", "a|  |.|b");
    expect("gpt-2", "a  .b", "a| | .|b");
    expect("default", "a12345b", "a|123|45|b");
    expect("default", "x= \xd9\xa1\xd9\xa2\x31\x32\x33\x34", "x|=| |\xd9\xa1\xd9\xa2|123|4");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pretokenizer_knows_names_exactly),
        cmocka_unit_test(test_pretokenizer_splits_words),
        cmocka_unit_test(test_pretokenizer_takes_unicode_white_space),
        cmocka_unit_test(test_pretokenizer_runs_stages_alone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
