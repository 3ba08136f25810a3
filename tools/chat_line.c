#include "tools/chat_line.h"

#include <errno.h>
#include <histedit.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { HISTORY_LINES = 500 };

struct chat_line {
    const char *prompt;
    EditLine *edit; /* NULL: standard input is no terminal */
    History *history;
    char *text;
    size_t capacity;
};

static const char *prompt_of(EditLine *edit) {
    struct chat_line *line;
    return el_get(edit, EL_CLIENTDATA, &line) == 0 ? line->prompt : "";
}

static enum err begin_editing(struct chat_line *line) {
    HistEvent event;
    line->history = history_init();
    line->edit = el_init("tern", stdin, stdout, stderr);
    if (line->history == NULL || line->edit == NULL ||
        history(line->history, &event, H_SETSIZE, HISTORY_LINES) < 0) {
        return err_fail(ERR_IO, "line editing cannot begin at this terminal");
    }
    history(line->history, &event, H_SETUNIQUE, 1);
    el_set(line->edit, EL_CLIENTDATA, line);
    el_set(line->edit, EL_PROMPT, prompt_of);
    el_set(line->edit, EL_EDITOR, "emacs");
    el_set(line->edit, EL_HIST, history, line->history);
    el_set(line->edit, EL_SIGNAL, 1); /* a signal finds the terminal as it was */
    el_source(line->edit, NULL);
    return ERR_OK;
}

enum err chat_line_create(struct chat_line **out) {
    struct chat_line *line = calloc(1, sizeof *line);
    if (line == NULL) {
        return err_fail(ERR_NOMEM, "line editing");
    }
    enum err err = isatty(STDIN_FILENO) ? begin_editing(line) : ERR_OK;
    if (err != ERR_OK) {
        chat_line_destroy(line);
        return err;
    }
    *out = line;
    return ERR_OK;
}

void chat_line_destroy(struct chat_line *line) {
    if (line == NULL) {
        return;
    }
    if (line->edit != NULL) {
        el_end(line->edit);
    }
    if (line->history != NULL) {
        history_end(line->history);
    }
    free(line->text);
    free(line);
}

int chat_line_is_terminal(const struct chat_line *line) {
    return line->edit != NULL;
}

static enum err read_plain(struct chat_line *line, const char **text) {
    ssize_t len = getline(&line->text, &line->capacity, stdin);
    if (len < 0) {
        *text = NULL;
        return feof(stdin) ? ERR_OK : err_fail(ERR_IO, "standard input: %s", strerror(errno));
    }
    while (len > 0 && (line->text[len - 1] == '\n' || line->text[len - 1] == '\r')) {
        line->text[--len] = '\0';
    }
    *text = line->text;
    return ERR_OK;
}

enum err chat_line_read(struct chat_line *line, const char *prompt, const char **text) {
    if (line->edit == NULL) {
        return read_plain(line, text);
    }
    int len = 0;
    line->prompt = prompt;
    const char *typed = el_gets(line->edit, &len);
    if (typed == NULL || len <= 0) {
        *text = NULL;
        return len < 0 ? err_fail(ERR_IO, "the terminal: %s", strerror(errno)) : ERR_OK;
    }
    HistEvent event;
    if (typed[0] != '\n') {
        history(line->history, &event, H_ENTER, typed);
    }
    free(line->text);
    line->text = strndup(typed, (size_t)len - (typed[len - 1] == '\n'));
    line->capacity = 0;
    if (line->text == NULL) {
        return err_fail(ERR_NOMEM, "a line of %d bytes", len);
    }
    *text = line->text;
    return ERR_OK;
}
