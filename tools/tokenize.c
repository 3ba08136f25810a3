#include "base/buf.h"
#include "tools/option.h"
#include "tools/standard_input.h"
#include "tools/subcommand.h"
#include "tools/vocabulary.h"

#include <stdio.h>

struct tokenize {
    const char *model;
    int parse_special;
    int no_bos;
    int jsonl;
    struct tokenizer *tokenizer;
};

static enum err print_ids(const struct tokenize *run,
                          const struct tokenizer_encode_params *params) {
    CLEANUP(token_list_done) struct token_list list = {0};
    TRY(tokenizer_encode(run->tokenizer, params, &list));
    printf("{\"ids\": [");
    for (size_t i = 0; i < list.count; i++) {
        printf("%s%d", i == 0 ? "" : ", ", list.ids[i]);
    }
    printf("]}\n");
    /* A program that writes a line and waits for the answer must get it. */
    return fflush(stdout) == 0 ? ERR_OK : err_fail(ERR_IO, "standard output cannot be written");
}

static enum err tokenize_text(const struct tokenize *run) {
    CLEANUP(buf_done) struct buf text;
    buf_init(&text, TOKENIZER_TEXT_BYTES_MAX);
    TRY(standard_input_read(&text));
    struct tokenizer_encode_params params = {
        .text = (const char *)text.data,
        .len = text.len,
        .parse_special = run->parse_special,
        .add_bos = !run->no_bos,
    };
    return print_ids(run, &params);
}

/* *value stays as it is if LINE does not say. */
static enum err read_flag(const json_t *line, const char *name, int *value) {
    const json_t *flag = json_object_get(line, name);
    if (flag == NULL) {
        return ERR_OK;
    }
    if (!json_is_boolean(flag)) {
        return err_fail(ERR_FORMAT, "\"%s\" must be true or false", name);
    }
    *value = json_is_true(flag);
    return ERR_OK;
}

static enum err tokenize_line(void *context, const json_t *line) {
    const struct tokenize *run = context;
    const json_t *text = json_object_get(line, "text");
    if (!json_is_string(text)) {
        return err_fail(ERR_FORMAT, "\"text\" must be a string");
    }
    struct tokenizer_encode_params params = {
        .text = json_string_value(text),
        .len = json_string_length(text),
        .parse_special = run->parse_special,
        .add_bos = !run->no_bos,
    };
    TRY(read_flag(line, "parse_special", &params.parse_special));
    TRY(read_flag(line, "add_bos", &params.add_bos));
    return print_ids(run, &params);
}

static enum err run_tokenize(struct tokenize *run) {
    TRY(vocabulary_load(run->model, &run->tokenizer));
    enum err err = run->jsonl ? standard_input_json_lines(tokenize_line, run) : tokenize_text(run);
    tokenizer_destroy(run->tokenizer);
    return err;
}

int subcommand_tokenize(int argc, char **argv) {
    struct tokenize run = {0};
    const struct option_entry entries[] = {
        {.name = "model",
         .kind = OPTION_TEXT,
         .value = &run.model,
         .argument = "FILE",
         .help = "GGUF with the vocabulary, tensors are not needed (demo: the one built in)"},
        {.name = "parse-special",
         .kind = OPTION_FLAG,
         .value = &run.parse_special,
         .help = "the text of control tokens becomes the control tokens"},
        {.name = "no-bos",
         .kind = OPTION_FLAG,
         .value = &run.no_bos,
         .help = "add neither BOS nor EOS, whatever the model asks for"},
        {.name = "jsonl",
         .kind = OPTION_FLAG,
         .value = &run.jsonl,
         .help = "read one JSON object a line"},
    };
    const struct option_spec spec = {
        .usage = "tern tokenize [--model FILE] [--parse-special] [--no-bos] [--jsonl] < TEXT",
        .summary =
            "Reads text from standard input and writes {\"ids\": [...]}. Bytes that are not\n"
            "valid UTF-8 are tokenized as the bytes they are.\n\n"
            "With --jsonl every line is {\"text\", \"parse_special\", \"add_bos\"}, where all\n"
            "but text may be left out and else override the options; the answer to each\n"
            "is a line.",
        .entries = entries,
        .count = ARRAY_LEN(entries),
    };
    enum option_outcome outcome = option_parse(&spec, argc, argv, NULL, NULL);
    if (outcome != OPTION_RUN) {
        return outcome == OPTION_HELP_SHOWN ? EXIT_CODE_OK : EXIT_CODE_USAGE;
    }
    if (run_tokenize(&run) != ERR_OK) {
        fprintf(stderr, "tern tokenize: %s\n", err_message());
        return EXIT_CODE_FAILED;
    }
    return EXIT_CODE_OK;
}
