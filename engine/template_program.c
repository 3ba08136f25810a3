/*
 * The grammar that is understood:
 *
 *     template   = written { "{% for" NAME "in messages %}" } message "{% endfor %}" written
 *                  [ "{% if add_generation_prompt %}" written "{% endif %}" written ]
 *     written    = { TEXT | "{{" value { ( "+" | "~" ) value } "}}" }
 *     value      = STRING { STRING } | bos_token | eos_token
 *     message    = written, where a value may also be NAME.role, NAME['role'], NAME.content or
 *                  NAME['content']
 *
 * Nothing nests but what is written here, so nothing recurses.
 */
#include "engine/template_program.h"
#include "engine/template_lexer.h"
#include "engine/template_literal.h"

#include <stdlib.h>
#include <string.h>

enum { SHOWN_BYTES_MAX = 40 };

struct parse {
    struct template_lexer lexer;
    struct template_lexer_token token; /* the one that is looked at */
    const struct template_program_names *names;
    struct template_program *program;
    enum template_program_part part;
    size_t piece_count;
    const char *variable; /* the loop's, in the lexer's source */
    size_t variable_len;
};

static enum err advance(struct parse *parse) {
    return template_lexer_next(&parse->lexer, &parse->token);
}

static int is_kind(const struct parse *parse, enum template_lexer_kind kind) {
    return parse->token.kind == kind;
}

static int is_text(const struct parse *parse, const char *text) {
    size_t len = strlen(text);
    return parse->token.len == len && memcmp(parse->token.text, text, len) == 0;
}

static int is_name(const struct parse *parse, const char *name) {
    return is_kind(parse, TEMPLATE_LEXER_NAME) && is_text(parse, name);
}

static int is_sign(const struct parse *parse, const char *sign) {
    return is_kind(parse, TEMPLATE_LEXER_SIGN) && is_text(parse, sign);
}

static int is_loop_variable(const struct parse *parse) {
    return parse->part == TEMPLATE_PROGRAM_MESSAGE && is_kind(parse, TEMPLATE_LEXER_NAME) &&
           parse->token.len == parse->variable_len &&
           memcmp(parse->token.text, parse->variable, parse->variable_len) == 0;
}

/* What stands here is not understood. */
static enum err refuse(const struct parse *parse, const char *expected) {
    const struct template_lexer_token *token = &parse->token;
    if (token->kind == TEMPLATE_LEXER_END) {
        return err_fail(ERR_UNSUPPORTED, "chat template, line %d: the template ends, expected %s",
                        token->line, expected);
    }
    int shown = token->len < SHOWN_BYTES_MAX ? (int)token->len : SHOWN_BYTES_MAX;
    while (shown > 0 && (size_t)shown < token->len && (token->text[shown] & 0xc0) == 0x80) {
        shown--;
    }
    return err_fail(ERR_UNSUPPORTED,
                    "chat template, line %d: %s'%.*s' is not supported here, expected %s",
                    token->line, token->kind == TEMPLATE_LEXER_STRING ? "the string " : "", shown,
                    token->text, expected);
}

static enum err expect_kind(struct parse *parse, enum template_lexer_kind kind,
                            const char *expected) {
    return is_kind(parse, kind) ? advance(parse) : refuse(parse, expected);
}

static enum err expect_name(struct parse *parse, const char *name) {
    return is_name(parse, name) ? advance(parse) : refuse(parse, name);
}

/* Pieces. */

static enum err add_piece(struct parse *parse, struct template_program_piece piece) {
    if (parse->piece_count == TEMPLATE_PROGRAM_PIECES_MAX) {
        return err_fail(ERR_UNSUPPORTED,
                        "chat template, line %d: more pieces than the %d that are supported",
                        parse->token.line, TEMPLATE_PROGRAM_PIECES_MAX);
    }
    parse->program->pieces[parse->piece_count++] = piece;
    return ERR_OK;
}

/* The program's text has grown since it was BEFORE long: by a literal of the current part. */
static enum err take_literal(struct parse *parse, size_t before) {
    const struct template_program *program = parse->program;
    size_t len = program->text.len - before;
    if (len == 0) {
        return ERR_OK;
    }
    if (parse->piece_count > program->first[parse->part]) {
        struct template_program_piece *last = &parse->program->pieces[parse->piece_count - 1];
        if (last->kind == TEMPLATE_PROGRAM_LITERAL) {
            last->len += len;
            return ERR_OK;
        }
    }
    return add_piece(parse, (struct template_program_piece){
                                .kind = TEMPLATE_PROGRAM_LITERAL, .at = before, .len = len});
}

