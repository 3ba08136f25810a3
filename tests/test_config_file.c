#include "tools/config_file.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static char path[] = "/tmp/tern-config-XXXXXX";

static void write_file(const char *text) {
    strcpy(path, "/tmp/tern-config-XXXXXX");
    int descriptor = mkstemp(path);
    assert_true(descriptor >= 0);
    assert_int_equal(write(descriptor, text, strlen(text)), (ssize_t)strlen(text));
    close(descriptor);
}

static void test_config_file_comes_in_front_of_the_command_line(void **state) {
    (void)state;
    write_file("# a comment\n\n  port = 81 \r\nstore=/var/a = b\njson\n");
    char *argv[] = {"serve", "--port", "82", "--config", path, "--model", "m", NULL};
    struct config_file config;
    assert_int_equal(config_file_expand(7, argv, &config), ERR_OK);
    const char *expected[] = {
        "serve", "--port=81", "--store=/var/a = b", "--json", "--port", "82", "--model", "m"};
    assert_int_equal(config.argc, 8);
    for (int i = 0; i < config.argc; i++) {
        assert_string_equal(config.argv[i], expected[i]);
    }
    assert_null(config.argv[8]);
    config_file_done(&config);
    unlink(path);
}

static void test_config_file_names_the_line_that_is_wrong(void **state) {
    (void)state;
    static const char *const wrong[] = {"port = 1\nPort = 2\n", "port = 1\n= 2\n",
                                        "port = 1\nconfig = x\n", "a = 1\n-b = 2"};
    for (size_t i = 0; i < ARRAY_LEN(wrong); i++) {
        struct config_file config;
        char argument[64];
        write_file(wrong[i]);
        snprintf(argument, sizeof argument, "--config=%s", path);
        char *argv[] = {"serve", argument, NULL};
        assert_int_equal(config_file_expand(2, argv, &config), ERR_FORMAT);
        assert_non_null(strstr(err_message(), ":2:"));
        unlink(path);
    }
}

static void test_config_file_missing_is_an_error(void **state) {
    (void)state;
    struct config_file config;
    char *argv[] = {"serve", "--config", "/nonexistent/tern.conf", NULL};
    assert_int_equal(config_file_expand(3, argv, &config), ERR_IO);
    assert_non_null(strstr(err_message(), "/nonexistent/tern.conf"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_config_file_comes_in_front_of_the_command_line),
        cmocka_unit_test(test_config_file_names_the_line_that_is_wrong),
        cmocka_unit_test(test_config_file_missing_is_an_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
