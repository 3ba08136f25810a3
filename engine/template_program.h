/*
 * What a chat template does, read from its source: the pieces that it writes in front of the
 * messages, for each message, behind them, for the generation prompt and at the end. Immutable
 * once parsed: any thread.
 */
#ifndef TERN_ENGINE_TEMPLATE_PROGRAM_H
#define TERN_ENGINE_TEMPLATE_PROGRAM_H

#include "base/buf.h"

enum { TEMPLATE_PROGRAM_PIECES_MAX = 256, TEMPLATE_PROGRAM_TEXT_BYTES_MAX = 4 << 20 };

enum template_program_kind {
    TEMPLATE_PROGRAM_LITERAL,
    TEMPLATE_PROGRAM_ROLE,
    TEMPLATE_PROGRAM_CONTENT,
};

struct template_program_piece {
    enum template_program_kind kind;
    size_t at; /* of a literal, in `text` */
    size_t len;
};

enum template_program_part {
    TEMPLATE_PROGRAM_BEGINNING,  /* once, in front of the messages */
    TEMPLATE_PROGRAM_MESSAGE,    /* for each message */
    TEMPLATE_PROGRAM_BEHIND,     /* once, behind the messages */
    TEMPLATE_PROGRAM_GENERATION, /* if an answer is to follow */
    TEMPLATE_PROGRAM_ENDING,     /* once, at the end */
    TEMPLATE_PROGRAM_PARTS,
};

struct template_program {
    struct template_program_piece pieces[TEMPLATE_PROGRAM_PIECES_MAX];
    size_t first[TEMPLATE_PROGRAM_PARTS + 1]; /* part p: pieces [first[p], first[p + 1]) */
    struct buf text;
};

/* What the variables bos_token and eos_token stand for; not terminated. */
struct template_program_names {
    const char *bos;
    size_t bos_len;
    const char *eos;
    size_t eos_len;
};

/* ERR_UNSUPPORTED names the line, what stands there and what was expected. */
MUST_USE enum err template_program_parse(const char *source, size_t len,
                                         const struct template_program_names *names,
                                         struct template_program **out);
void template_program_destroy(struct template_program *program);

#endif
