#include "engine/model_shape.h"
#include "tests/gguf/model_image.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* Reads the shape of an image; the caller is done with *shape after ERR_OK. */
static enum err read_shape(const struct model_image *image, struct model_shape *shape) {
    size_t bytes;
    uint8_t *data = model_image_file(image, &bytes);
    struct gguf *file = NULL;
    assert_int_equal(gguf_parse(data, bytes, &file), ERR_OK);
    err_clear();
    enum err code = model_shape_read(file, shape);
    gguf_close(file);
    free(data);
    return code;
}

static void expect_refusal(const struct model_image *image, enum err want, const char *named) {
    struct model_shape shape = {.hidden = 77};
    assert_int_equal(read_shape(image, &shape), want);
    if (strstr(err_message(), named) == NULL) {
        fail_msg("expected '%s' in \"%s\"", named, err_message());
    }
    assert_int_equal(shape.hidden, 77);
}

static void test_model_shape_reads_every_size(void **state) {
    (void)state;
    struct model_image image = model_image_default();
    struct model_shape shape;
    image.head_size = 12;
    image.has_output = 1;
    assert_int_equal(read_shape(&image, &shape), ERR_OK);
    assert_string_equal(shape.architecture, "granitehybrid");
    assert_string_equal(shape.name, "made for tests");
    assert_int_equal(shape.hidden, 32);
    assert_int_equal(shape.vocabulary, 256);
    assert_int_equal(shape.context, 4096);
    assert_int_equal(shape.layer_count, 3);
    assert_true(shape.has_output_weight);
    assert_true(shape.norm_eps == 1e-5f && shape.embedding_scale == 3.0f);
    assert_true(shape.residual_scale == 0.5f && shape.attention_scale == 0.3f);
    assert_true(shape.logit_scale == 0.25f);
    assert_int_equal(shape.rope.pairs, 0);
    const struct model_mamba2 *mamba2 = &shape.layers[0].mamba2;
    assert_int_equal(mamba2->heads, 4);
    assert_int_equal(mamba2->head_size, 8);
    assert_int_equal(mamba2->state_size, 16);
    assert_int_equal(mamba2->groups, 2);
    assert_int_equal(mamba2->taps, 4);
    assert_int_equal(model_mamba2_channels(mamba2), 32 + 2 * 2 * 16);
    assert_int_equal(shape.layers[0].attention.heads, 0);
    assert_int_equal(shape.layers[1].attention.heads, 4);
    assert_int_equal(shape.layers[1].attention.kv_heads, 2);
    assert_int_equal(shape.layers[1].attention.key_size, 12);
    assert_int_equal(shape.layers[1].attention.value_size, 12);
    assert_int_equal(shape.layers[1].mamba2.heads, 0);
    assert_int_equal(shape.layers[2].feed_forward, 64);
    model_shape_done(&shape);
}

static void test_model_shape_has_defaults(void **state) {
    (void)state;
    struct model_image image = model_image_default();
    struct model_shape shape;
    image.without = "granitehybrid.attention.scale";
    assert_int_equal(read_shape(&image, &shape), ERR_OK);
    assert_true(shape.attention_scale == 1.0f / sqrtf(8.0f)); /* a head is 32 / 4 */
    assert_int_equal(shape.layers[1].attention.key_size, 8);
    assert_false(shape.has_output_weight);
    model_shape_done(&shape);
    image.without = "granitehybrid.logit_scale";
    assert_int_equal(read_shape(&image, &shape), ERR_OK);
    assert_true(shape.logit_scale == 1.0f);
    model_shape_done(&shape);
}

static void test_model_shape_names_what_is_missing(void **state) {
    (void)state;
    static const char *const names[] = {
        "general.architecture",
        "granitehybrid.block_count",
        "granitehybrid.embedding_length",
        "granitehybrid.context_length",
        "granitehybrid.feed_forward_length",
        "granitehybrid.attention.head_count",
        "granitehybrid.attention.head_count_kv",
        "granitehybrid.attention.layer_norm_rms_epsilon",
        "granitehybrid.ssm.conv_kernel",
        "granitehybrid.ssm.state_size",
        "granitehybrid.ssm.group_count",
        "granitehybrid.ssm.inner_size",
        "granitehybrid.ssm.time_step_rank",
        "token_embd.weight",
    };
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        struct model_image image = model_image_default();
        image.without = names[i];
        expect_refusal(&image, ERR_FORMAT, names[i]);
    }
}

/* --- keys that hold something else -------------------------------------------------------- */

static const char *replaced_key;
static uint32_t replaced_value;

static void add_number(struct gguf_builder *builder) {
    gguf_builder_u32(builder, replaced_key, replaced_value);
}

static struct model_image with_number(const char *key, uint32_t value) {
    struct model_image image = model_image_default();
    image.without = replaced_key = key;
    replaced_value = value;
    image.add = add_number;
    return image;
}

