#include "gpu/profile.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "gpu/op.h"

enum { COLUMNS = 64, OUT = 32, ROWS = 3 };

struct fixture {
    struct device *device;
    struct device_stream *stream;
    struct device_buffer *values;
    struct device_weight *q8;
    struct device_weight *f16;
};

static struct device_weight *create_weight(struct device *device, enum dtype type) {
    static const uint8_t zeros[OUT * COLUMNS * 4];
    struct device_weight *weight;
    struct device_weight_params params = {type, OUT, COLUMNS, zeros};
    assert_int_equal(device_weight_create(device, &params, &weight), ERR_OK);
    return weight;
}

static int set_up(void **state) {
    struct fixture *fixture = calloc(1, sizeof *fixture);
    assert_non_null(fixture);
    assert_int_equal(device_open(&(struct device_config){.threads = 2}, &fixture->device), ERR_OK);
    assert_int_equal(device_stream_create(fixture->device, DEVICE_STREAM_COMPUTE, &fixture->stream),
                     ERR_OK);
    assert_int_equal(device_buffer_create(fixture->device, 65536, &fixture->values), ERR_OK);
    fixture->q8 = create_weight(fixture->device, DTYPE_Q8_0);
    fixture->f16 = create_weight(fixture->device, DTYPE_F16);
    *state = fixture;
    return 0;
}

static int tear_down(void **state) {
    struct fixture *fixture = *state;
    device_weight_destroy(fixture->q8);
    device_weight_destroy(fixture->f16);
    device_buffer_destroy(fixture->values);
    device_stream_destroy(fixture->stream);
    device_close(fixture->device);
    free(fixture);
    return 0;
}

static struct device_ptr at(const struct fixture *fixture, size_t value) {
    return device_ptr_at(fixture->values, value * sizeof(float));
}

static void run_norm(struct fixture *fixture) {
    struct op_rms_norm op = {
        .rows = ROWS,
        .columns = COLUMNS,
        .in = at(fixture, 0),
        .in_stride = COLUMNS,
        .weight = at(fixture, 1024),
        .eps = 1e-5f,
        .out = at(fixture, 2048),
        .out_stride = COLUMNS,
    };
    assert_int_equal(op_rms_norm(fixture->stream, &op), ERR_OK);
}

static void run_product(struct fixture *fixture, const struct device_weight *weight) {
    struct op_matmul op = {
        .rows = ROWS, .in = at(fixture, 0), .in_stride = COLUMNS, .product_count = 1};
    op.products[0] =
        (struct op_product){.weight = weight, .out = at(fixture, 4096), .out_stride = OUT};
    assert_int_equal(op_matmul(fixture->stream, &op), ERR_OK);
}

static const struct profile_line *find(const struct profile_report *report, const char *name) {
    for (size_t i = 0; i < report->count; i++) {
        if (strcmp(report->lines[i].name, name) == 0) {
            return &report->lines[i];
        }
    }
    fail_msg("no line '%s'", name);
    return NULL;
}

static void test_profile_counts_ops_and_their_work(void **state) {
    struct fixture *fixture = *state;
    struct profile_report report;
    run_norm(fixture); /* before the start: not in it */
    assert_int_equal(device_stream_wait_idle(fixture->stream), ERR_OK);
    assert_int_equal(profile_start(fixture->device), ERR_OK);
    run_norm(fixture);
    run_norm(fixture);
    run_product(fixture, fixture->q8);
    assert_int_equal(device_stream_wait_idle(fixture->stream), ERR_OK);
    profile_stop(fixture->device, &report);
    assert_int_equal(report.count, 2);
    assert_int_equal(find(&report, "rms_norm")->count, 2);
    assert_true(find(&report, "rms_norm")->ns > 0);
    const struct profile_line *product = find(&report, "matmul 32 x 64");
    assert_int_equal(product->count, 1);
    assert_true(product->dot_ops == 2.0 * ROWS * OUT * COLUMNS);
    assert_true(product->float_ops == 0);
    assert_true(product->bytes == OUT * COLUMNS / 32 * 34);
}

static void test_profile_tells_float_products_from_integer_ones(void **state) {
    struct fixture *fixture = *state;
    struct profile_report report;
    assert_int_equal(profile_start(fixture->device), ERR_OK);
    run_product(fixture, fixture->f16);
    assert_int_equal(device_stream_wait_idle(fixture->stream), ERR_OK);
    profile_stop(fixture->device, &report);
    const struct profile_line *product = find(&report, "matmul 32 x 64");
    assert_true(product->float_ops == 2.0 * ROWS * OUT * COLUMNS);
    assert_true(product->dot_ops == 0);
    assert_true(product->bytes == OUT * COLUMNS * 2);
}

static void test_profile_begins_anew(void **state) {
    struct fixture *fixture = *state;
    struct profile_report report;
    profile_stop(fixture->device, &report);
    assert_int_equal(report.count, 0);
    assert_int_equal(profile_start(fixture->device), ERR_OK);
    run_norm(fixture);
    assert_int_equal(device_stream_wait_idle(fixture->stream), ERR_OK);
    assert_int_equal(profile_start(fixture->device), ERR_OK);
    profile_stop(fixture->device, &report);
    assert_int_equal(report.count, 0);
    run_norm(fixture); /* after the end: nowhere */
    assert_int_equal(device_stream_wait_idle(fixture->stream), ERR_OK);
}

static void test_profile_measures_every_isa(void **state) {
    static const char *const names[] = {"portable", "avx2", "avx512", "avx512vnni"};
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        struct device *device;
        struct profile_peaks peaks = {0};
        struct device_config config = {.isa = names[i], .threads = 2};
        if (device_open(&config, &device) != ERR_OK) {
            continue; /* not on this processor */
        }
        assert_int_equal(profile_measure_peaks(device, &peaks), ERR_OK);
        assert_true(peaks.dot_ops_per_s > 0);
        assert_true(peaks.float_ops_per_s > 0);
        assert_true(peaks.read_bytes_per_s > 0);
        device_close(device);
    }
}

static void test_profile_refuses_the_reference(void **state) {
    struct device *device;
    struct profile_peaks peaks;
    (void)state;
    assert_int_equal(device_open(&(struct device_config){.isa = "reference"}, &device), ERR_OK);
    assert_int_equal(profile_measure_peaks(device, &peaks), ERR_UNSUPPORTED);
    device_close(device);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_profile_counts_ops_and_their_work, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_profile_tells_float_products_from_integer_ones, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(test_profile_begins_anew, set_up, tear_down),
        cmocka_unit_test(test_profile_measures_every_isa),
        cmocka_unit_test(test_profile_refuses_the_reference),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
