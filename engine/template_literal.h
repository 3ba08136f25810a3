/*
 * The text that a string literal of a template stands for: Python's escapes, unknown ones as they
 * are written. No state, any thread.
 */
#ifndef TERN_ENGINE_TEMPLATE_LITERAL_H
#define TERN_ENGINE_TEMPLATE_LITERAL_H

#include "base/buf.h"

/*
 * Appends the value of TEXT, which stood between quotes and is UTF-8. ERR_UNSUPPORTED for escapes
 * that Python refuses, for characters by name, and for surrogates, which no text can hold; OUT may
 * then have grown.
 */
MUST_USE enum err template_literal_decode(const char *text, size_t len, struct buf *out);

#endif
