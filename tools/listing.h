/*
 * Lists of rows on standard output, for people as columns of text or for programs as one JSON
 * object whose members are the sections. Rows are written as they come: a long list takes no
 * memory. A row is a JSON object; a column of text shows one member of it.
 *
 * One thread. Whether standard output took everything is seen by main().
 */
#ifndef TERN_TOOLS_LISTING_H
#define TERN_TOOLS_LISTING_H

#include "base/err.h"

#include <jansson.h>

enum listing_form {
    LISTING_PLAIN,  /* text or number; true as "yes", null as "-" */
    LISTING_BYTES,  /* "1.5 MiB" */
    LISTING_TIME,   /* Unix milliseconds as UTC; 0 as "-" */
    LISTING_DIGEST, /* the first digits */
};

struct listing_column {
    const char *key;
    const char *title;
    int width; /* at least; negative: left-aligned */
    enum listing_form form;
};

struct listing {
    int is_json;
    int section_count;
    int is_list;        /* the open section is one of rows */
    uint64_t row_count; /* of the section so far */
    const struct listing_column *columns;
    size_t column_count;
    uint64_t rows_max; /* of a section; 0: any number */
};

void listing_begin(struct listing *listing, int is_json, uint64_t rows_max);

/* COLUMNS must live until the next section. None: the caller prints rows as text by itself. */
void listing_section(struct listing *listing, const char *name,
                     const struct listing_column *columns, size_t column_count);

/* True once the section has as many rows as it may. */
int listing_is_full(const struct listing *listing);

/* Writes a row and drops it; NULL, which jansson gives when memory ran out, is ERR_NOMEM. */
MUST_USE enum err listing_row(struct listing *listing, json_t *row);

/* A section that is one object: its members line by line as "title  value". */
MUST_USE enum err listing_object(struct listing *listing, const char *name, json_t *object,
                                 const struct listing_column *columns, size_t column_count);
void listing_end(struct listing *listing);

/* --- values ------------------------------------------------------------------------------ */

/* Text of the client's: as it is if it is UTF-8, otherwise with its bytes as "\xNN". */
json_t *listing_text(const void *bytes, size_t len);
json_t *listing_digest(const uint8_t *bytes, size_t len); /* in hex */
json_t *listing_number(uint64_t number);

/* Prints client's text to the terminal: control characters, but for newlines, as "\xNN"; every
 * line but the first begins with INDENT. */
void listing_print_text(const char *text, size_t len, const char *indent);

#endif
