/*
 * Reading standard input: as a whole, or as lines of JSON, one object each.
 */
#ifndef TERN_TOOLS_STANDARD_INPUT_H
#define TERN_TOOLS_STANDARD_INPUT_H

#include "base/buf.h"

#include <jansson.h>

/* Appends all of it to BUF; ERR_FULL beyond BUF's cap. */
MUST_USE enum err standard_input_read(struct buf *buf);

/*
 * Calls TAKE with every line's object, which it borrows; blank lines are skipped. An error, which
 * names the line, ends the reading. Strings may hold NUL.
 */
MUST_USE enum err standard_input_json_lines(enum err (*take)(void *context, const json_t *line),
                                            void *context);

#endif
