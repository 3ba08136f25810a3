/* The GGUF reader over any bytes, and a walk over all that it hands out. */
#include "engine/gguf.h"
#include "tests/gguf/gguf_walk.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    /* A block of its own: gguf_parse wants it aligned, and a sanitizer sees a read behind it. */
    uint8_t *copy = malloc(bytes > 0 ? bytes : 1);
    if (copy == NULL) {
        return 0;
    }
    memcpy(copy, data, bytes);
    struct gguf *file = NULL;
    err_clear();
    if (gguf_parse(copy, bytes, &file) == ERR_OK) {
        (void)gguf_walk(file);
        gguf_close(file);
    } else if (err_message()[0] == '\0') {
        abort();
    }
    free(copy);
    return 0;
}
