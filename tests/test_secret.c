#include "tests/ledger_fixture.h"

#include <fcntl.h>

static void make_store(char path[64], char file[96]) {
    ledger_fixture_make_store(path);
    snprintf(file, 96, "%s/secret", path);
}

static void test_secret_is_made_once_and_private(void **state) {
    (void)state;
    char path[64];
    char file[96];
    struct secret first;
    struct secret second;
    struct stat status;
    make_store(path, file);
    assert_int_equal(secret_load(path, 0, &first), ERR_NOT_FOUND);
    assert_int_equal(secret_load(path, 1, &first), ERR_OK);
    assert_int_equal(stat(file, &status), 0);
    assert_int_equal(status.st_mode & 07777, 0600);
    assert_int_equal(secret_load(path, 1, &second), ERR_OK);
    assert_memory_equal(&first, &second, sizeof first);
    assert_int_equal(secret_load(path, 0, &second), ERR_OK);
    ledger_fixture_remove(path);
    make_store(path, file);
    assert_int_equal(secret_load(path, 1, &second), ERR_OK);
    assert_memory_not_equal(&first, &second, sizeof first);
    ledger_fixture_remove(path);
}

static void test_secret_refuses_a_file_that_is_not_its_own(void **state) {
    (void)state;
    char path[64];
    char file[96];
    uint8_t bytes[65];
    struct secret secret;
    struct secret read_back;
    make_store(path, file);
    assert_int_equal(secret_load(path, 1, &secret), ERR_OK);
    assert_int_equal(chmod(file, 0640), 0);
    assert_int_equal(secret_load(path, 1, &read_back), ERR_INVALID);
    assert_int_equal(chmod(file, 0600), 0);
    int fd = open(file, O_RDWR);
    assert_int_equal(read(fd, bytes, sizeof bytes), 64);
    for (size_t i = 0; i < 64; i++) {
        bytes[i] ^= 0x10;
        assert_int_equal(pwrite(fd, bytes, 64, 0), 64);
        enum err code = secret_load(path, 1, &read_back);
        assert_true(code == ERR_FORMAT || code == ERR_CORRUPT);
        bytes[i] ^= 0x10;
    }
    assert_int_equal(pwrite(fd, bytes, 64, 0), 64);
    assert_int_equal(secret_load(path, 1, &read_back), ERR_OK);
    assert_int_equal(ftruncate(fd, 63), 0);
    assert_int_equal(secret_load(path, 1, &read_back), ERR_FORMAT);
    assert_int_equal(ftruncate(fd, 65), 0);
    assert_int_equal(secret_load(path, 1, &read_back), ERR_FORMAT);
    close(fd);
    assert_int_equal(unlink(file), 0);
    assert_int_equal(symlink("/dev/zero", file), 0);
    assert_int_not_equal(secret_load(path, 1, &read_back), ERR_OK);
    ledger_fixture_remove(path);
}

static void test_secret_survives_a_leftover_of_a_crash(void **state) {
    (void)state;
    char path[64];
    char file[96];
    char aside[96];
    struct secret secret;
    make_store(path, file);
    snprintf(aside, sizeof aside, "%s/secret.tmp", path);
    int fd = open(aside, O_WRONLY | O_CREAT, 0600);
    assert_true(fd >= 0);
    close(fd);
    assert_int_equal(secret_load(path, 1, &secret), ERR_OK);
    assert_int_equal(access(aside, F_OK), -1);
    ledger_fixture_remove(path);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_secret_is_made_once_and_private),
        cmocka_unit_test(test_secret_refuses_a_file_that_is_not_its_own),
        cmocka_unit_test(test_secret_survives_a_leftover_of_a_crash),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
