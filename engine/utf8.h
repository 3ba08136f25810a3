/*
 * UTF-8 as Unicode defines it (no overlong forms, no surrogates, nothing above U+10FFFF),
 * one character at a time. Invalid text is cut into maximal subparts: the longest start of a
 * well-formed sequence, or else one byte. No state, any thread.
 */
#ifndef TERN_ENGINE_UTF8_H
#define TERN_ENGINE_UTF8_H

#include <stddef.h>
#include <stdint.h>

enum utf8_status {
    UTF8_COMPLETE,   /* a whole character */
    UTF8_INCOMPLETE, /* the text ends inside a character */
    UTF8_INVALID,    /* no character can begin with these bytes */
};

/*
 * Looks at the beginning of TEXT (LEN > 0). *taken is the length of the character, of the
 * incomplete rest, or of the maximal invalid subpart; *codepoint is set for UTF8_COMPLETE.
 */
enum utf8_status utf8_next(const char *text, size_t len, size_t *taken, uint32_t *codepoint);

/* The length of the longest beginning of TEXT that consists of whole characters. */
size_t utf8_valid_prefix(const char *text, size_t len);

/* The length of the run of invalid or incomplete bytes that TEXT begins with. */
size_t utf8_invalid_prefix(const char *text, size_t len);

#endif
