/*
 * Writes small GGUFs, right and wrong, into a folder: the beginnings of a fuzz corpus. A fuzzer's
 * own finds come beside them (merge its working corpus into the folder).
 * Usage: gguf_corpus_writer FOLDER
 */
#include "tests/gguf/gguf_builder.h"
#include "tests/gguf/gguf_mutator.h"

#include <stdio.h>
#include <stdlib.h>

enum { MUTANTS_PER_KIND = 3 };

static int write_file(const char *folder, const char *name, const uint8_t *data, size_t bytes) {
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = fopen(path, "wb");
    if (file == NULL || fwrite(data, 1, bytes, file) != bytes || fclose(file) != 0) {
        fprintf(stderr, "%s: cannot be written\n", path);
        return 1;
    }
    return 0;
}

static int write_built(const char *folder, const char *name, struct gguf_builder *builder) {
    size_t bytes;
    uint8_t *data = gguf_builder_file(builder, &bytes);
    int failed = write_file(folder, name, data, bytes);
    gguf_builder_done(builder);
    free(data);
    return failed;
}

static int write_right(const char *folder) {
    struct gguf_builder builder;
    gguf_builder_init(&builder);
    int failed = write_built(folder, "empty.gguf", &builder);
    gguf_builder_init(&builder);
    gguf_builder_sample(&builder);
    failed |= write_built(folder, "sample.gguf", &builder);
    gguf_builder_init(&builder);
    builder.alignment = 8;
    gguf_builder_u32(&builder, "general.alignment", 8);
    struct gguf_builder_tensor tensor = {.name = "w", .dim_count = 2, .dims = {1, 1}, .bytes = 4};
    gguf_builder_tensor(&builder, &tensor);
    tensor.name = "v";
    gguf_builder_tensor(&builder, &tensor);
    return failed | write_built(folder, "aligned-8.gguf", &builder);
}

static int write_mutants(const char *folder) {
    struct gguf_builder builder;
    gguf_builder_init(&builder);
    gguf_builder_sample(&builder);
    size_t bytes;
    uint8_t *seed = gguf_builder_file(&builder, &bytes);
    gguf_builder_done(&builder);
    struct gguf_mutator *mutator = gguf_mutator_create(seed, bytes);
    unsigned written[GGUF_MUTATION_KINDS] = {0};
    int failed = 0;
    for (uint64_t number = 0; number < 1000; number++) {
        struct gguf_mutant mutant;
        gguf_mutator_make(mutator, number, &mutant);
        if (written[mutant.kind] < MUTANTS_PER_KIND) {
            char name[64];
            snprintf(name, sizeof name, "%s-%u.gguf", gguf_mutator_kind_name(mutant.kind),
                     written[mutant.kind]++);
            failed |= write_file(folder, name, mutant.data, mutant.bytes);
        }
        free(mutant.data);
    }
    gguf_mutator_destroy(mutator);
    free(seed);
    return failed;
}

int main(int argc, char **argv) {
    if (argc != 2) {
        fprintf(stderr, "usage: gguf_corpus_writer FOLDER\n");
        return 2;
    }
    return write_right(argv[1]) | write_mutants(argv[1]);
}