static void test_model_shape_refuses_numbers_out_of_range(void **state) {
    (void)state;
    static const struct {
        const char *key;
        uint32_t value;
        const char *named;
    } cases[] = {
        {"granitehybrid.block_count", 0, "block_count"},
        {"granitehybrid.block_count", 4097, "block_count"},
        {"granitehybrid.block_count", 4096, "tensors"}, /* more than the file can hold */
        {"granitehybrid.embedding_length", 0, "embedding_length"},
        {"granitehybrid.embedding_length", UINT32_MAX, "embedding_length"},
        {"granitehybrid.attention.head_count", 0, "0 attention heads"},
        {"granitehybrid.attention.head_count", 3, "3 attention heads"}, /* over two KV heads */
        {"granitehybrid.attention.head_count", 6, "no multiple of 6 heads"},
        {"granitehybrid.attention.key_length", 1 << 23, "size 8388608"},
        {"granitehybrid.feed_forward_length", 0, "feed_forward_length"},
        {"granitehybrid.ssm.conv_kernel", 1, "conv_kernel"},
        {"granitehybrid.ssm.conv_kernel", 9, "conv_kernel"},
        {"granitehybrid.ssm.inner_size", 33, "inner_size"},
        {"granitehybrid.ssm.group_count", 3, "group_count"},
        {"granitehybrid.ssm.state_size", 1 << 24, "state size"},
        {"granitehybrid.nextn_predict_layers", 3, "nextn_predict_layers"},
        {"granitehybrid.attention.layer_norm_rms_epsilon", 5, "layer_norm_rms_epsilon"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct model_image image = with_number(cases[i].key, cases[i].value);
        expect_refusal(&image, ERR_FORMAT, cases[i].named);
    }
}

static void add_nan(struct gguf_builder *builder) {
    gguf_builder_f32(builder, "granitehybrid.residual_scale", NAN);
}

static void add_other_architecture(struct gguf_builder *builder) {
    gguf_builder_string(builder, "general.architecture", "granite\thybrid2");
}

static void add_expert(struct gguf_builder *builder) {
    gguf_builder_tensor(builder, &(struct gguf_builder_tensor){.name = "blk.1.ffn_gate_inp.weight",
                                                               .dim_count = 1,
                                                               .dims = {4},
                                                               .bytes = 16});
}

static void add_few_tokens(struct gguf_builder *builder) {
    gguf_builder_strings(builder, "tokenizer.ggml.tokens", (const char *const[]){"a", "b"}, 2);
}

static void add_two_kv_heads(struct gguf_builder *builder) {
    gguf_builder_array(builder, "granitehybrid.attention.head_count_kv", GGUF_TYPE_I32, 2,
                       (int32_t[]){0, 2}, 8);
}

static void add_negative_kv_heads(struct gguf_builder *builder) {
    gguf_builder_array(builder, "granitehybrid.attention.head_count_kv", GGUF_TYPE_I32, 3,
                       (int32_t[]){0, -2, 0}, 12);
}

static void add_scaling(struct gguf_builder *builder) {
    gguf_builder_string(builder, "granitehybrid.rope.scaling.type", "yarn");
}

static void test_model_shape_refuses_what_it_does_not_run(void **state) {
    (void)state;
    struct model_image image = model_image_default();
    image.without = "granitehybrid.residual_scale";
    image.add = add_nan;
    expect_refusal(&image, ERR_FORMAT, "residual_scale");
    image.without = "general.architecture";
    image.add = add_other_architecture;
    expect_refusal(&image, ERR_UNSUPPORTED, "'granite?hybrid2'"); /* nothing unprintable */
    image.without = NULL;
    image.add = add_expert;
    expect_refusal(&image, ERR_UNSUPPORTED, "blk.1.ffn_gate_inp.weight");
    image.has_no_tokenizer = 1;
    image.add = add_few_tokens;
    expect_refusal(&image, ERR_FORMAT, "256 rows, expected 2");
    image.without = "granitehybrid.attention.head_count_kv";
    image.add = add_two_kv_heads;
    expect_refusal(&image, ERR_FORMAT, "block 2");
    image.add = add_negative_kv_heads;
    expect_refusal(&image, ERR_FORMAT, "head_count_kv");
    image.without = NULL;
    image.add = add_scaling;
    image.rope_dimensions = 8;
    expect_refusal(&image, ERR_UNSUPPORTED, "yarn");
    struct model_shape shape; /* without rotation the key says nothing */
    image.rope_dimensions = 0;
    assert_int_equal(read_shape(&image, &shape), ERR_OK);
    model_shape_done(&shape);
}

static void test_model_shape_reads_rotary_positions(void **state) {
    (void)state;
    struct model_image image = model_image_default();
    struct model_shape shape;
    image.rope_dimensions = 8;
    assert_int_equal(read_shape(&image, &shape), ERR_OK);
    assert_int_equal(shape.rope.pairs, 4);
    assert_int_equal(shape.rope.style, OP_ROPE_NEIGHBOURS);
    assert_false(shape.rope.undo_interleaving);
    assert_true(shape.rope.base == 10000.0);
    model_shape_done(&shape);
    image.rope_dimensions = 4;
    assert_int_equal(read_shape(&image, &shape), ERR_OK);
    assert_int_equal(shape.rope.pairs, 2);
    assert_int_equal(shape.rope.style, OP_ROPE_HALVES);
    assert_true(shape.rope.undo_interleaving);
    model_shape_done(&shape);
    image.rope_dimensions = 3;
    expect_refusal(&image, ERR_FORMAT, "dimension_count 3");
    image.rope_dimensions = 10;
    expect_refusal(&image, ERR_FORMAT, "dimension_count");
    image.rope_dimensions = 8;
    image.without = "granitehybrid.rope.scaling.finetuned"; /* missing counts as true */
    assert_int_equal(read_shape(&image, &shape), ERR_OK);
    assert_int_equal(shape.rope.pairs, 4);
    model_shape_done(&shape);
}

static void add_name(struct gguf_builder *builder) {
    /* A line break, a byte of its own, and a character that the end of the space cuts. */
    gguf_builder_string(builder, "general.name",
                        "M\xc3\xbcller\n\xff:"
                        "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"
                        "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\xe2\x82\xac and more");
}

static void test_model_shape_name_is_printable_text(void **state) {
    (void)state;
    struct model_image image = model_image_default();
    struct model_shape shape;
    image.without = "general.name";
    image.add = add_name;
    assert_int_equal(read_shape(&image, &shape), ERR_OK);
    assert_memory_equal(shape.name, "M\xc3\xbcller??:xx", 12);
    assert_int_equal(strlen(shape.name), sizeof shape.name - 1);
    assert_string_equal(shape.name + sizeof shape.name - 4, "x??");
    model_shape_done(&shape);
}

static void test_model_shape_leaves_draft_blocks_out(void **state) {
    (void)state;
    struct model_image image = with_number("granitehybrid.nextn_predict_layers", 1);
    struct model_shape shape;
    image.without = NULL;
    assert_int_equal(read_shape(&image, &shape), ERR_OK);
    assert_int_equal(shape.layer_count, 2);
    model_shape_done(&shape);
}

static void test_model_shape_gives_every_layer_its_place(void **state) {
    (void)state;
    struct model_image image = model_image_default();
    struct model_shape shape;
    struct layout layout;
    image.layers = "MAAM";
    assert_int_equal(read_shape(&image, &shape), ERR_OK);
    assert_int_equal(model_shape_layout(&shape, 32, DTYPE_F16, &layout), ERR_OK);
    assert_int_equal(layout.kv_count, 2);
    assert_int_equal(layout.state_count, 4);
    assert_int_equal(shape.layers[1].attention.kv_index, 0);
    assert_int_equal(shape.layers[2].attention.kv_index, 1);
    assert_int_equal(layout.kv[1].layer, 2);
    assert_int_equal(layout.token_bytes, 2 * 2 * 2 * 8 * 2); /* layers, K and V, heads, size, F16 */
    const struct model_mamba2 *last = &shape.layers[3].mamba2;
    assert_int_equal(layout.states[last->conv_index].layer, 3);
    assert_string_equal(layout.states[last->conv_index].part, "conv");
    assert_int_equal(layout.states[last->conv_index].bytes, 3 * 96 * 4); /* taps - 1, channels */
    assert_string_equal(layout.states[last->ssm_index].part, "ssm");
    assert_int_equal(layout.states[last->ssm_index].bytes, 4 * 16 * 8 * 4);
    assert_int_equal(layout.slot_bytes, 2 * (3 * 96 * 4 + 4 * 16 * 8 * 4));
    layout_done(&layout);
    struct layout untouched = {.block_size = 77};
    assert_int_equal(model_shape_layout(&shape, 31, DTYPE_F16, &untouched), ERR_INVALID);
    assert_int_equal(untouched.block_size, 77);
    model_shape_done(&shape);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_model_shape_reads_every_size),
        cmocka_unit_test(test_model_shape_has_defaults),
        cmocka_unit_test(test_model_shape_names_what_is_missing),
        cmocka_unit_test(test_model_shape_refuses_numbers_out_of_range),
        cmocka_unit_test(test_model_shape_refuses_what_it_does_not_run),
        cmocka_unit_test(test_model_shape_reads_rotary_positions),
        cmocka_unit_test(test_model_shape_name_is_printable_text),
        cmocka_unit_test(test_model_shape_leaves_draft_blocks_out),
        cmocka_unit_test(test_model_shape_gives_every_layer_its_place),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
