/*
 * Small byte-level vocabularies as GGUF files in memory: the 256 bytes as tokens 0 to 255, then
 * what a test adds, right or wrong. Running out of memory aborts the test.
 */
#ifndef TERN_TESTS_VOCABULARY_IMAGE_H
#define TERN_TESTS_VOCABULARY_IMAGE_H

#include "engine/tokenizer.h"
#include "tests/gguf/gguf_builder.h"

enum { VOCABULARY_IMAGE_BYTES = 256 };

struct vocabulary_image_token {
    const char *text; /* as in the file: mapped for normal tokens */
    int type;
};

struct vocabulary_image {
    const char *model; /* NULL leaves the key out, here and below */
    const char *pre;
    const struct vocabulary_image_token *tokens; /* behind the 256 */
    size_t token_count;
    const char *const *merges;
    size_t merge_count;
    int leaves_out_byte; /* a byte without a token, -1: none */
    int has_no_types;
    void (*add)(struct gguf_builder *builder); /* more keys; NULL: none */
};

/* Adds the keys to a file that a test is writing. */
void vocabulary_image_write(const struct vocabulary_image *spec, struct gguf_builder *builder);

/* The whole file in a block of exactly *bytes, to be freed by the caller. */
uint8_t *vocabulary_image_file(const struct vocabulary_image *spec, size_t *bytes);

/* The tokenizer of such a file, and of one in memory that may hold anything. */
MUST_USE enum err vocabulary_image_load(const struct vocabulary_image *spec,
                                        struct tokenizer **out);
MUST_USE enum err vocabulary_image_parse(const uint8_t *file, size_t bytes, struct tokenizer **out);

#endif
