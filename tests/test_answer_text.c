#include "base/pcg32.h"
#include "engine/answer_text.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { OUT_BYTES = 4096, STOPS_MAX = 3 };

struct answer {
    struct answer_text text;
    char out[OUT_BYTES];
    size_t len;
};

static void answer_init(struct answer *answer, const char *const *stops, size_t count) {
    size_t lens[STOPS_MAX];
    assert_true(count <= STOPS_MAX);
    for (size_t i = 0; i < count; i++) {
        lens[i] = strlen(stops[i]);
    }
    *answer = (struct answer){0};
    assert_int_equal(answer_text_init(&answer->text, stops, lens, count), ERR_OK);
}

static void take(struct answer *answer, const char *bytes, size_t len) {
    assert_true(answer->len + len < OUT_BYTES);
    if (len > 0) {
        memcpy(answer->out + answer->len, bytes, len);
    }
    answer->len += len;
    answer->out[answer->len] = '\0';
}

static void push(struct answer *answer, const char *token) {
    const char *bytes = NULL;
    size_t len = 0;
    assert_int_equal(answer_text_push(&answer->text, token, strlen(token), &bytes, &len), ERR_OK);
    take(answer, bytes, len);
}

static void finish(struct answer *answer) {
    const char *bytes = NULL;
    size_t len = 0;
    assert_int_equal(answer_text_finish(&answer->text, &bytes, &len), ERR_OK);
    take(answer, bytes, len);
}

static void test_answer_text_passes_text_through_at_once(void **state) {
    (void)state;
    struct answer answer;
    answer_init(&answer, NULL, 0);
    push(&answer, "Hel");
    assert_string_equal(answer.out, "Hel");
    push(&answer, "lo");
    assert_string_equal(answer.out, "Hello");
    finish(&answer);
    assert_string_equal(answer.out, "Hello");
    assert_false(answer.text.is_stopped);
    answer_text_done(&answer.text);
}

static void test_answer_text_ends_before_a_stop_over_tokens(void **state) {
    (void)state;
    struct answer answer;
    answer_init(&answer, (const char *const[]){"</end>"}, 1);
    push(&answer, "one <");
    assert_string_equal(answer.out, "one "); /* what may begin a stop is held */
    push(&answer, "/e");
    push(&answer, "n");
    assert_string_equal(answer.out, "one ");
    push(&answer, "d> two");
    assert_string_equal(answer.out, "one ");
    assert_true(answer.text.is_stopped);
    push(&answer, "three");
    finish(&answer);
    assert_string_equal(answer.out, "one ");
    answer_text_done(&answer.text);
}

static void test_answer_text_gives_back_what_was_no_stop(void **state) {
    (void)state;
    struct answer answer;
    answer_init(&answer, (const char *const[]){"aab"}, 1);
    push(&answer, "aa");
    assert_string_equal(answer.out, "");
    push(&answer, "a"); /* the first cannot begin it any more, the last two can */
    assert_string_equal(answer.out, "a");
    push(&answer, "c");
    assert_string_equal(answer.out, "aaac");
    push(&answer, "xaa");
    finish(&answer);
    assert_string_equal(answer.out, "aaacxaa");
    assert_false(answer.text.is_stopped);
    answer_text_done(&answer.text);
}

/* The one that begins first ends the text, even if another is whole earlier in time. */
static void test_answer_text_with_overlapping_stops(void **state) {
    (void)state;
    struct answer answer;
    answer_init(&answer, (const char *const[]){"bcd", "abcde"}, 2);
    push(&answer, "xabc");
    assert_string_equal(answer.out, "x");
    push(&answer, "de");
    assert_true(answer.text.is_stopped);
    assert_string_equal(answer.out, "x");
    answer_text_done(&answer.text);

    answer_init(&answer, (const char *const[]){"bcd", "abcde"}, 2);
    push(&answer, "xabcd");
    assert_false(answer.text.is_stopped); /* "abcde" may still come */
    finish(&answer);
    assert_true(answer.text.is_stopped);
    assert_string_equal(answer.out, "xa");
    answer_text_done(&answer.text);

    answer_init(&answer, (const char *const[]){"bcd", "abcde"}, 2);
    push(&answer, "xabcd!");
    finish(&answer);
    assert_true(answer.text.is_stopped);
    assert_string_equal(answer.out, "xa");
    answer_text_done(&answer.text);
}

