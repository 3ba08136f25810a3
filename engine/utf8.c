#include "engine/utf8.h"

/* What may follow a lead byte: how many bytes in all, and the range of the second one. */
struct lead {
    size_t len; /* 0: no lead byte */
    uint8_t second_min;
    uint8_t second_max;
};

static struct lead lead_of(uint8_t byte) {
    if (byte < 0x80) {
        return (struct lead){1, 0, 0};
    }
    if (byte >= 0xc2 && byte <= 0xdf) {
        return (struct lead){2, 0x80, 0xbf};
    }
    if (byte >= 0xe0 && byte <= 0xef) {
        return (struct lead){3, byte == 0xe0 ? 0xa0 : 0x80, byte == 0xed ? 0x9f : 0xbf};
    }
    if (byte >= 0xf0 && byte <= 0xf4) {
        return (struct lead){4, byte == 0xf0 ? 0x90 : 0x80, byte == 0xf4 ? 0x8f : 0xbf};
    }
    return (struct lead){0, 0, 0};
}

enum utf8_status utf8_next(const char *text, size_t len, size_t *taken, uint32_t *codepoint) {
    const uint8_t *bytes = (const uint8_t *)text;
    struct lead lead = lead_of(bytes[0]);
    *taken = 1;
    if (lead.len == 0) {
        return UTF8_INVALID;
    }
    if (lead.len == 1) {
        *codepoint = bytes[0];
        return UTF8_COMPLETE;
    }
    uint32_t value = bytes[0] & (0x7fu >> lead.len);
    for (size_t i = 1; i < lead.len; i++) {
        if (i == len) {
            return UTF8_INCOMPLETE;
        }
        uint8_t min = i == 1 ? lead.second_min : 0x80;
        uint8_t max = i == 1 ? lead.second_max : 0xbf;
        if (bytes[i] < min || bytes[i] > max) {
            return UTF8_INVALID;
        }
        value = value << 6 | (bytes[i] & 0x3fu);
        *taken = i + 1;
    }
    *codepoint = value;
    return UTF8_COMPLETE;
}

size_t utf8_valid_prefix(const char *text, size_t len) {
    size_t at = 0;
    while (at < len) {
        if ((uint8_t)text[at] < 0x80) {
            at++;
            continue;
        }
        size_t taken;
        uint32_t codepoint;
        if (utf8_next(text + at, len - at, &taken, &codepoint) != UTF8_COMPLETE) {
            break;
        }
        at += taken;
    }
    return at;
}

size_t utf8_invalid_prefix(const char *text, size_t len) {
    size_t at = 0;
    while (at < len) {
        size_t taken;
        uint32_t codepoint;
        if (utf8_next(text + at, len - at, &taken, &codepoint) == UTF8_COMPLETE) {
            break;
        }
        at += taken;
    }
    return at;
}
