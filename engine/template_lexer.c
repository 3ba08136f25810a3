/*
 * I1  Outside of tags `at` is the end of the source, or behind the end of a tag or comment, or,
 *     with is_begin_due, at the beginning of a tag.
 * I2  Every call moves `at` forward or answers END, so reading takes time linear in the source.
 */
#include "engine/template_lexer.h"

#include "engine/utf8.h"

#include <stdlib.h>
#include <string.h>

enum { DELIMITER_BYTES = 2 };

/* Breaks of every kind become \n, and one at the end goes. */
static size_t normalise(char *text, size_t len) {
    size_t written = 0;
    for (size_t i = 0; i < len; i++) {
        if (text[i] == '\r') {
            i += i + 1 < len && text[i + 1] == '\n';
            text[written++] = '\n';
        } else {
            text[written++] = text[i];
        }
    }
    return written > 0 && text[written - 1] == '\n' ? written - 1 : written;
}

enum err template_lexer_init(struct template_lexer *lexer, const char *source, size_t len) {
    if (len > TEMPLATE_LEXER_SOURCE_BYTES_MAX) {
        return err_fail(ERR_UNSUPPORTED, "chat template of %zu bytes, expected at most %d", len,
                        TEMPLATE_LEXER_SOURCE_BYTES_MAX);
    }
    if (utf8_valid_prefix(source, len) != len) {
        return err_fail(ERR_UNSUPPORTED, "chat template is not valid UTF-8");
    }
    char *copy = malloc(len + 1);
    if (copy == NULL) {
        return err_fail(ERR_NOMEM, "chat template of %zu bytes", len);
    }
    memcpy(copy, source, len);
    *lexer = (struct template_lexer){.source = copy,
                                     .len = normalise(copy, len),
                                     .line = 1,
                                     .is_line_start = 1,
                                     .end = TEMPLATE_LEXER_DATA};
    return ERR_OK;
}

void template_lexer_done(struct template_lexer *lexer) {
    free(lexer->source);
    *lexer = (struct template_lexer){0};
}

/* White space as Python's str.isspace has it. */
static int is_space(uint32_t codepoint) {
    return (codepoint >= 9 && codepoint <= 13) || (codepoint >= 0x1c && codepoint <= 0x20) ||
           codepoint == 0x85 || codepoint == 0xa0 || codepoint == 0x1680 ||
           (codepoint >= 0x2000 && codepoint <= 0x200a) || codepoint == 0x2028 ||
           codepoint == 0x2029 || codepoint == 0x202f || codepoint == 0x205f || codepoint == 0x3000;
}

/* The length of the character at AT if it is white space, else 0. */
static size_t space_at(const struct template_lexer *lexer, size_t at) {
    size_t taken;
    uint32_t codepoint;
    if (at == lexer->len ||
        utf8_next(lexer->source + at, lexer->len - at, &taken, &codepoint) != UTF8_COMPLETE) {
        return 0;
    }
    return is_space(codepoint) ? taken : 0;
}

static size_t skip_space(const struct template_lexer *lexer, size_t at) {
    size_t step;
    while ((step = space_at(lexer, at)) > 0) {
        at += step;
    }
    return at;
}

/* The end of [begin, end) without the white space that it ends with. */
static size_t strip_end(const struct template_lexer *lexer, size_t begin, size_t end) {
    while (end > begin) {
        size_t last = end - 1;
        while (last > begin && ((uint8_t)lexer->source[last] & 0xc0) == 0x80) {
            last--;
        }
        if (last + space_at(lexer, last) != end) {
            break;
        }
        end = last;
    }
    return end;
}

static int line_at(struct template_lexer *lexer, size_t at) {
    for (; lexer->counted < at; lexer->counted++) {
        lexer->line += lexer->source[lexer->counted] == '\n';
    }
    return lexer->line;
}

static int has_text(const struct template_lexer *lexer, size_t at, const char *text, size_t len) {
    return lexer->len - at >= len && memcmp(lexer->source + at, text, len) == 0;
}

static void answer(struct template_lexer *lexer, enum template_lexer_kind kind, size_t begin,
                   size_t end, struct template_lexer_token *out) {
    *out = (struct template_lexer_token){
        .kind = kind,
        .line = line_at(lexer, begin),
        .text = lexer->source + begin,
        .len = end - begin,
    };
}

static int has_sign(const struct template_lexer *lexer, size_t at, char sign) {
    return at < lexer->len && lexer->source[at] == sign;
}

/*
 * If a tag or comment ends at AT with the two characters END, perhaps with a sign in front: where
 * the text goes on; else 0. A sign that the end does not know is not part of it.
 */
static size_t pass_end(struct template_lexer *lexer, size_t at, const char *end, int is_variable) {
    int is_strip = has_sign(lexer, at, '-');
    int is_keep = has_sign(lexer, at, '+') && !is_variable;
    size_t begin = at + (size_t)(is_strip || is_keep);
    if (!has_text(lexer, begin, end, DELIMITER_BYTES)) {
        return 0;
    }
    size_t after = begin + DELIMITER_BYTES;
    if (is_strip) {
        after = skip_space(lexer, after);
    } else if (!is_keep && !is_variable && has_sign(lexer, after, '\n')) {
        after++; /* trim_blocks */
    }
    lexer->is_line_start = lexer->source[after - 1] == '\n';
    return after;
}

/* AT is at "{#". */
static enum err skip_comment(struct template_lexer *lexer, size_t at) {
    size_t begin = at + DELIMITER_BYTES;
    begin += (size_t)(has_sign(lexer, begin, '-') || has_sign(lexer, begin, '+'));
    for (size_t i = begin; i < lexer->len; i++) {
        size_t after = pass_end(lexer, i, "#}", 0);
        if (after > 0) {
            lexer->at = after;
            return ERR_OK;
        }
    }
    return err_fail(ERR_UNSUPPORTED, "chat template, line %d: a comment without its end",
                    line_at(lexer, at));
}

