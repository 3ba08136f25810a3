#include "tools/config_file.h"

#include "base/buf.h"
#include "tools/token_file.h"

#include <stdlib.h>
#include <string.h>

enum { FILE_BYTES_MAX = 1 << 20 };

void config_file_done(struct config_file *config) {
    for (int i = 0; i < config->argc; i++) {
        free(config->argv[i]);
    }
    free(config->argv);
    *config = (struct config_file){0};
}

/* Appends a copy of TEXT, LEN bytes of it. */
static enum err add(struct config_file *config, const char *text, size_t len) {
    char **grown = realloc(config->argv, ((size_t)config->argc + 2) * sizeof(*config->argv));
    if (grown == NULL) {
        return err_fail(ERR_NOMEM, "%d arguments", config->argc + 1);
    }
    config->argv = grown;
    config->argv[config->argc] = strndup(text, len);
    if (config->argv[config->argc] == NULL) {
        return err_fail(ERR_NOMEM, "%d arguments", config->argc + 1);
    }
    config->argv[++config->argc] = NULL;
    return ERR_OK;
}

static int is_blank(char c) {
    return c == ' ' || c == '\t' || c == '\r';
}

/* Cuts blanks off both ends of [*text, *text + *len). */
static void trim(const char **text, size_t *len) {
    while (*len > 0 && is_blank(**text)) {
        (*text)++;
        (*len)--;
    }
    while (*len > 0 && is_blank((*text)[*len - 1])) {
        (*len)--;
    }
}

static int is_name(const char *text, size_t len) {
    for (size_t i = 0; i < len; i++) {
        if (!((text[i] >= 'a' && text[i] <= 'z') || (text[i] == '-' && i > 0))) {
            return 0;
        }
    }
    return len > 0;
}

static enum err add_line(struct config_file *config, const char *line, size_t len, const char *path,
                         int number) {
    trim(&line, &len);
    if (len == 0 || line[0] == '#') {
        return ERR_OK;
    }
    const char *equals = memchr(line, '=', len);
    const char *name = line, *value = equals == NULL ? NULL : equals + 1;
    size_t name_len = equals == NULL ? len : (size_t)(equals - line);
    size_t value_len = equals == NULL ? 0 : len - name_len - 1;
    trim(&name, &name_len);
    if (!is_name(name, name_len) || memchr(line, '\0', len) != NULL ||
        (name_len == 6 && memcmp(name, "config", 6) == 0)) {
        return err_fail(ERR_FORMAT, "%s:%d: expected `name = value`, with an option's name", path,
                        number);
    }
    CLEANUP(buf_done) struct buf option;
    buf_init(&option, FILE_BYTES_MAX);
    TRY(buf_append_text(&option, "--"));
    TRY(buf_append(&option, name, name_len));
    if (value != NULL) {
        trim(&value, &value_len);
        TRY(buf_append_text(&option, "="));
        TRY(buf_append(&option, value, value_len));
    }
    return add(config, (const char *)option.data, option.len);
}

static enum err add_file(struct config_file *config, const char *path) {
    CLEANUP(buf_done) struct buf text;
    buf_init(&text, FILE_BYTES_MAX);
    TRY(token_file_slurp(path, &text));
    const char *at = (const char *)text.data;
    size_t left = text.len;
    for (int number = 1; left > 0; number++) {
        const char *end = memchr(at, '\n', left);
        size_t len = end == NULL ? left : (size_t)(end - at);
        TRY(add_line(config, at, len, path, number));
        len += end != NULL;
        at += len;
        left -= len;
    }
    return ERR_OK;
}

/* The value of --config at argv[i], or NULL; *used is how many arguments it takes. */
static const char *config_path(int argc, char **argv, int i, int *used) {
    *used = 1;
    if (strncmp(argv[i], "--config=", 9) == 0) {
        return argv[i] + 9;
    }
    if (strcmp(argv[i], "--config") == 0 && i + 1 < argc) {
        *used = 2;
        return argv[i + 1];
    }
    return NULL;
}

static enum err expand(int argc, char **argv, struct config_file *out) {
    int used = 1;
    TRY(add(out, argv[0], strlen(argv[0])));
    for (int i = 1; i < argc; i += used) {
        const char *path = config_path(argc, argv, i, &used);
        if (path != NULL) {
            TRY(add_file(out, path));
        }
    }
    for (int i = 1; i < argc; i += used) {
        if (config_path(argc, argv, i, &used) == NULL) {
            TRY(add(out, argv[i], strlen(argv[i])));
        }
    }
    return ERR_OK;
}

enum err config_file_expand(int argc, char **argv, struct config_file *out) {
    struct config_file config = {0};
    enum err code = expand(argc, argv, &config);
    if (code != ERR_OK) {
        config_file_done(&config);
        return code;
    }
    *out = config;
    return ERR_OK;
}
