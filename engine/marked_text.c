#include "engine/marked_text.h"

#include <stdlib.h>

enum { FIRST_RUNS = 16 };

void marked_text_init(struct marked_text *marked, size_t max_bytes) {
    *marked = (struct marked_text){0};
    buf_init(&marked->text, max_bytes);
}

void marked_text_done(struct marked_text *marked) {
    buf_done(&marked->text);
    free(marked->runs);
    *marked = (struct marked_text){0};
}

static enum err reserve_run(struct marked_text *marked) {
    if (marked->run_count < marked->run_capacity) {
        return ERR_OK;
    }
    size_t capacity = marked->run_capacity == 0 ? FIRST_RUNS : marked->run_capacity * 2;
    struct marked_text_run *runs = reallocarray(marked->runs, capacity, sizeof *runs);
    if (runs == NULL) {
        return err_fail(ERR_NOMEM, "%zu runs of a text", capacity);
    }
    marked->runs = runs;
    marked->run_capacity = capacity;
    return ERR_OK;
}

enum err marked_text_append_own(struct marked_text *marked, const char *text, size_t len) {
    if (len == 0) {
        return ERR_OK;
    }
    TRY(reserve_run(marked));
    size_t begin = marked->text.len;
    TRY(buf_append(&marked->text, text, len));
    if (marked->run_count > 0 && marked->runs[marked->run_count - 1].end == begin) {
        marked->runs[marked->run_count - 1].end = begin + len;
    } else {
        marked->runs[marked->run_count++] =
            (struct marked_text_run){.begin = begin, .end = begin + len};
    }
    return ERR_OK;
}

enum err marked_text_append_quoted(struct marked_text *marked, const char *text, size_t len) {
    return buf_append(&marked->text, text, len);
}