/* The beginning of the next tag or comment, or the end of the source. */
static size_t find_begin(const struct template_lexer *lexer) {
    size_t at = lexer->at;
    while (at < lexer->len) {
        const char *brace = memchr(lexer->source + at, '{', lexer->len - at);
        if (brace == NULL) {
            return lexer->len;
        }
        at = (size_t)(brace - lexer->source);
        if (has_sign(lexer, at + 1, '%') || has_sign(lexer, at + 1, '{') ||
            has_sign(lexer, at + 1, '#')) {
            return at;
        }
        at++;
    }
    return lexer->len;
}

/* Where the text [at, BEGIN) ends when a tag begins at BEGIN. */
static size_t data_end(const struct template_lexer *lexer, size_t begin) {
    if (begin == lexer->len) {
        return begin;
    }
    size_t sign = begin + DELIMITER_BYTES;
    if (has_sign(lexer, sign, '-')) {
        return strip_end(lexer, lexer->at, begin);
    }
    if (has_sign(lexer, sign, '+') || lexer->source[begin + 1] == '{') {
        return begin;
    }
    size_t line = begin; /* lstrip_blocks */
    while (line > lexer->at && lexer->source[line - 1] != '\n') {
        line--;
    }
    if (line == lexer->at && !lexer->is_line_start) {
        return begin;
    }
    return strip_end(lexer, line, begin) == line ? line : begin;
}

static void begin_tag(struct template_lexer *lexer, struct template_lexer_token *out) {
    size_t begin = lexer->at;
    int is_variable = lexer->source[begin + 1] == '{';
    size_t after = begin + DELIMITER_BYTES;
    after += (size_t)(has_sign(lexer, after, '-') || has_sign(lexer, after, '+'));
    answer(lexer, is_variable ? TEMPLATE_LEXER_VARIABLE_BEGIN : TEMPLATE_LEXER_BLOCK_BEGIN, begin,
           after, out);
    lexer->at = after;
    lexer->is_begin_due = 0;
    lexer->is_line_start = 0;
    lexer->end = is_variable ? TEMPLATE_LEXER_VARIABLE_END : TEMPLATE_LEXER_BLOCK_END;
}

static enum err next_outside(struct template_lexer *lexer, struct template_lexer_token *out) {
    while (!lexer->is_begin_due) {
        size_t begin = find_begin(lexer);
        size_t text = lexer->at;
        size_t end = data_end(lexer, begin);
        lexer->at = begin;
        if (begin < lexer->len && lexer->source[begin + 1] == '#') {
            TRY(skip_comment(lexer, begin));
        } else {
            lexer->is_begin_due = begin < lexer->len;
        }
        if (end > text) {
            answer(lexer, TEMPLATE_LEXER_DATA, text, end, out);
            return ERR_OK;
        }
        if (begin == lexer->len) {
            answer(lexer, TEMPLATE_LEXER_END, begin, begin, out);
            return ERR_OK;
        }
    }
    begin_tag(lexer, out);
    return ERR_OK;
}

static int is_name(char byte, int is_first) {
    return (byte >= 'a' && byte <= 'z') || (byte >= 'A' && byte <= 'Z') || byte == '_' ||
           (!is_first && byte >= '0' && byte <= '9');
}

/* The position behind the string that begins at AT, or 0 if it has no end. */
static size_t pass_string(const struct template_lexer *lexer, size_t at) {
    for (size_t i = at + 1; i < lexer->len; i++) {
        if (lexer->source[i] == '\\') {
            i++;
        } else if (lexer->source[i] == lexer->source[at]) {
            return i + 1;
        }
    }
    return 0;
}

static enum err next_inside(struct template_lexer *lexer, struct template_lexer_token *out) {
    int is_variable = lexer->end == TEMPLATE_LEXER_VARIABLE_END;
    size_t at = skip_space(lexer, lexer->at);
    size_t after = at;
    if (at == lexer->len) {
        lexer->at = at;
        answer(lexer, TEMPLATE_LEXER_END, at, at, out);
        return ERR_OK;
    }
    if ((after = pass_end(lexer, at, is_variable ? "}}" : "%}", is_variable)) > 0) {
        answer(lexer, lexer->end, at, after, out);
        lexer->end = TEMPLATE_LEXER_DATA;
    } else if (lexer->source[at] == '\'' || lexer->source[at] == '"') {
        after = pass_string(lexer, at);
        if (after == 0) {
            return err_fail(ERR_UNSUPPORTED, "chat template, line %d: a string without its end",
                            line_at(lexer, at));
        }
        answer(lexer, TEMPLATE_LEXER_STRING, at + 1, after - 1, out);
    } else if (is_name(lexer->source[at], 1)) {
        for (after = at + 1; after < lexer->len && is_name(lexer->source[after], 0); after++) {
        }
        answer(lexer, TEMPLATE_LEXER_NAME, at, after, out);
    } else {
        uint32_t codepoint;
        size_t taken;
        (void)utf8_next(lexer->source + at, lexer->len - at, &taken, &codepoint);
        after = at + taken;
        answer(lexer, TEMPLATE_LEXER_SIGN, at, after, out);
    }
    lexer->at = after;
    return ERR_OK;
}

enum err template_lexer_next(struct template_lexer *lexer, struct template_lexer_token *out) {
    return lexer->end == TEMPLATE_LEXER_DATA ? next_outside(lexer, out) : next_inside(lexer, out);
}
