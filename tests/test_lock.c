#include "store/lock.h"

#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static int setup(void **state) {
    char *dir = malloc(64);
    snprintf(dir, 64, "/tmp/tern-lock-XXXXXX");
    *state = dir;
    return mkdtemp(dir) == NULL ? -1 : 0;
}

static int teardown(void **state) {
    char command[96];
    snprintf(command, sizeof command, "rm -rf %s", (char *)*state);
    free(*state);
    return system(command);
}

static void test_lock_names_the_holder(void **state) {
    struct lock *first;
    struct lock *second = NULL;
    assert_int_equal(lock_acquire(*state, &first), ERR_OK);
    assert_int_equal(lock_acquire(*state, &second), ERR_BUSY);
    assert_null(second);
    char pid[32];
    snprintf(pid, sizeof pid, "process %ld", (long)getpid());
    assert_non_null(strstr(err_message(), pid));
    lock_release(first, 1);
    assert_int_equal(lock_acquire(*state, &second), ERR_OK);
    lock_release(second, 1);
}

static void test_lock_makes_a_private_directory(void **state) {
    char dir[96];
    struct stat stat_buf;
    struct lock *lock;
    snprintf(dir, sizeof dir, "%s/new", (char *)*state);
    assert_int_equal(lock_acquire(dir, &lock), ERR_OK);
    assert_true(lock_was_clean(lock));
    assert_int_equal(stat(dir, &stat_buf), 0);
    assert_int_equal(stat_buf.st_mode & 0777, 0700);
    strcat(dir, "/LOCK");
    assert_int_equal(stat(dir, &stat_buf), 0);
    assert_int_equal(stat_buf.st_mode & 0777, 0600);
    lock_release(lock, 1);
}

static void test_lock_tells_a_clean_end_from_a_crash(void **state) {
    struct lock *lock;
    assert_int_equal(lock_acquire(*state, &lock), ERR_OK);
    lock_release(lock, 1);
    assert_int_equal(lock_acquire(*state, &lock), ERR_OK);
    assert_true(lock_was_clean(lock));
    lock_release(lock, 0);
    assert_int_equal(lock_acquire(*state, &lock), ERR_OK);
    assert_false(lock_was_clean(lock));
    lock_release(lock, 1);
    pid_t child = fork();
    if (child == 0) {
        if (lock_acquire(*state, &lock) == ERR_OK) {
            raise(SIGKILL);
        }
        _exit(1);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status));
    assert_int_equal(lock_acquire(*state, &lock), ERR_OK); /* the lock went with the process */
    assert_false(lock_was_clean(lock));
    lock_release(lock, 1);
}

#define LOCK_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void) {
    const struct CMUnitTest tests[] = {
        LOCK_TEST(test_lock_names_the_holder),
        LOCK_TEST(test_lock_makes_a_private_directory),
        LOCK_TEST(test_lock_tells_a_clean_end_from_a_crash),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
