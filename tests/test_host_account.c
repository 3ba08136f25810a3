#include "store/host_account.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

enum { BLOCK = 4096, SLOT = 3 << 20, CAP = 10 << 20 };

static void *take(struct host_account *account, size_t bytes) {
    void *memory = NULL;
    assert_int_equal(host_account_take(account, bytes, &memory), ERR_OK);
    memset(memory, 0x5a, bytes); /* all of it is there */
    return memory;
}

static void test_host_account_gives_the_same_memory_again(void **state) {
    struct host_account account;
    (void)state;
    host_account_init(&account, CAP, BLOCK, SLOT);
    void *slot = take(&account, SLOT);
    void *first = take(&account, BLOCK);
    void *second = take(&account, BLOCK);
    host_account_give(&account, first, BLOCK);
    host_account_give(&account, slot, SLOT);
    assert_int_equal(account.used_bytes, BLOCK);
    assert_int_equal(account.spare_bytes, BLOCK + SLOT);
    assert_ptr_equal(take(&account, SLOT), slot);
    assert_ptr_equal(take(&account, BLOCK), first);
    assert_int_equal(account.spare_bytes, 0);
    host_account_give(&account, slot, SLOT);
    host_account_give(&account, first, BLOCK);
    host_account_give(&account, second, BLOCK);
    host_account_done(&account);
}

/* What is kept makes room for another size: the cap is of all that is held. */
static void test_host_account_holds_no_more_than_its_cap(void **state) {
    struct host_account account;
    void *slots[3];
    void *blocks[CAP / BLOCK];
    void *none = NULL;
    (void)state;
    host_account_init(&account, CAP, BLOCK, SLOT);
    for (size_t i = 0; i < ARRAY_LEN(slots); i++) {
        slots[i] = take(&account, SLOT);
    }
    assert_int_equal(host_account_take(&account, SLOT, &none), ERR_FULL);
    for (size_t i = 0; i < ARRAY_LEN(slots); i++) {
        host_account_give(&account, slots[i], SLOT);
    }
    for (size_t i = 0; i < ARRAY_LEN(blocks); i++) {
        blocks[i] = take(&account, BLOCK);
        assert_true(account.used_bytes + account.spare_bytes <= CAP);
    }
    assert_int_equal(host_account_take(&account, BLOCK, &none), ERR_FULL);
    for (size_t i = 0; i < ARRAY_LEN(blocks); i++) {
        host_account_give(&account, blocks[i], BLOCK);
    }
    assert_int_equal(account.spare_bytes, CAP);
    void *slot = take(&account, SLOT);
    assert_true(account.used_bytes + account.spare_bytes <= CAP);
    host_account_give(&account, slot, SLOT);
    host_account_done(&account);
}

static void test_host_account_keeps_no_other_size(void **state) {
    struct host_account account;
    (void)state;
    host_account_init(&account, CAP, BLOCK, SLOT);
    void *memory = take(&account, 1000);
    host_account_give(&account, memory, 1000);
    assert_int_equal(account.used_bytes + account.spare_bytes, 0);
    host_account_give(&account, NULL, BLOCK);
    host_account_done(&account);
}

/* A model without recurrent layers has slots of no bytes. */
static void test_host_account_knows_sizes_of_nothing(void **state) {
    struct host_account account;
    (void)state;
    host_account_init(&account, CAP, BLOCK, 0);
    void *memory = take(&account, 0);
    host_account_give(&account, memory, 0);
    assert_int_equal(account.spare_bytes, 0);
    host_account_done(&account);
}

static void test_host_account_takes_warm_memory_as_spare(void **state) {
    struct host_account account;
    (void)state;
    host_account_init(&account, CAP, BLOCK, SLOT);
    void *warm = host_account_warm(SLOT);
    host_account_add(&account, warm, SLOT);
    assert_int_equal(account.used_bytes, 0);
    assert_int_equal(account.spare_bytes, SLOT);
    assert_ptr_equal(take(&account, SLOT), warm);
    for (int i = 0; i < 5; i++) { /* a cap of three of them and some */
        host_account_add(&account, host_account_warm(SLOT), SLOT);
        assert_true(account.used_bytes + account.spare_bytes <= CAP);
    }
    host_account_add(&account, host_account_warm(1000), 1000); /* no size of ours */
    host_account_add(&account, NULL, SLOT);
    assert_int_equal(account.spare_bytes, 2 * SLOT);
    host_account_give(&account, warm, SLOT);
    host_account_done(&account);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_host_account_gives_the_same_memory_again),
        cmocka_unit_test(test_host_account_holds_no_more_than_its_cap),
        cmocka_unit_test(test_host_account_keeps_no_other_size),
        cmocka_unit_test(test_host_account_knows_sizes_of_nothing),
        cmocka_unit_test(test_host_account_takes_warm_memory_as_spare),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
