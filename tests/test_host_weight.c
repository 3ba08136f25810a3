#include "gpu/host/host_weight.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static uint32_t random_bits(uint32_t *seed) {
    *seed = *seed * 1664525u + 1013904223u;
    return *seed >> 8;
}

/* Random bytes as a GGUF matrix; every bit pattern is one a row must come back with. */
static uint8_t *random_matrix(enum dtype type, int rows, int columns, uint32_t seed) {
    size_t bytes = (size_t)rows * dtype_bytes(type, (size_t)columns);
    uint8_t *data = malloc(bytes);
    assert_non_null(data);
    for (size_t i = 0; i < bytes; i++) {
        data[i] = (uint8_t)random_bits(&seed);
    }
    return data;
}

struct bench {
    struct worker_pool *pool;
    struct host_arena *arena;
};

static struct host_weight *create_weight(const struct bench *bench, enum dtype type, int rows,
                                         int columns, const uint8_t *data) {
    struct device_weight_params params = {type, rows, columns, data};
    struct host_weight *weight;
    assert_int_equal(host_weight_create(bench->arena, bench->pool, &params, &weight), ERR_OK);
    return weight;
}

static void check_round_trip(const struct bench *bench, enum dtype type, int rows, int columns) {
    uint8_t *data = random_matrix(type, rows, columns, (uint32_t)(rows * 131 + columns));
    struct host_weight *weight = create_weight(bench, type, rows, columns, data);
    size_t row_bytes = dtype_bytes(type, (size_t)columns);
    uint8_t *row = malloc(row_bytes);
    assert_non_null(row);
    for (int r = 0; r < rows; r++) {
        memset(row, 0x5a, row_bytes);
        host_weight_get_row(weight, r, row);
        assert_memory_equal(row, data + (size_t)r * row_bytes, row_bytes);
    }
    assert_int_equal(weight->panel_count, (rows + 15) / 16);
    assert_int_equal(weight->panel_bytes % 64, 0);
    assert_int_equal((uintptr_t)weight->panels % 64, 0);
    assert_int_equal(host_weight_packed_bytes(type, rows, columns),
                     (size_t)weight->panel_count * weight->panel_bytes);
    assert_true(weight->mapped_bytes >= host_weight_packed_bytes(type, rows, columns));
    free(row);
    free(data);
    host_weight_destroy(weight);
}

static void test_host_weight_gives_rows_back(void **state) {
    static const int row_counts[] = {1, 15, 16, 17, 100};
    static const int column_counts[] = {1, 3, 32, 33, 96, 160};
    for (int type = 0; type < DTYPE_COUNT; type++) {
        for (size_t i = 0; i < ARRAY_LEN(row_counts); i++) {
            for (size_t j = 0; j < ARRAY_LEN(column_counts); j++) {
                if ((size_t)column_counts[j] % dtype_block_values((enum dtype)type) == 0) {
                    check_round_trip(*state, (enum dtype)type, row_counts[i], column_counts[j]);
                }
            }
        }
    }
}

/* Larger than a huge page, and than a worker's share. */
static void test_host_weight_gives_rows_of_a_large_matrix_back(void **state) {
    check_round_trip(*state, DTYPE_Q8_0, 2001, 1056);
    check_round_trip(*state, DTYPE_F16, 1003, 1500);
}

static void test_host_weight_places_values_as_declared(void **state) {
    enum { ROWS = 18, COLUMNS = 96, BLOCK_BYTES = 34 };
    uint8_t *data = random_matrix(DTYPE_Q8_0, ROWS, COLUMNS, 5);
    struct host_weight *weight = create_weight(*state, DTYPE_Q8_0, ROWS, COLUMNS, data);
    assert_int_equal(weight->panel_bytes, 2 * (64 + 2 * 512)); /* three blocks: two pairs */
    for (int row = 0; row < ROWS; row++) {
        const uint8_t *panel = weight->panels + (size_t)(row / 16) * weight->panel_bytes;
        for (int k = 0; k < COLUMNS; k++) {
            int block = k / 32;
            const uint8_t *from = data + (row * COLUMNS / 32 + block) * BLOCK_BYTES;
            const uint8_t *pair = panel + (block / 2) * 1088;
            const uint8_t *quants = pair + 64 + block % 2 * 512;
            assert_int_equal(quants[k % 32 / 4 * 64 + row % 16 * 4 + k % 4],
                             (uint8_t)(from[2 + k % 32] + 128));
            assert_memory_equal(pair + block % 2 * 32 + row % 16 * 2, from, 2);
        }
    }
    host_weight_destroy(weight);
    free(data);
}

/* A row past the end has scale 0 and quants 0, so that no NaN comes from unused lanes. */
static void test_host_weight_fills_the_last_panel_with_zero_rows(void **state) {
    enum { ROWS = 17, COLUMNS = 64 };
    uint8_t *data = random_matrix(DTYPE_Q8_0, ROWS, COLUMNS, 9);
    struct host_weight *weight = create_weight(*state, DTYPE_Q8_0, ROWS, COLUMNS, data);
    const uint8_t *panel = weight->panels + weight->panel_bytes;
    for (int lane = 1; lane < 16; lane++) {
        for (int block = 0; block < 2; block++) {
            const uint8_t *scale = panel + block * 32 + lane * 2;
            assert_int_equal(scale[0] | scale[1], 0);
            for (int k = 0; k < 32; k++) {
                assert_int_equal(panel[64 + block * 512 + k / 4 * 64 + lane * 4 + k % 4], 128);
            }
        }
    }
    host_weight_destroy(weight);
    free(data);
}

static void test_host_weight_refuses_broken_sizes(void **state) {
    static const uint8_t data[64];
    const struct bench *bench = *state;
    struct host_weight *weight = NULL;
    struct device_weight_params params = {DTYPE_Q8_0, 1, 33, data};
    assert_int_equal(host_weight_create(bench->arena, bench->pool, &params, &weight), ERR_INVALID);
    params = (struct device_weight_params){DTYPE_F32, 0, 4, data};
    assert_int_equal(host_weight_create(bench->arena, bench->pool, &params, &weight), ERR_INVALID);
    assert_null(weight);
    host_weight_destroy(NULL);
}

static int create_bench(void **state) {
    static struct bench bench;
    if (worker_pool_create(3, &bench.pool) != ERR_OK || host_arena_create(&bench.arena) != ERR_OK) {
        return -1;
    }
    *state = &bench;
    return 0;
}

static int destroy_bench(void **state) {
    struct bench *bench = *state;
    worker_pool_destroy(bench->pool);
    host_arena_destroy(bench->arena);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_host_weight_gives_rows_back),
        cmocka_unit_test(test_host_weight_gives_rows_of_a_large_matrix_back),
        cmocka_unit_test(test_host_weight_places_values_as_declared),
        cmocka_unit_test(test_host_weight_fills_the_last_panel_with_zero_rows),
        cmocka_unit_test(test_host_weight_refuses_broken_sizes),
    };
    return cmocka_run_group_tests(tests, create_bench, destroy_bench);
}
