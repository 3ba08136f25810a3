#include "server/json_text.h"

#include "engine/utf8.h"

#include <string.h>

static int is_plain(unsigned char byte) {
    return byte >= ' ' && byte < 0x7f && byte != '"' && byte != '\\';
}

static enum err append_escaped(struct buf *out, unsigned char byte) {
    static const char letters[] = "\"\\\b\f\n\r\t";
    static const char escapes[] = "\"\\bfnrt";
    const char *found = byte != '\0' ? strchr(letters, byte) : NULL;
    if (found != NULL) {
        return buf_printf(out, "\\%c", escapes[found - letters]);
    }
    return buf_printf(out, "\\u%04x", byte);
}

enum err json_text_append(struct buf *out, const char *text, size_t len) {
    TRY(buf_append(out, "\"", 1));
    size_t at = 0;
    while (at < len) {
        size_t run = at;
        while (run < len && is_plain((unsigned char)text[run])) {
            run++;
        }
        TRY(buf_append(out, text + at, run - at));
        at = run;
        if (at == len) {
            break;
        }
        if ((unsigned char)text[at] < 0x80) {
            TRY(append_escaped(out, (unsigned char)text[at]));
            at++;
            continue;
        }
        size_t taken;
        uint32_t codepoint;
        int is_whole = utf8_next(text + at, len - at, &taken, &codepoint) == UTF8_COMPLETE;
        TRY(buf_append(out, is_whole ? text + at : "\xef\xbf\xbd", is_whole ? taken : 3));
        at += taken;
    }
    return buf_append(out, "\"", 1);
}

enum err json_text_append_string(struct buf *out, const char *text) {
    if (text == NULL) {
        return buf_append_text(out, "null");
    }
    return json_text_append(out, text, strlen(text));
}
