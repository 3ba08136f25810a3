#include "tools/standard_input.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { STEP_BYTES = 64 * 1024 };

/* Reading has stopped: at the end, or for a reason that errno tells. */
static enum err check_end(void) {
    return feof(stdin) ? ERR_OK : err_fail(ERR_IO, "standard input: %s", strerror(errno));
}

enum err standard_input_read(struct buf *buf) {
    CLEANUP(object_free) char *step = malloc(STEP_BYTES);
    if (step == NULL) {
        return err_fail(ERR_NOMEM, "standard input");
    }
    size_t len;
    while ((len = fread(step, 1, STEP_BYTES, stdin)) > 0) {
        TRY(buf_append(buf, step, len));
    }
    return check_end();
}

static enum err take_line(const char *text, size_t len,
                          enum err (*take)(void *context, const json_t *line), void *context) {
    if (strspn(text, " \t\r\n") == len) {
        return ERR_OK;
    }
    json_error_t error;
    json_t *line = json_loadb(text, len, JSON_ALLOW_NUL, &error);
    if (line == NULL) {
        return err_fail(ERR_FORMAT, "%s", error.text);
    }
    enum err err =
        json_is_object(line) ? take(context, line) : err_fail(ERR_FORMAT, "expected a JSON object");
    json_decref(line);
    return err;
}

enum err standard_input_json_lines(enum err (*take)(void *context, const json_t *line),
                                   void *context) {
    CLEANUP(object_free) char *text = NULL;
    size_t capacity = 0;
    ssize_t len;
    for (long long number = 1; (len = getline(&text, &capacity, stdin)) >= 0; number++) {
        enum err err = take_line(text, (size_t)len, take, context);
        if (err != ERR_OK) {
            return err_context(err, "line %lld", number);
        }
    }
    return check_end();
}
