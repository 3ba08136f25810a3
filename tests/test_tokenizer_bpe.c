#include "engine/tokenizer_bpe.h"

#include "tests/gguf/vocabulary_image.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { MERGES_MAX = 64, TEXT_MAX = 48, LETTERS = 3 };

/* Random merges over a few letters; each builds on letters or on earlier results. */
struct merge_set {
    char texts[MERGES_MAX][TEXT_MAX];   /* "left right" */
    char results[MERGES_MAX][TEXT_MAX]; /* left and right joined */
    size_t count;
    struct vocabulary_image_token tokens[MERGES_MAX]; /* each result once */
    size_t token_count;
    const char *merges[MERGES_MAX];
};

static void pick_part(const struct merge_set *set, char out[TEXT_MAX]) {
    size_t pick = (size_t)rand() % (LETTERS + set->count);
    if (pick < LETTERS) {
        snprintf(out, TEXT_MAX, "%c", (char)('a' + pick));
    } else {
        snprintf(out, TEXT_MAX, "%s", set->results[pick - LETTERS]);
    }
}

static int is_known(const struct merge_set *set, const char *text) {
    for (size_t i = 0; i < set->count; i++) {
        if (strcmp(set->texts[i], text) == 0) {
            return 1;
        }
    }
    return 0;
}

static void make_merges(struct merge_set *set, size_t count) {
    *set = (struct merge_set){0};
    while (set->count < count) {
        char left[TEXT_MAX];
        char right[TEXT_MAX];
        char text[2 * TEXT_MAX];
        pick_part(set, left);
        pick_part(set, right);
        snprintf(text, sizeof text, "%s %s", left, right);
        if (strlen(text) > 12 || is_known(set, text)) {
            count--; /* fewer then */
            continue;
        }
        char *result = set->results[set->count];
        snprintf(set->texts[set->count], TEXT_MAX, "%.40s", text);
        snprintf(result, TEXT_MAX, "%.20s%.20s", left, right);
        set->merges[set->count] = set->texts[set->count];
        int is_new = 1;
        for (size_t i = 0; i < set->token_count; i++) {
            is_new = is_new && strcmp(set->tokens[i].text, result) != 0;
        }
        if (is_new) {
            set->tokens[set->token_count++] = (struct vocabulary_image_token){result, 1};
        }
        set->count++;
    }
}

/* The rule as it is written: the lowest rank of all adjacent pairs, leftmost first. */
static size_t merge_naively(const struct merge_set *set, const char *piece, size_t len,
                            char symbols[][TEXT_MAX]) {
    size_t count = len;
    for (size_t i = 0; i < len; i++) {
        snprintf(symbols[i], TEXT_MAX, "%c", piece[i]);
    }
    for (size_t rank = 0; rank < set->count;) {
        size_t at = 0;
        for (; at + 1 < count; at++) {
            const char *text = set->texts[rank];
            size_t left = strlen(symbols[at]);
            if (strncmp(text, symbols[at], left) == 0 && text[left] == ' ' &&
                strcmp(text + left + 1, symbols[at + 1]) == 0) {
                break;
            }
        }
        if (at + 1 >= count) {
            rank++;
            continue;
        }
        snprintf(symbols[at], TEXT_MAX, "%s", set->results[rank]);
        memmove(symbols[at + 1], symbols[at + 2], (count - at - 2) * TEXT_MAX);
        count--;
        rank = 0; /* a join may have made a pair of lower rank */
    }
    return count;
}

static void check_piece(const struct merge_set *set, const struct tokenizer *tokenizer) {
    char piece[64];
    char symbols[64][TEXT_MAX];
    size_t len = 1 + (size_t)rand() % (sizeof piece - 1);
    for (size_t i = 0; i < len; i++) {
        piece[i] = (char)('a' + rand() % LETTERS);
    }
    size_t want = merge_naively(set, piece, len, symbols);
    struct token_list list = {0};
    struct tokenizer_encode_params params = {.text = piece, .len = len};
    assert_int_equal(tokenizer_encode(tokenizer, &params, &list), ERR_OK);
    assert_int_equal(list.count, want);
    for (size_t i = 0; i < want; i++) {
        const char *bytes;
        size_t bytes_len;
        assert_int_equal(tokenizer_piece(tokenizer, list.ids[i], 0, &bytes, &bytes_len), ERR_OK);
        assert_int_equal(bytes_len, strlen(symbols[i]));
        assert_memory_equal(bytes, symbols[i], bytes_len);
    }
    token_list_done(&list);
}

