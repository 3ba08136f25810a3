/*
 * A Jinja template's text cut into tokens, with white space treated as chat templates expect it:
 * trim_blocks and lstrip_blocks are on, `-` strips all white space on its side, `+` switches the
 * two off on its side, every kind of line break is \n, and one at the very end goes. Comments are
 * left out. Embedded by value; owns a copy of the source. Hostile sources are safe: one pass,
 * nothing recurses.
 */
#ifndef TERN_ENGINE_TEMPLATE_LEXER_H
#define TERN_ENGINE_TEMPLATE_LEXER_H

#include "base/err.h"

enum { TEMPLATE_LEXER_SOURCE_BYTES_MAX = 1 << 20 };

enum template_lexer_kind {
    TEMPLATE_LEXER_DATA,           /* text between tags, never empty */
    TEMPLATE_LEXER_BLOCK_BEGIN,    /* {% */
    TEMPLATE_LEXER_BLOCK_END,      /* %} */
    TEMPLATE_LEXER_VARIABLE_BEGIN, /* {{ */
    TEMPLATE_LEXER_VARIABLE_END,   /* }} */
    TEMPLATE_LEXER_NAME,           /* letters, digits and _ of ASCII */
    TEMPLATE_LEXER_STRING,         /* what is between the quotes, escapes as they stand */
    TEMPLATE_LEXER_SIGN,           /* any other character inside a tag */
    TEMPLATE_LEXER_END,            /* of the source, perhaps inside a tag */
};

struct template_lexer_token {
    enum template_lexer_kind kind;
    int line;         /* where it begins, from 1 */
    const char *text; /* valid until template_lexer_done, not terminated */
    size_t len;
};

struct template_lexer {
    char *source; /* line breaks are \n */
    size_t len;
    size_t at;
    size_t counted; /* `line` is right for this position */
    int line;
    int is_line_start; /* the last tag's end took a line break with it, or there was no tag yet */
    int is_begin_due;  /* text in front of the tag at `at` was handed out */
    enum template_lexer_kind end; /* which end closes the tag that is open; DATA: none is */
};

/* Copies SOURCE. ERR_UNSUPPORTED for too long a source and for one that is not UTF-8. */
MUST_USE enum err template_lexer_init(struct template_lexer *lexer, const char *source, size_t len);
void template_lexer_done(struct template_lexer *lexer); /* also fits CLEANUP */

/* ERR_UNSUPPORTED, naming the line, for a string or comment without an end. */
MUST_USE enum err template_lexer_next(struct template_lexer *lexer,
                                      struct template_lexer_token *out);

#endif