static enum err add_literal(struct parse *parse, const char *text, size_t len) {
    size_t before = parse->program->text.len;
    if (len > TEMPLATE_PROGRAM_TEXT_BYTES_MAX - before) {
        return err_fail(ERR_UNSUPPORTED,
                        "chat template, line %d: literals of more than %d bytes in all",
                        parse->token.line, TEMPLATE_PROGRAM_TEXT_BYTES_MAX);
    }
    TRY(buf_append(&parse->program->text, text, len));
    return take_literal(parse, before);
}

static void begin_part(struct parse *parse, enum template_program_part part) {
    parse->part = part;
    parse->program->first[part] = parse->piece_count;
}

/* Expressions. */

static enum err parse_string(struct parse *parse) {
    size_t before = parse->program->text.len;
    enum err err =
        template_literal_decode(parse->token.text, parse->token.len, &parse->program->text);
    if (err != ERR_OK) {
        return err_context(err == ERR_FULL ? ERR_UNSUPPORTED : err, "chat template, line %d",
                           parse->token.line);
    }
    TRY(take_literal(parse, before));
    return advance(parse);
}

/* NAME is behind; its field follows, in either spelling. */
static enum err parse_field(struct parse *parse) {
    static const char expected[] = "role or content of the message";
    TRY(advance(parse));
    int is_item = is_sign(parse, "[");
    if (!is_item && !is_sign(parse, ".")) {
        return refuse(parse, expected);
    }
    TRY(advance(parse));
    if (!is_kind(parse, is_item ? TEMPLATE_LEXER_STRING : TEMPLATE_LEXER_NAME)) {
        return refuse(parse, expected);
    }
    struct template_program_piece piece = {.kind = TEMPLATE_PROGRAM_ROLE};
    if (is_text(parse, "content")) {
        piece.kind = TEMPLATE_PROGRAM_CONTENT;
    } else if (!is_text(parse, "role")) {
        return refuse(parse, expected);
    }
    TRY(add_piece(parse, piece));
    TRY(advance(parse));
    if (!is_item) {
        return ERR_OK;
    }
    return is_sign(parse, "]") ? advance(parse) : refuse(parse, "']'");
}

static enum err parse_value(struct parse *parse) {
    if (is_loop_variable(parse)) {
        return parse_field(parse);
    }
    if (is_name(parse, "bos_token")) {
        TRY(add_literal(parse, parse->names->bos, parse->names->bos_len));
        return advance(parse);
    }
    if (is_name(parse, "eos_token")) {
        TRY(add_literal(parse, parse->names->eos, parse->names->eos_len));
        return advance(parse);
    }
    if (!is_kind(parse, TEMPLATE_LEXER_STRING)) {
        return refuse(parse, parse->part == TEMPLATE_PROGRAM_MESSAGE
                                 ? "a string, or role or content of the message"
                                 : "a string");
    }
    while (is_kind(parse, TEMPLATE_LEXER_STRING)) {
        TRY(parse_string(parse));
    }
    return ERR_OK;
}

static enum err parse_expression(struct parse *parse) {
    TRY(advance(parse));
    TRY(parse_value(parse));
    while (is_sign(parse, "+") || is_sign(parse, "~")) {
        TRY(advance(parse));
        TRY(parse_value(parse));
    }
    return expect_kind(parse, TEMPLATE_LEXER_VARIABLE_END, "'+', '~' or '}}'");
}

/* Statements. */

/* Names that are taken: by Jinja, or by what a template is given. */
static int is_reserved(const struct parse *parse) {
    static const char *const names[] = {
        "and",      "or",        "not",
        "in",       "is",        "if",
        "else",     "elif",      "true",
        "false",    "none",      "True",
        "False",    "None",      "loop",
        "self",     "super",     "caller",
        "varargs",  "kwargs",    "recursive",
        "messages", "bos_token", "eos_token",
        "for",      "endfor",    "add_generation_prompt",
    };
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        if (is_text(parse, names[i])) {
            return 1;
        }
    }
    return 0;
}

