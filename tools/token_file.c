#include "tools/token_file.h"

#include "base/buf.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

enum { READ_BYTES = 64 * 1024 };

static int is_space(char c) {
    return c == ' ' || (c >= '\t' && c <= '\r');
}

static enum err parse_word(const char *word, size_t len, int32_t *out) {
    int64_t value = 0;
    int is_number = len > 0 && len <= 10;
    for (size_t i = 0; is_number && i < len; i++) {
        is_number = word[i] >= '0' && word[i] <= '9';
        value = value * 10 + (word[i] - '0');
    }
    if (!is_number || value > INT32_MAX) {
        return err_fail(ERR_FORMAT, "'%.*s' is no token id", (int)(len < 32 ? len : 32), word);
    }
    *out = (int32_t)value;
    return ERR_OK;
}

enum err token_file_parse(const char *text, size_t len, struct token_list *out) {
    static const char prefix[] = "tokens:";
    size_t at = 0;
    size_t before = out->count;
    for (int is_first = 1;; is_first = 0) {
        while (at < len && is_space(text[at])) {
            at++;
        }
        if (at == len) {
            return ERR_OK;
        }
        size_t start = at;
        while (at < len && !is_space(text[at])) {
            at++;
        }
        if (is_first && at - start == sizeof prefix - 1 &&
            memcmp(text + start, prefix, sizeof prefix - 1) == 0) {
            continue;
        }
        int32_t id = 0;
        enum err code = parse_word(text + start, at - start, &id);
        if (code == ERR_OK) {
            code = token_list_append(out, &id, 1);
        }
        if (code != ERR_OK) {
            out->count = before;
            return code;
        }
    }
}

static enum err slurp_descriptor(int descriptor, const char *path, struct buf *out) {
    for (;;) {
        uint8_t *place = NULL;
        TRY(buf_extend(out, READ_BYTES, &place));
        ssize_t got = read(descriptor, place, READ_BYTES);
        out->len -= READ_BYTES - (got > 0 ? (size_t)got : 0);
        if (got == 0) {
            return ERR_OK;
        }
        if (got < 0 && errno != EINTR) {
            return err_fail(ERR_IO, "cannot read '%s': %s", path, strerror(errno));
        }
    }
}

enum err token_file_slurp(const char *path, struct buf *out) {
    if (strcmp(path, "-") == 0) {
        return slurp_descriptor(STDIN_FILENO, "standard input", out);
    }
    int descriptor = open(path, O_RDONLY | O_CLOEXEC);
    if (descriptor < 0) {
        return err_fail(ERR_IO, "cannot open '%s': %s", path, strerror(errno));
    }
    enum err code = slurp_descriptor(descriptor, path, out);
    close(descriptor);
    return code;
}

enum err token_file_read(const char *path, struct token_list *out) {
    CLEANUP(buf_done) struct buf text;
    buf_init(&text, (size_t)1 << 30);
    TRY(token_file_slurp(path, &text));
    enum err code = token_file_parse((const char *)text.data, text.len, out);
    if (code != ERR_OK) {
        return err_context(code, "%s", path);
    }
    return ERR_OK;
}
