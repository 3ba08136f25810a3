#include "engine/byte_map.h"

#include "engine/utf8.h"

static int stands_for_itself(uint32_t codepoint) {
    return (codepoint >= 0x21 && codepoint <= 0x7e) || (codepoint >= 0xa1 && codepoint <= 0xac) ||
           (codepoint >= 0xae && codepoint <= 0xff);
}

/* -1 for a character outside the map. */
static int byte_of(uint32_t codepoint) {
    if (stands_for_itself(codepoint)) {
        return (int)codepoint;
    }
    if (codepoint >= 0x100 && codepoint <= 0x120) {
        return (int)codepoint - 0x100; /* 00-20 */
    }
    if (codepoint >= 0x121 && codepoint <= 0x142) {
        return (int)codepoint - 0x121 + 0x7f; /* 7F-A0 */
    }
    return codepoint == 0x143 ? 0xad : -1;
}

int byte_map_decode(const char *text, size_t len, char *out, size_t *out_len) {
    size_t written = 0;
    for (size_t at = 0; at < len;) {
        size_t taken;
        uint32_t codepoint;
        if (utf8_next(text + at, len - at, &taken, &codepoint) != UTF8_COMPLETE) {
            return 0;
        }
        int byte = byte_of(codepoint);
        if (byte < 0) {
            return 0;
        }
        out[written++] = (char)byte;
        at += taken;
    }
    *out_len = written;
    return 1;
}
