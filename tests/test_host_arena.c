#include "gpu/host/host_arena.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

static struct host_arena *create_arena(void) {
    struct host_arena *arena;
    assert_int_equal(host_arena_create(&arena), ERR_OK);
    return arena;
}

static uint8_t *take(struct host_arena *arena, size_t bytes) {
    void *memory;
    assert_int_equal(host_arena_take(arena, bytes, &memory), ERR_OK);
    assert_int_equal((uintptr_t)memory % 4096, 0);
    return memory;
}

static void test_host_arena_places_small_runs_side_by_side(void **state) {
    (void)state;
    struct host_arena *arena = create_arena();
    uint8_t *first = take(arena, 5000);
    uint8_t *second = take(arena, 1);
    assert_ptr_equal(second, first + host_arena_rounded_bytes(5000));
    host_arena_give(arena, first, 5000);
    host_arena_give(arena, second, 1);
    host_arena_destroy(arena);
}

static void test_host_arena_gives_zeroed_memory_whatever_was_given_back(void **state) {
    (void)state;
    enum { BYTES = 100000 };
    static const uint8_t zeros[BYTES];
    struct host_arena *arena = create_arena();
    uint8_t *kept = take(arena, BYTES);
    memset(kept, 7, BYTES);
    for (int i = 0; i < 5; i++) {
        uint8_t *memory = take(arena, BYTES);
        assert_memory_equal(memory, zeros, BYTES);
        memset(memory, 0xff, BYTES);
        host_arena_give(arena, memory, BYTES);
    }
    for (int i = 0; i < BYTES; i++) {
        assert_int_equal(kept[i], 7);
    }
    host_arena_give(arena, kept, BYTES);
    host_arena_destroy(arena);
}

/* Past the end of one mapping, and larger than one. */
static void test_host_arena_grows(void **state) {
    (void)state;
    enum { RUNS = 4 };
    const size_t bytes = (size_t)100 << 20;
    struct host_arena *arena = create_arena();
    uint8_t *runs[RUNS];
    for (int i = 0; i < RUNS; i++) {
        runs[i] = take(arena, bytes);
        runs[i][0] = (uint8_t)i;
        runs[i][bytes - 1] = (uint8_t)i;
    }
    uint8_t *large = take(arena, 4 * bytes);
    large[4 * bytes - 1] = 1;
    for (int i = 0; i < RUNS; i++) {
        assert_int_equal(runs[i][0] + runs[i][bytes - 1], 2 * i);
        host_arena_give(arena, runs[i], bytes);
    }
    host_arena_give(arena, large, 4 * bytes);
    host_arena_destroy(arena);
}

static void test_host_arena_refuses_what_cannot_be(void **state) {
    (void)state;
    struct host_arena *arena = create_arena();
    void *memory = NULL;
    assert_int_equal(host_arena_take(arena, 0, &memory), ERR_NOMEM);
    assert_int_equal(host_arena_take(arena, SIZE_MAX - 5, &memory), ERR_NOMEM);
    assert_int_equal(host_arena_take(arena, SIZE_MAX / 2, &memory), ERR_NOMEM);
    assert_null(memory);
    host_arena_destroy(arena);
    host_arena_destroy(NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_host_arena_places_small_runs_side_by_side),
        cmocka_unit_test(test_host_arena_gives_zeroed_memory_whatever_was_given_back),
        cmocka_unit_test(test_host_arena_grows),
        cmocka_unit_test(test_host_arena_refuses_what_cannot_be),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
