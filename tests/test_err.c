#include "base/err.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

static enum err forward(enum err code, int *reached) {
    TRY(code);
    *reached = 1;
    return ERR_OK;
}

static void test_err_fail_keeps_code_and_message(void **state) {
    (void)state;
    assert_int_equal(err_fail(ERR_FORMAT, "key '%s' is %d", "a", 5), ERR_FORMAT);
    assert_string_equal(err_message(), "key 'a' is 5");
    err_clear();
    assert_string_equal(err_message(), "");
}

static void test_err_try_forwards_failures_only(void **state) {
    (void)state;
    int reached = 0;
    assert_int_equal(forward(ERR_BUSY, &reached), ERR_BUSY);
    assert_int_equal(reached, 0);
    assert_int_equal(forward(ERR_OK, &reached), ERR_OK);
    assert_int_equal(reached, 1);
}

static void test_err_context_stands_in_front(void **state) {
    (void)state;
    (void)err_fail(ERR_IO, "no such file");
    assert_int_equal(err_context(ERR_IO, "model '%s'", "x.gguf"), ERR_IO);
    assert_string_equal(err_message(), "model 'x.gguf': no such file");
    assert_int_equal(err_context(ERR_IO, "%s", err_message()), ERR_IO); /* itself as argument */
    assert_string_equal(err_message(),
                        "model 'x.gguf': no such file: model 'x.gguf': no such file");
}

/* Cut, terminated, and nothing written behind the end. */
static void test_err_long_messages_are_cut(void **state) {
    (void)state;
    char text[3000];
    memset(text, 'x', sizeof text);
    text[sizeof text - 1] = '\0';
    (void)err_fail(ERR_IO, "%s", text);
    size_t len = strlen(err_message());
    assert_true(len >= 200 && len < sizeof text - 1);
    (void)err_context(ERR_IO, "in front");
    assert_memory_equal(err_message(), "in front: xxx", 13);
    (void)err_context(ERR_IO, "%s", text);
    assert_int_equal(strlen(err_message()), len);
}

static void *fail_elsewhere(void *context) {
    (void)context;
    (void)err_fail(ERR_DEVICE, "of the other thread");
    return NULL;
}

static void test_err_message_belongs_to_the_thread(void **state) {
    (void)state;
    pthread_t thread;
    (void)err_fail(ERR_IO, "of this thread");
    assert_int_equal(pthread_create(&thread, NULL, fail_elsewhere, NULL), 0);
    pthread_join(thread, NULL);
    assert_string_equal(err_message(), "of this thread");
}

static void test_err_names_differ(void **state) {
    (void)state;
    assert_string_equal(err_name(ERR_OK), "ok");
    assert_string_equal(err_name(ERR_NOT_FOUND), "not_found");
    for (int one = ERR_OK; one <= ERR_CLOSED; one++) {
        assert_string_not_equal(err_name((enum err)one), "unknown");
        for (int other = ERR_OK; other < one; other++) {
            assert_string_not_equal(err_name((enum err)one), err_name((enum err)other));
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_err_fail_keeps_code_and_message),
        cmocka_unit_test(test_err_try_forwards_failures_only),
        cmocka_unit_test(test_err_context_stands_in_front),
        cmocka_unit_test(test_err_long_messages_are_cut),
        cmocka_unit_test(test_err_message_belongs_to_the_thread),
        cmocka_unit_test(test_err_names_differ),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
