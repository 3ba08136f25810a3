#include "tests/gguf/vocabulary_image.h"

#include <stdlib.h>
#include <string.h>

enum { TYPE_NORMAL = 1, MAPPED_BYTES = 3 };

/* The character that stands for BYTE, as UTF-8. */
static void map_byte(int byte, char out[MAPPED_BYTES]) {
    int stands_for_itself = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) ||
                            (byte >= 0xae && byte <= 0xff);
    int point = byte;
    if (!stands_for_itself) {
        point = byte <= 0x20 ? 0x100 + byte : byte == 0xad ? 0x143 : 0x121 + byte - 0x7f;
    }
    out[0] = point < 0x80 ? (char)point : (char)(0xc0 | point >> 6);
    out[1] = point < 0x80 ? '\0' : (char)(0x80 | (point & 0x3f));
    out[2] = '\0';
}

static void write_tokens(const struct vocabulary_image *spec, struct gguf_builder *builder) {
    size_t count = VOCABULARY_IMAGE_BYTES + spec->token_count;
    const char **texts = calloc(count, sizeof *texts);
    int32_t *types = calloc(count, sizeof *types);
    static _Thread_local char mapped[VOCABULARY_IMAGE_BYTES][MAPPED_BYTES];
    if (texts == NULL || types == NULL) {
        abort();
    }
    for (int byte = 0; byte < VOCABULARY_IMAGE_BYTES; byte++) {
        map_byte(byte, mapped[byte]);
        texts[byte] = byte == spec->leaves_out_byte ? "left out" : mapped[byte];
        types[byte] = TYPE_NORMAL;
    }
    for (size_t i = 0; i < spec->token_count; i++) {
        texts[VOCABULARY_IMAGE_BYTES + i] = spec->tokens[i].text;
        types[VOCABULARY_IMAGE_BYTES + i] = spec->tokens[i].type;
    }
    gguf_builder_strings(builder, "tokenizer.ggml.tokens", texts, count);
    if (!spec->has_no_types) {
        gguf_builder_array(builder, "tokenizer.ggml.token_type", GGUF_TYPE_I32, count, types,
                           count * sizeof *types);
    }
    free(texts);
    free(types);
}

void vocabulary_image_write(const struct vocabulary_image *spec, struct gguf_builder *builder) {
    if (spec->model != NULL) {
        gguf_builder_string(builder, "tokenizer.ggml.model", spec->model);
    }
    if (spec->pre != NULL) {
        gguf_builder_string(builder, "tokenizer.ggml.pre", spec->pre);
    }
    write_tokens(spec, builder);
    gguf_builder_strings(builder, "tokenizer.ggml.merges", spec->merges, spec->merge_count);
    if (spec->add != NULL) {
        spec->add(builder);
    }
}

uint8_t *vocabulary_image_file(const struct vocabulary_image *spec, size_t *bytes) {
    struct gguf_builder builder;
    gguf_builder_init(&builder);
    vocabulary_image_write(spec, &builder);
    uint8_t *file = gguf_builder_file(&builder, bytes);
    gguf_builder_done(&builder);
    return file;
}

enum err vocabulary_image_parse(const uint8_t *file, size_t bytes, struct tokenizer **out) {
    struct gguf *gguf;
    TRY(gguf_parse(file, bytes, &gguf));
    enum err err = tokenizer_create(gguf, out);
    gguf_close(gguf);
    return err;
}

enum err vocabulary_image_load(const struct vocabulary_image *spec, struct tokenizer **out) {
    size_t bytes;
    uint8_t *file = vocabulary_image_file(spec, &bytes);
    enum err err = vocabulary_image_parse(file, bytes, out);
    free(file);
    return err;
}
