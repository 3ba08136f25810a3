#include "tools/npy.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

enum { PATH_BYTES = 64 };

static int make_path(void **state) {
    char *path = malloc(PATH_BYTES);
    assert_non_null(path);
    strcpy(path, "/tmp/test_npy_XXXXXX");
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    *state = path;
    return 0;
}

static int remove_path(void **state) {
    unlink(*state);
    free(*state);
    return 0;
}

static void test_npy_writes_what_numpy_reads(void **state) {
    const char *path = *state;
    const float rows[2][3] = {{1.0f, -2.5f, 0.0f}, {3e30f, -0.0f, 7.0f}};
    struct npy npy;
    uint8_t bytes[1024];
    assert_int_equal(npy_create(path, 2, 3, &npy), ERR_OK);
    assert_int_equal(npy_write_row(&npy, rows[0]), ERR_OK);
    assert_int_equal(npy_write_row(&npy, rows[1]), ERR_OK);
    assert_int_equal(npy_finish(&npy), ERR_OK);
    npy_abandon(&npy); /* does nothing any more */

    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    size_t len = fread(bytes, 1, sizeof bytes, file);
    fclose(file);
    assert_memory_equal(bytes, "\x93NUMPY\x01\x00", 8);
    size_t header = 10 + bytes[8] + 256u * bytes[9];
    assert_int_equal(header % 64, 0);
    assert_int_equal(bytes[header - 1], '\n');
    for (size_t i = header - 2; bytes[i] != '}'; i--) {
        assert_int_equal(bytes[i], ' ');
    }
    assert_int_equal(len, header + sizeof rows);
    bytes[header - 1] = '\0';
    assert_non_null(strstr((const char *)bytes + 10, "'descr': '<f4'"));
    assert_non_null(strstr((const char *)bytes + 10, "'fortran_order': False"));
    assert_non_null(strstr((const char *)bytes + 10, "'shape': (2, 3)"));
    assert_memory_equal(bytes + header, rows, sizeof rows);
}

static void test_npy_abandoned_leaves_no_file(void **state) {
    const char *path = *state;
    struct npy npy;
    assert_int_equal(npy_create(path, 2, 1, &npy), ERR_OK);
    npy_abandon(&npy);
    assert_int_not_equal(access(path, F_OK), 0);
}

static void test_npy_names_a_path_that_cannot_be_written(void **state) {
    (void)state;
    struct npy npy;
    assert_int_equal(npy_create("/nonexistent/x.npy", 1, 1, &npy), ERR_IO);
    assert_non_null(strstr(err_message(), "/nonexistent/x.npy"));
}

/* A full disk fails at the end at the latest, and what the caller named stays if it is no file. */
static void test_npy_full_disk_is_an_error(void **state) {
    (void)state;
    const char *path = "/dev/full";
    const float row[4] = {0};
    struct npy npy;
    struct stat status;
    if (access(path, W_OK) != 0) {
        skip();
    }
    assert_int_equal(npy_create(path, 1, 4, &npy), ERR_OK);
    enum err code = npy_write_row(&npy, row);
    if (code == ERR_OK) {
        code = npy_finish(&npy);
    }
    assert_int_equal(code, ERR_IO);
    assert_non_null(strstr(err_message(), path));
    npy_abandon(&npy);
    assert_int_equal(stat(path, &status), 0);
}

/* A pipe stands for every device that the caller may name. */
static void test_npy_abandoned_pipe_stays(void **state) {
    const char *path = *state;
    struct npy npy;
    struct stat status;
    unlink(path);
    assert_int_equal(mkfifo(path, 0600), 0);
    FILE *reader = fopen(path, "r+b"); /* so that opening to write does not wait */
    assert_non_null(reader);
    assert_int_equal(npy_create(path, 1, 1, &npy), ERR_OK);
    npy_abandon(&npy);
    assert_int_equal(stat(path, &status), 0);
    fclose(reader);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_npy_writes_what_numpy_reads, make_path, remove_path),
        cmocka_unit_test_setup_teardown(test_npy_abandoned_leaves_no_file, make_path, remove_path),
        cmocka_unit_test(test_npy_names_a_path_that_cannot_be_written),
        cmocka_unit_test_setup_teardown(test_npy_abandoned_pipe_stays, make_path, remove_path),
        cmocka_unit_test(test_npy_full_disk_is_an_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