static enum err parse_for(struct parse *parse) {
    if (!is_kind(parse, TEMPLATE_LEXER_NAME) || is_reserved(parse)) {
        return refuse(parse, "the name of the loop's variable");
    }
    parse->variable = parse->token.text;
    parse->variable_len = parse->token.len;
    TRY(advance(parse));
    TRY(expect_name(parse, "in"));
    TRY(expect_name(parse, "messages"));
    begin_part(parse, TEMPLATE_PROGRAM_MESSAGE);
    return ERR_OK;
}

static enum err parse_statement(struct parse *parse) {
    static const char *const expected[TEMPLATE_PROGRAM_PARTS] = {
        [TEMPLATE_PROGRAM_BEGINNING] = "a for loop over messages",
        [TEMPLATE_PROGRAM_MESSAGE] = "endfor",
        [TEMPLATE_PROGRAM_BEHIND] = "if add_generation_prompt",
        [TEMPLATE_PROGRAM_GENERATION] = "endif",
        [TEMPLATE_PROGRAM_ENDING] = "no further statement",
    };
    TRY(advance(parse));
    enum template_program_part part = parse->part;
    if (part == TEMPLATE_PROGRAM_BEGINNING && is_name(parse, "for")) {
        TRY(advance(parse));
        TRY(parse_for(parse));
    } else if (part == TEMPLATE_PROGRAM_MESSAGE && is_name(parse, "endfor")) {
        TRY(advance(parse));
        begin_part(parse, TEMPLATE_PROGRAM_BEHIND);
    } else if (part == TEMPLATE_PROGRAM_BEHIND && is_name(parse, "if")) {
        TRY(advance(parse));
        TRY(expect_name(parse, "add_generation_prompt"));
        begin_part(parse, TEMPLATE_PROGRAM_GENERATION);
    } else if (part == TEMPLATE_PROGRAM_GENERATION && is_name(parse, "endif")) {
        TRY(advance(parse));
        begin_part(parse, TEMPLATE_PROGRAM_ENDING);
    } else {
        return refuse(parse, expected[part]);
    }
    return expect_kind(parse, TEMPLATE_LEXER_BLOCK_END, "'%}'");
}

static enum err parse_all(struct parse *parse) {
    begin_part(parse, TEMPLATE_PROGRAM_BEGINNING);
    TRY(advance(parse));
    while (!is_kind(parse, TEMPLATE_LEXER_END)) {
        if (is_kind(parse, TEMPLATE_LEXER_DATA)) {
            TRY(add_literal(parse, parse->token.text, parse->token.len));
            TRY(advance(parse));
        } else if (is_kind(parse, TEMPLATE_LEXER_VARIABLE_BEGIN)) {
            TRY(parse_expression(parse));
        } else {
            TRY(parse_statement(parse));
        }
    }
    if (parse->part == TEMPLATE_PROGRAM_BEGINNING) {
        return refuse(parse, "a for loop over messages");
    }
    if (parse->part == TEMPLATE_PROGRAM_MESSAGE) {
        return refuse(parse, "endfor");
    }
    if (parse->part == TEMPLATE_PROGRAM_GENERATION) {
        return refuse(parse, "endif");
    }
    for (size_t part = parse->part + 1; part <= TEMPLATE_PROGRAM_PARTS; part++) {
        parse->program->first[part] = parse->piece_count;
    }
    return ERR_OK;
}

enum err template_program_parse(const char *source, size_t len,
                                const struct template_program_names *names,
                                struct template_program **out) {
    struct template_program *program = calloc(1, sizeof *program);
    if (program == NULL) {
        return err_fail(ERR_NOMEM, "chat template");
    }
    buf_init(&program->text, TEMPLATE_PROGRAM_TEXT_BYTES_MAX);
    struct parse parse = {.names = names, .program = program};
    enum err err = template_lexer_init(&parse.lexer, source, len);
    if (err == ERR_OK) {
        err = parse_all(&parse);
    }
    template_lexer_done(&parse.lexer);
    if (err != ERR_OK) {
        template_program_destroy(program);
        return err;
    }
    *out = program;
    return ERR_OK;
}

void template_program_destroy(struct template_program *program) {
    if (program == NULL) {
        return;
    }
    buf_done(&program->text);
    free(program);
}
