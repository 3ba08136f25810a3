#include "engine/template_literal.h"

#include "engine/utf8.h"

#include <stdio.h>
#include <string.h>

enum { OCTAL_DIGITS_MAX = 3 };

static int digit_of(char byte) {
    if (byte >= '0' && byte <= '9') {
        return byte - '0';
    }
    if (byte >= 'a' && byte <= 'f') {
        return byte - 'a' + 10;
    }
    return byte >= 'A' && byte <= 'F' ? byte - 'A' + 10 : 16;
}

static enum err append_codepoint(struct buf *out, uint32_t codepoint) {
    if (codepoint > 0x10ffff || (codepoint >= 0xd800 && codepoint <= 0xdfff)) {
        return err_fail(ERR_UNSUPPORTED, "a string's escape names U+%04X, which is no character",
                        codepoint);
    }
    char bytes[4];
    size_t len = 1;
    if (codepoint < 0x80) {
        bytes[0] = (char)codepoint;
    } else {
        len = codepoint < 0x800 ? 2 : codepoint < 0x10000 ? 3 : 4;
        for (size_t i = len - 1; i > 0; i--) {
            bytes[i] = (char)(0x80 | (codepoint & 0x3f));
            codepoint >>= 6;
        }
        uint32_t lead = len == 2 ? 0xc0 : len == 3 ? 0xe0 : 0xf0;
        bytes[0] = (char)(lead | codepoint);
    }
    return buf_append(out, bytes, len);
}

/* DIGITS hexadecimal digits at TEXT. */
static enum err append_hexadecimal(const char *text, size_t len, size_t digits, struct buf *out) {
    uint32_t codepoint = 0;
    for (size_t i = 0; i < digits; i++) {
        if (i == len || digit_of(text[i]) == 16) {
            return err_fail(ERR_UNSUPPORTED, "a string's escape has too few digits, expected %zu",
                            digits);
        }
        codepoint = codepoint << 4 | (uint32_t)digit_of(text[i]);
    }
    return append_codepoint(out, codepoint);
}

static enum err append_octal(const char *text, size_t len, size_t *taken, struct buf *out) {
    uint32_t codepoint = 0;
    size_t digits = 0;
    while (digits < len && digits < OCTAL_DIGITS_MAX && digit_of(text[digits]) < 8) {
        codepoint = codepoint << 3 | (uint32_t)digit_of(text[digits]);
        digits++;
    }
    *taken = digits;
    return append_codepoint(out, codepoint);
}

/*
 * A character outside ASCII behind a backslash. Jinja has such characters escaped before it has
 * Python undo escapes, so the backslash meets the one of \xe9 and its like, and these stay.
 */
static enum err append_escaped(const char *text, size_t len, size_t *taken, struct buf *out) {
    uint32_t codepoint = 0;
    if (utf8_next(text, len, taken, &codepoint) != UTF8_COMPLETE) {
        return err_fail(ERR_UNSUPPORTED, "a string is not valid UTF-8");
    }
    char escape[16];
    int escape_len = 0;
    if (codepoint < 0x100) {
        escape_len = snprintf(escape, sizeof escape, "\\x%02x", codepoint);
    } else if (codepoint < 0x10000) {
        escape_len = snprintf(escape, sizeof escape, "\\u%04x", codepoint);
    } else {
        escape_len = snprintf(escape, sizeof escape, "\\U%08x", codepoint);
    }
    return buf_append(out, escape, (size_t)escape_len);
}

/* TEXT (LEN > 0) is what follows a backslash; *taken is how much of it the escape is. */
static enum err append_escape(const char *text, size_t len, size_t *taken, struct buf *out) {
    static const char names[] = "\\'\"abfnrtv";
    static const char values[] = "\\'\"\a\b\f\n\r\t\v";
    *taken = 1;
    const char *name = text[0] == '\0' ? NULL : strchr(names, text[0]);
    if (name != NULL) {
        return buf_append(out, values + (name - names), 1);
    }
    switch (text[0]) {
    case '\n':
        return ERR_OK;
    case 'x':
        *taken = 3;
        return append_hexadecimal(text + 1, len - 1, 2, out);
    case 'u':
        *taken = 5;
        return append_hexadecimal(text + 1, len - 1, 4, out);
    case 'U':
        *taken = 9;
        return append_hexadecimal(text + 1, len - 1, 8, out);
    case 'N':
        return err_fail(ERR_UNSUPPORTED, "a string's escape \\N is not supported");
    default:
        break;
    }
    if (digit_of(text[0]) < 8) {
        return append_octal(text, len, taken, out);
    }
    if ((uint8_t)text[0] >= 0x80) {
        return append_escaped(text, len, taken, out);
    }
    TRY(buf_append(out, "\\", 1));
    return buf_append(out, text, 1);
}

enum err template_literal_decode(const char *text, size_t len, struct buf *out) {
    size_t at = 0;
    while (at < len) {
        const char *backslash = memchr(text + at, '\\', len - at);
        size_t plain = backslash == NULL ? len - at : (size_t)(backslash - text) - at;
        TRY(buf_append(out, text + at, plain));
        at += plain;
        if (at == len) {
            break;
        }
        if (at + 1 == len) {
            return err_fail(ERR_UNSUPPORTED, "a string ends in a backslash");
        }
        size_t taken;
        TRY(append_escape(text + at + 1, len - at - 1, &taken, out));
        at += 1 + taken;
    }
    return ERR_OK;
}