static void test_answer_text_never_splits_a_character(void **state) {
    (void)state;
    struct answer answer;
    answer_init(&answer, (const char *const[]){"\xc3\xbc"}, 1); /* u with two dots */
    push(&answer, "g\xc3");
    assert_string_equal(answer.out, "g");
    push(&answer, "\xa4"); /* a with two dots: shares the first byte */
    assert_string_equal(answer.out, "g\xc3\xa4");
    push(&answer, "\xf0\x9f\x98");
    assert_string_equal(answer.out, "g\xc3\xa4");
    push(&answer, "\x80");
    assert_string_equal(answer.out, "g\xc3\xa4\xf0\x9f\x98\x80");
    push(&answer, "\xc3");
    push(&answer, "\xbc");
    assert_true(answer.text.is_stopped);
    assert_string_equal(answer.out, "g\xc3\xa4\xf0\x9f\x98\x80");
    answer_text_done(&answer.text);
}

static void test_answer_text_cut_character_becomes_a_replacement(void **state) {
    (void)state;
    struct answer answer;
    answer_init(&answer, (const char *const[]){"zz"}, 1);
    push(&answer, "z\xe2\x82");
    assert_string_equal(answer.out, "");
    finish(&answer);
    assert_string_equal(answer.out, "z\xef\xbf\xbd");
    answer_text_done(&answer.text);
}

static void test_answer_text_refuses_an_empty_stop(void **state) {
    (void)state;
    struct answer_text text;
    assert_int_equal(answer_text_init(&text, (const char *const[]){"a", ""}, (size_t[]){1, 0}, 2),
                     ERR_INVALID);
    assert_non_null(strstr(err_message(), "1"));
}

/* --- against a model that knows all of the text ----------------------------------------- */

/* Where the first stop begins in TEXT; the length when there is none. Among stops that are whole,
 * the leftmost beginning counts, but one is taken as soon as no earlier beginning can become whole:
 * in a whole text that is simply the leftmost. */
static size_t naive_end(const char *text, const char *const *stops, size_t count) {
    size_t best = strlen(text);
    for (size_t i = 0; i < count; i++) {
        const char *found = strstr(text, stops[i]);
        if (found != NULL && (size_t)(found - text) < best) {
            best = (size_t)(found - text);
        }
    }
    return best;
}

/* Longest end of the first LEN bytes of TEXT that begins some stop. */
static size_t naive_held(const char *text, size_t len, const char *const *stops, size_t count) {
    for (size_t at = 0; at < len; at++) {
        for (size_t i = 0; i < count; i++) {
            if (strncmp(text + at, stops[i], len - at) == 0 && len - at < strlen(stops[i])) {
                return len - at;
            }
        }
    }
    return 0;
}

/* Random texts and stops over two letters, cut at random: always what the model says, and no byte
 * is held back that could go. */
static void test_answer_text_is_what_a_naive_model_gives(void **state) {
    (void)state;
    struct pcg32 random;
    pcg32_init(&random, 7, 0);
    for (int round = 0; round < 20000; round++) {
        char text[41], stop_texts[STOPS_MAX][6];
        const char *stops[STOPS_MAX];
        size_t len = pcg32_next(&random) % 40, count = pcg32_next(&random) % (STOPS_MAX + 1);
        for (size_t i = 0; i < len; i++) {
            text[i] = "ab"[pcg32_next(&random) % 2];
        }
        text[len] = '\0';
        for (size_t i = 0; i < count; i++) {
            size_t stop_len = 1 + pcg32_next(&random) % 5;
            for (size_t k = 0; k < stop_len; k++) {
                stop_texts[i][k] = "ab"[pcg32_next(&random) % 2];
            }
            stop_texts[i][stop_len] = '\0';
            stops[i] = stop_texts[i];
        }
        struct answer answer;
        answer_init(&answer, stops, count);
        size_t end = naive_end(text, stops, count);
        for (size_t at = 0; at < len && !answer.text.is_stopped;) {
            char token[8] = {0};
            size_t step = 1 + pcg32_next(&random) % 5;
            step = step < len - at ? step : len - at;
            memcpy(token, text + at, step);
            push(&answer, token);
            at += step;
            if (!answer.text.is_stopped) {
                assert_int_equal(answer.len, at - naive_held(text, at, stops, count));
            }
        }
        finish(&answer);
        assert_int_equal(answer.len, end);
        assert_memory_equal(answer.out, text, end);
        assert_int_equal(answer.text.is_stopped, end < len);
        answer_text_done(&answer.text);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_answer_text_passes_text_through_at_once),
        cmocka_unit_test(test_answer_text_ends_before_a_stop_over_tokens),
        cmocka_unit_test(test_answer_text_gives_back_what_was_no_stop),
        cmocka_unit_test(test_answer_text_with_overlapping_stops),
        cmocka_unit_test(test_answer_text_never_splits_a_character),
        cmocka_unit_test(test_answer_text_cut_character_becomes_a_replacement),
        cmocka_unit_test(test_answer_text_refuses_an_empty_stop),
        cmocka_unit_test(test_answer_text_is_what_a_naive_model_gives),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
