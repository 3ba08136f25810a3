#include "base/buf.h"
#include "tools/option.h"
#include "tools/standard_input.h"
#include "tools/subcommand.h"
#include "tools/vocabulary.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct detokenize {
    const char *model;
    int special;
    int jsonl;
    struct tokenizer *tokenizer;
};

static const char spaces[] = " \t\r\n\v\f";

/* The text of IDS as valid UTF-8, by the same way as an answer is streamed. */
static enum err append_text(const struct detokenize *run, const struct token_list *list,
                            int special, struct buf *out) {
    struct utf8_stream stream = {0};
    for (size_t i = 0; i < list->count; i++) {
        const char *bytes;
        size_t len;
        uint8_t *room;
        TRY(tokenizer_piece(run->tokenizer, list->ids[i], special, &bytes, &len));
        size_t before = out->len;
        TRY(buf_extend(out, 3 * len + 12, &room));
        out->len = before + utf8_stream_push(&stream, bytes, len, (char *)room);
    }
    uint8_t *room;
    size_t before = out->len;
    TRY(buf_extend(out, 12, &room));
    out->len = before + utf8_stream_finish(&stream, (char *)room);
    return ERR_OK;
}

static enum err print_pieces(const struct detokenize *run, const struct token_list *list,
                             int special) {
    for (size_t i = 0; i < list->count; i++) {
        const char *bytes;
        size_t len;
        TRY(tokenizer_piece(run->tokenizer, list->ids[i], special, &bytes, &len));
        fputs(i == 0 ? "\"" : ", \"", stdout);
        for (size_t k = 0; k < len; k++) {
            printf("%02x", (unsigned)(uint8_t)bytes[k]);
        }
        putchar('"');
    }
    return ERR_OK;
}

static enum err print_tokens(const struct detokenize *run, const struct token_list *list,
                             int special) {
    CLEANUP(buf_done) struct buf text;
    buf_init(&text, SIZE_MAX / 4);
    TRY(append_text(run, list, special, &text)); /* checks the ids before anything is written */
    json_t *string = json_stringn((const char *)text.data, text.len);
    char *quoted = json_dumps(string, JSON_ENCODE_ANY);
    json_decref(string);
    if (quoted == NULL) {
        return err_fail(ERR_NOMEM, "text of %zu bytes", text.len);
    }
    printf("{\"text\": %s, \"pieces\": [", quoted);
    free(quoted);
    TRY(print_pieces(run, list, special));
    printf("]}\n");
    /* A program that writes a line and waits for the answer must get it. */
    return fflush(stdout) == 0 ? ERR_OK : err_fail(ERR_IO, "standard output cannot be written");
}

static enum err parse_id(const char *word, size_t len, struct token_list *list) {
    char *end;
    errno = 0;
    long value = strtol(word, &end, 10);
    if (len == 0 || !isdigit((unsigned char)word[0]) || end != word + len || errno != 0 ||
        value < 0 || value > INT32_MAX) {
        return err_fail(ERR_FORMAT, "'%.*s' is no token id", len < 80 ? (int)len : 80, word);
    }
    int32_t id = (int32_t)value;
    return token_list_append(list, &id, 1);
}

static enum err detokenize_words(const struct detokenize *run) {
    CLEANUP(buf_done) struct buf input;
    CLEANUP(token_list_done) struct token_list list = {0};
    const char *text;
    buf_init(&input, INT32_MAX);
    TRY(standard_input_read(&input));
    TRY(buf_text(&input, &text));
    const char *end = text + input.len;
    for (int is_first = 1;; is_first = 0) {
        text += strspn(text, spaces);
        size_t len = strcspn(text, spaces);
        if (text == end) {
            break;
        }
        if (!is_first || len != 7 || memcmp(text, "tokens:", len) != 0) {
            TRY(parse_id(text, len, &list));
        }
        text += len;
    }
    return print_tokens(run, &list, run->special);
}

static enum err detokenize_line(void *context, const json_t *line) {
    const struct detokenize *run = context;
    CLEANUP(token_list_done) struct token_list list = {0};
    const json_t *ids = json_object_get(line, "ids");
    const json_t *special = json_object_get(line, "special");
    if (!json_is_array(ids)) {
        return err_fail(ERR_FORMAT, "\"ids\" must be an array of token ids");
    }
    if (special != NULL && !json_is_boolean(special)) {
        return err_fail(ERR_FORMAT, "\"special\" must be true or false");
    }
    for (size_t i = 0; i < json_array_size(ids); i++) {
        const json_t *value = json_array_get(ids, i);
        json_int_t number = json_integer_value(value);
        if (!json_is_integer(value) || number < 0 || number > INT32_MAX) {
            return err_fail(ERR_FORMAT, "\"ids\": element %zu is no token id", i);
        }
        int32_t id = (int32_t)number;
        TRY(token_list_append(&list, &id, 1));
    }
    return print_tokens(run, &list, special == NULL ? run->special : json_is_true(special));
}

static enum err run_detokenize(struct detokenize *run) {
    TRY(vocabulary_load(run->model, &run->tokenizer));
    enum err err =
        run->jsonl ? standard_input_json_lines(detokenize_line, run) : detokenize_words(run);
    tokenizer_destroy(run->tokenizer);
    return err;
}

int subcommand_detokenize(int argc, char **argv) {
    struct detokenize run = {0};
    const struct option_entry entries[] = {
        {.name = "model",
         .kind = OPTION_TEXT,
         .value = &run.model,
         .argument = "FILE",
         .help = "GGUF with the vocabulary, tensors are not needed (demo: the one built in)"},
        {.name = "special",
         .kind = OPTION_FLAG,
         .value = &run.special,
         .help = "write control tokens out; else they write nothing"},
        {.name = "jsonl",
         .kind = OPTION_FLAG,
         .value = &run.jsonl,
         .help = "read one JSON object a line"},
    };
    const struct option_spec spec = {
        .usage = "tern detokenize [--model FILE] [--special] [--jsonl] < IDS",
        .summary =
            "Reads token ids from standard input, separated by white space (a leading word\n"
            "\"tokens:\" is skipped), and writes {\"text\", \"pieces\"}: pieces holds each\n"
            "token's bytes in hex, text all of them with U+FFFD for what is not UTF-8.\n\n"
            "With --jsonl every line is {\"ids\", \"special\"}, where special may be left out\n"
            "and else overrides the option; the answer to each is a line.",
        .entries = entries,
        .count = ARRAY_LEN(entries),
    };
    enum option_outcome outcome = option_parse(&spec, argc, argv, NULL, NULL);
    if (outcome != OPTION_RUN) {
        return outcome == OPTION_HELP_SHOWN ? EXIT_CODE_OK : EXIT_CODE_USAGE;
    }
    if (run_detokenize(&run) != ERR_OK) {
        fprintf(stderr, "tern detokenize: %s\n", err_message());
        return EXIT_CODE_FAILED;
    }
    return EXIT_CODE_OK;
}
