/*
 * `tern model`: what a GGUF file holds and what a conversation on it costs,
 * without loading a weight.
 */
#include "engine/model_shape.h"
#include "tools/model_file.h"
#include "tools/option.h"
#include "tools/subcommand.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

enum { WEIGHT_TYPES_MAX = 64 };

struct model_options {
    const char *kv;
    long long block_size;
    int json;
};

/* How many tensors and bytes of each type there are. */
struct weight_census {
    size_t tensors[WEIGHT_TYPES_MAX];
    unsigned long long values[WEIGHT_TYPES_MAX];
};

static void count_weights(const struct gguf *file, struct weight_census *out) {
    for (size_t i = 0; i < gguf_tensor_count(file); i++) {
        const struct gguf_tensor *tensor = gguf_tensor_at(file, i);
        if (tensor->type_number < WEIGHT_TYPES_MAX) {
            out->tensors[tensor->type_number]++;
            out->values[tensor->type_number] += tensor->values;
        }
    }
}

/* "attention" and "mamba2" as one letter a layer: A, M, or X for both in one. */
static void layer_letters(const struct model_shape *shape, char *out) {
    for (int i = 0; i < shape->layer_count; i++) {
        int has_attention = shape->layers[i].attention.heads > 0;
        int has_mamba2 = shape->layers[i].mamba2.heads > 0;
        out[i] = has_attention && has_mamba2 ? 'X' : has_attention ? 'A' : has_mamba2 ? 'M' : '-';
    }
    out[shape->layer_count] = '\0';
}

static void print_text(const struct model_shape *shape, const struct layout *layout,
                       const struct weight_census *census, const char *letters) {
    unsigned long long total = 0;
    printf("name            %s\n", shape->name);
    printf("architecture    %s\n", shape->architecture);
    printf("layers          %d: %s (A attention, M Mamba-2)\n", shape->layer_count, letters);
    printf("hidden          %d\n", shape->hidden);
    printf("vocabulary      %d%s\n", shape->vocabulary,
           shape->has_output_weight ? "" : " (output matrix is the embedding)");
    printf("context         %d\n", shape->context);
    printf("rotary pairs    %d\n", shape->rope.pairs);
    printf("groups          attention: %d layers, recurrent: %d layers\n", layout->kv_count,
           layout->state_count / 2);
    printf("KV per token    %zu bytes (%s)\n", layout->token_bytes, dtype_name(layout->kv_type));
    printf("KV block        %zu bytes (%d tokens)\n", layout->block_bytes, layout->block_size);
    printf("terminal state  %zu bytes\n", layout->slot_bytes);
    for (int i = 0; i < WEIGHT_TYPES_MAX; i++) {
        if (census->tensors[i] > 0) {
            printf("weights         %s: %zu tensors, %llu values\n",
                   gguf_tensor_type_name((uint32_t)i), census->tensors[i], census->values[i]);
            total += census->values[i];
        }
    }
    printf("parameters      %llu\n", total);
}

static enum err print_json(const struct model_shape *shape, const struct layout *layout,
                           const struct weight_census *census, const char *letters) {
    json_t *weights = json_object();
    unsigned long long total = 0;
    for (int i = 0; i < WEIGHT_TYPES_MAX; i++) {
        if (census->tensors[i] > 0) {
            json_object_set_new(weights, gguf_tensor_type_name((uint32_t)i),
                                json_integer((json_int_t)census->tensors[i]));
            total += census->values[i];
        }
    }
    json_t *root = json_pack(
        "{s:s, s:i, s:s, s:i, s:i, s:i, s:i, s:{s:i, s:i}, s:I, s:I, s:I, s:s, s:i, s:I, "
        "s:o}",
        "architecture", shape->architecture, "layers", shape->layer_count, "layer_kinds", letters,
        "hidden", shape->hidden, "vocabulary", shape->vocabulary, "context", shape->context,
        "rope_pairs", shape->rope.pairs, "groups", "attention", layout->kv_count, "recurrent",
        layout->state_count / 2, "kv_bytes_per_token", (json_int_t)layout->token_bytes,
        "kv_block_bytes", (json_int_t)layout->block_bytes, "terminal_state_bytes",
        (json_int_t)layout->slot_bytes, "kv_type", dtype_name(layout->kv_type), "block_size",
        layout->block_size, "parameters", (json_int_t)total, "weight_tensors", weights);
    if (root == NULL) {
        return err_fail(ERR_NOMEM, "JSON of the model");
    }
    json_object_set_new(root, "name", json_string(shape->name));
    int status = json_dumpf(root, stdout, JSON_INDENT(2));
    json_decref(root);
    putchar('\n');
    return status == 0 ? ERR_OK : err_fail(ERR_IO, "cannot write to standard output");
}

static enum err describe(const struct gguf *file, const struct model_options *options,
                         enum dtype kv_type) {
    struct model_shape shape;
    struct layout layout;
    struct weight_census census = {0};
    TRY(model_shape_read(file, &shape));
    enum err code = model_shape_layout(&shape, (int)options->block_size, kv_type, &layout);
    if (code != ERR_OK) {
        model_shape_done(&shape);
        return code;
    }
    char *letters = calloc((size_t)shape.layer_count + 1, 1);
    if (letters == NULL) {
        code = err_fail(ERR_NOMEM, "names of %d layers", shape.layer_count);
    } else {
        layer_letters(&shape, letters);
        count_weights(file, &census);
        if (options->json) {
            code = print_json(&shape, &layout, &census, letters);
        } else {
            print_text(&shape, &layout, &census, letters);
        }
    }
    free(letters);
    layout_done(&layout);
    model_shape_done(&shape);
    return code;
}

static enum err run(const char *path, const struct model_options *options) {
    enum dtype kv_type = DTYPE_F16;
    struct gguf *file = NULL;
    TRY(dtype_parse(options->kv, &kv_type));
    TRY(model_file_open(path, &file));
    enum err code = describe(file, options, kv_type);
    gguf_close(file);
    return code;
}

int subcommand_model(int argc, char **argv) {
    struct model_options options = {.kv = "f16", .block_size = LAYOUT_BLOCK_SIZE_DEFAULT};
    const char *path = NULL;
    const struct option_entry entries[] = {
        {"kv", OPTION_TEXT, &options.kv, "TYPE", "KV blocks in f16, bf16 or f32 (f16)", 0, 0},
        {"block-size", OPTION_INT, &options.block_size, "N",
         "tokens in a KV block, a power of two (32)", 8, 256},
        {"json", OPTION_FLAG, &options.json, NULL, "print JSON", 0, 0},
    };
    const struct option_spec spec = {
        .usage = "tern model [FILE] [options]",
        .summary =
            "Shows what a GGUF file holds: architecture, layers, the bytes of KV that a\n"
            "token takes, the bytes of a terminal state, and the types of its weights. Without\n"
            "FILE, or with the word demo, that of the demo model in this binary.",
        .entries = entries,
        .count = ARRAY_LEN(entries),
        .positional_max = 1,
    };
    enum option_outcome outcome = option_parse(&spec, argc, argv, &path, NULL);
    if (outcome != OPTION_RUN) {
        return outcome == OPTION_HELP_SHOWN ? EXIT_CODE_OK : EXIT_CODE_USAGE;
    }
    if (run(path, &options) != ERR_OK) {
        fprintf(stderr, "tern model: %s\n", err_message());
        return EXIT_CODE_FAILED;
    }
    return EXIT_CODE_OK;
}
