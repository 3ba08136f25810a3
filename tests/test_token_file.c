#include "tools/token_file.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static void expect(const char *text, const int32_t *ids, size_t count) {
    struct token_list list = {0};
    assert_int_equal(token_file_parse(text, strlen(text), &list), ERR_OK);
    assert_int_equal(list.count, count);
    for (size_t i = 0; i < count; i++) {
        assert_int_equal(list.ids[i], ids[i]);
    }
    token_list_done(&list);
}

static void test_token_file_takes_ids_between_white_space(void **state) {
    (void)state;
    expect("1 2 3", (int32_t[]){1, 2, 3}, 3);
    expect("\n 0\t\r\n2147483647 \v\f", (int32_t[]){0, INT32_MAX}, 2);
    expect("007", (int32_t[]){7}, 1);
    expect("", NULL, 0);
    expect(" \n", NULL, 0);
}

static void test_token_file_skips_the_leading_word_only(void **state) {
    (void)state;
    struct token_list list = {0};
    expect("tokens: 4 5", (int32_t[]){4, 5}, 2);
    expect("tokens:", NULL, 0);
    assert_int_equal(token_file_parse("4 tokens: 5", 11, &list), ERR_FORMAT);
    assert_int_equal(token_file_parse("tokens:4", 8, &list), ERR_FORMAT);
    assert_int_equal(token_file_parse("tokens: tokens: 4", 17, &list), ERR_FORMAT);
    token_list_done(&list);
}

static void test_token_file_names_what_is_no_id_and_takes_nothing(void **state) {
    (void)state;
    static const char *const words[] = {"-1",         "1.0",         "0x1",  "1,2", "2147483648",
                                        "4294967296", "99999999999", "four", "+1"};
    struct token_list list = {0};
    assert_int_equal(token_file_parse("1 2", 3, &list), ERR_OK);
    for (size_t i = 0; i < ARRAY_LEN(words); i++) {
        char text[64];
        snprintf(text, sizeof text, "3 4 %s 5", words[i]);
        assert_int_equal(token_file_parse(text, strlen(text), &list), ERR_FORMAT);
        assert_non_null(strstr(err_message(), words[i]));
        assert_int_equal(list.count, 2); /* as before */
    }
    assert_int_equal(token_file_parse("1\0 2", 4, &list), ERR_FORMAT);
    token_list_done(&list);
}

static void test_token_file_reads_files(void **state) {
    (void)state;
    char path[] = "/tmp/test_token_file_XXXXXX";
    struct token_list list = {0};
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    FILE *file = fdopen(fd, "w");
    assert_non_null(file);
    for (int i = 0; i < 50000; i++) { /* more than one read */
        fprintf(file, "%d ", i);
    }
    assert_int_equal(fclose(file), 0);
    assert_int_equal(token_file_read(path, &list), ERR_OK);
    assert_int_equal(list.count, 50000);
    assert_int_equal(list.ids[49999], 49999);
    unlink(path);
    assert_int_equal(token_file_read(path, &list), ERR_IO);
    assert_non_null(strstr(err_message(), path));
    assert_int_equal(token_file_read("/tmp", &list), ERR_IO); /* a folder */
    assert_int_equal(list.count, 50000);
    token_list_done(&list);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_token_file_takes_ids_between_white_space),
        cmocka_unit_test(test_token_file_skips_the_leading_word_only),
        cmocka_unit_test(test_token_file_names_what_is_no_id_and_takes_nothing),
        cmocka_unit_test(test_token_file_reads_files),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