static void test_tokenizer_bpe_merges_as_the_rule_says(void **state) {
    (void)state;
    srand(7);
    for (int round = 0; round < 60; round++) {
        struct merge_set set;
        make_merges(&set, 1 + (size_t)rand() % MERGES_MAX);
        struct vocabulary_image spec = {
            .model = "gpt2",
            .pre = "gpt-2",
            .tokens = set.tokens,
            .token_count = set.token_count,
            .merges = set.merges,
            .merge_count = set.count,
            .leaves_out_byte = -1,
        };
        struct tokenizer *tokenizer;
        assert_int_equal(vocabulary_image_load(&spec, &tokenizer), ERR_OK);
        for (int i = 0; i < 60; i++) {
            check_piece(&set, tokenizer);
        }
        tokenizer_destroy(tokenizer);
    }
}

static struct token_list encode(const struct tokenizer *tokenizer, const char *text) {
    struct token_list list = {0};
    struct tokenizer_encode_params params = {.text = text, .len = strlen(text)};
    assert_int_equal(tokenizer_encode(tokenizer, &params, &list), ERR_OK);
    return list;
}

static void expect(const struct tokenizer *tokenizer, const char *text, const int32_t *ids,
                   size_t count) {
    struct token_list list = encode(tokenizer, text);
    assert_int_equal(list.count, count);
    assert_memory_equal(list.ids, ids, count * sizeof *ids);
    token_list_done(&list);
}

/* "abc" is a token that no merge reaches: only ignore_merges finds it, and for whole pieces. */
static void test_tokenizer_bpe_ignores_merges_only_by_name(void **state) {
    (void)state;
    static const struct vocabulary_image_token tokens[] = {{"abc", 1}, {"ab", 1}, {"xyz", 3}};
    static const char *const merges[] = {"a b"};
    struct vocabulary_image spec = {
        .model = "gpt2",
        .pre = "dbrx",
        .tokens = tokens,
        .token_count = ARRAY_LEN(tokens),
        .merges = merges,
        .merge_count = ARRAY_LEN(merges),
        .leaves_out_byte = -1,
    };
    struct tokenizer *tokenizer;
    assert_int_equal(vocabulary_image_load(&spec, &tokenizer), ERR_OK);
    expect(tokenizer, "abc", (const int32_t[]){257, 'c'}, 2);
    tokenizer_destroy(tokenizer);
    spec.pre = "falcon-h1";
    assert_int_equal(vocabulary_image_load(&spec, &tokenizer), ERR_OK);
    expect(tokenizer, "abc", (const int32_t[]){256}, 1);
    expect(tokenizer, "abca", (const int32_t[]){257, 'c', 'a'}, 3);
    expect(tokenizer, "xyz", (const int32_t[]){'x', 'y', 'z'}, 3); /* a control token's text */
    tokenizer_destroy(tokenizer);
}

/* Of a pair that comes twice the first rank counts; a merge to a control token is left out. */
static void test_tokenizer_bpe_leaves_useless_merges_out(void **state) {
    (void)state;
    static const struct vocabulary_image_token tokens[] = {{"ab", 1}, {"bc", 1}, {"de", 3}};
    static const char *const merges[] = {"a b", "d e", "b c", "a b"};
    struct vocabulary_image spec = {
        .model = "gpt2",
        .pre = "gpt-2",
        .tokens = tokens,
        .token_count = ARRAY_LEN(tokens),
        .merges = merges,
        .merge_count = ARRAY_LEN(merges),
        .leaves_out_byte = -1,
    };
    struct tokenizer *tokenizer;
    assert_int_equal(vocabulary_image_load(&spec, &tokenizer), ERR_OK);
    expect(tokenizer, "abc", (const int32_t[]){256, 'c'}, 2);
    expect(tokenizer, "de", (const int32_t[]){'d', 'e'}, 2);
    tokenizer_destroy(tokenizer);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tokenizer_bpe_merges_as_the_rule_says),
        cmocka_unit_test(test_tokenizer_bpe_ignores_merges_only_by_name),
        cmocka_unit_test(test_tokenizer_bpe_leaves_useless_merges_out),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
