/*
 * JSON written by hand into a buffer: strings, escaped. What is not UTF-8 becomes U+FFFD, so that
 * the result is always valid.
 */
#ifndef TERN_SERVER_JSON_TEXT_H
#define TERN_SERVER_JSON_TEXT_H

#include "base/buf.h"

/* A string with its quotes. */
MUST_USE enum err json_text_append(struct buf *out, const char *text, size_t len);

/* The same of a string that ends with NUL; NULL becomes null. */
MUST_USE enum err json_text_append_string(struct buf *out, const char *text);

#endif
