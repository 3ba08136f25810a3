/*
 * The lines that somebody types: with line editing and a history at a terminal, else as they
 * stand on standard input. One thread; one at a time.
 */
#ifndef TERN_TOOLS_CHAT_LINE_H
#define TERN_TOOLS_CHAT_LINE_H

#include "base/err.h"

struct chat_line;

MUST_USE enum err chat_line_create(struct chat_line **out);
void chat_line_destroy(struct chat_line *line); /* accepts NULL */

/*
 * Shows PROMPT, at a terminal only, and reads a line without its end; *text is valid until the
 * next call, and NULL at the end of the input. At a terminal the interrupt key ends the process,
 * as it does anywhere else.
 */
MUST_USE enum err chat_line_read(struct chat_line *line, const char *prompt, const char **text);

int chat_line_is_terminal(const struct chat_line *line);

#endif
