#include "engine/demo/demo_model.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "engine/model_shape.h"
#include "engine/tokenizer.h"

#include <string.h>

#define DEMO_FILE TERN_TEST_DATA "/../../engine/demo/tern-demo-q8_0.gguf"

static struct gguf *parse(void) {
    struct gguf *file;
    size_t bytes;
    const void *data = demo_model_data(&bytes);
    assert_int_equal((uintptr_t)data % 64, 0);
    assert_int_equal(gguf_parse(data, bytes, &file), ERR_OK);
    return file;
}

static void test_demo_model_is_the_file_byte_for_byte(void **state) {
    (void)state;
    struct gguf *file;
    size_t bytes;
    size_t file_bytes;
    const void *data = demo_model_data(&bytes);
    assert_int_equal(gguf_open(DEMO_FILE, &file), ERR_OK);
    const void *file_data = gguf_data(file, &file_bytes);
    assert_int_equal(bytes, file_bytes);
    assert_int_equal(memcmp(data, file_data, bytes), 0);
    gguf_close(file);
}

static void test_demo_model_is_a_hybrid(void **state) {
    (void)state;
    struct gguf *file = parse();
    struct model_shape shape;
    struct layout layout;
    assert_int_equal(model_shape_read(file, &shape), ERR_OK);
    assert_int_equal(model_shape_layout(&shape, 32, DTYPE_F16, &layout), ERR_OK);
    assert_string_equal(shape.architecture, "granitehybrid");
    assert_int_equal(shape.vocabulary, 2048);
    assert_int_equal(shape.context, 8192);
    assert_int_equal(layout.kv_count, 2);
    assert_int_equal(layout.state_count, 2 * 4);
    assert_int_equal(layout.slot_bytes, 555008);
    assert_int_equal(layout.token_bytes, 1024);
    layout_done(&layout);
    model_shape_done(&shape);
    gguf_close(file);
}

static void test_demo_model_has_its_vocabulary(void **state) {
    (void)state;
    struct gguf *file = parse();
    struct tokenizer *tokenizer;
    assert_int_equal(tokenizer_create(file, &tokenizer), ERR_OK);
    tokenizer_destroy(tokenizer);
    gguf_close(file);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_demo_model_is_the_file_byte_for_byte),
        cmocka_unit_test(test_demo_model_is_a_hybrid),
        cmocka_unit_test(test_demo_model_has_its_vocabulary),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
