#include "base/buf.h"
#include "engine/chat_template.h"
#include "tools/model_file.h"
#include "tools/option.h"
#include "tools/standard_input.h"
#include "tools/subcommand.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MESSAGES_MAX = 1 << 20 };

struct render {
    const char *model;
    const char *template_path;
    int no_generation_prompt;
    int prints_ids;
    int jsonl;
    struct gguf *file;
    struct tokenizer *tokenizer;
};

/* Messages as JSON has them; the texts are the JSON's. */
struct messages {
    struct chat_message *list;
    size_t count;
};

static void messages_done(struct messages *messages) {
    free(messages->list);
}

static enum err read_text(const json_t *message, const char *name, const char **text, size_t *len) {
    const json_t *value = json_object_get(message, name);
    if (!json_is_string(value)) {
        return err_fail(ERR_FORMAT, "a message's \"%s\" must be a string", name);
    }
    *text = json_string_value(value);
    *len = json_string_length(value);
    return ERR_OK;
}

static enum err read_messages(const json_t *array, struct messages *messages) {
    size_t count = json_array_size(array);
    if (!json_is_array(array) || count > MESSAGES_MAX) {
        return err_fail(ERR_FORMAT, "messages must be an array of at most %d", MESSAGES_MAX);
    }
    messages->list = calloc(count + 1, sizeof *messages->list);
    if (messages->list == NULL) {
        return err_fail(ERR_NOMEM, "%zu messages", count);
    }
    messages->count = count;
    for (size_t i = 0; i < count; i++) {
        struct chat_message *message = &messages->list[i];
        const json_t *given = json_array_get(array, i);
        TRY(read_text(given, "role", &message->role, &message->role_len));
        TRY(read_text(given, "content", &message->content, &message->content_len));
    }
    return ERR_OK;
}

static enum err print_ids(const struct chat_template *chat_template,
                          const struct messages *messages) {
    CLEANUP(prompt_ids_done) struct prompt_ids ids = {0};
    TRY(chat_template_first(chat_template, messages->list, messages->count, &ids));
    printf("{\"ids\": [");
    for (size_t i = 0; i < ids.list.count; i++) {
        printf("%s%d", i == 0 ? "" : ", ", ids.list.ids[i]);
    }
    printf("], \"prompt_end\": %zu}\n", ids.prompt_end);
    return ERR_OK;
}

static enum err render_text(const struct chat_template *chat_template,
                            const struct messages *messages, int add_generation_prompt,
                            struct buf *text) {
    buf_init(text, TOKENIZER_TEXT_BYTES_MAX);
    return chat_template_render(chat_template, messages->list, messages->count,
                                add_generation_prompt, text);
}

static enum err load_template(const struct render *run, const char *source, size_t len,
                              struct chat_template **out) {
    if (source == NULL) {
        struct gguf_string text;
        enum err err = gguf_get_string(run->file, "tokenizer.chat_template", &text);
        if (err == ERR_NOT_FOUND) {
            return err_fail(ERR_UNSUPPORTED, "%s has no tokenizer.chat_template",
                            model_file_label(run->model));
        }
        TRY(err);
        source = text.text;
        len = text.len;
    }
    struct chat_template_params params = {.source = source,
                                          .len = len,
                                          .tokenizer = run->tokenizer,
                                          .is_for_rendering_only = !run->prints_ids};
    return chat_template_create(&params, out);
}

/* The plain way: one array of messages, and its text as it is. */

static enum err read_file(const char *path, struct buf *out) {
    FILE *file = fopen(path, "rb");
    if (file == NULL) {
        return err_fail(ERR_IO, "%s cannot be opened", path);
    }
    enum err err = ERR_OK;
    size_t len = 0;
    char step[4096];
    while (err == ERR_OK && (len = fread(step, 1, sizeof step, file)) > 0) {
        err = buf_append(out, step, len);
    }
    if (err == ERR_OK && ferror(file)) {
        err = err_fail(ERR_IO, "%s cannot be read", path);
    }
    fclose(file);
    return err;
}

static enum err print_rendering(const struct render *run, const struct chat_template *chat_template,
                                const struct messages *messages) {
    if (run->prints_ids) {
        return print_ids(chat_template, messages);
    }
    CLEANUP(buf_done) struct buf text = {0};
    TRY(render_text(chat_template, messages, !run->no_generation_prompt, &text));
    return fwrite(text.data, 1, text.len, stdout) == text.len
               ? ERR_OK
               : err_fail(ERR_IO, "standard output cannot be written");
}

static enum err render_given(const struct render *run, const json_t *array) {
    CLEANUP(messages_done) struct messages messages = {0};
    CLEANUP(buf_done) struct buf source;
    buf_init(&source, TOKENIZER_TEXT_BYTES_MAX);
    TRY(read_messages(array, &messages));
    if (run->template_path != NULL) {
        TRY(read_file(run->template_path, &source));
    }
    const char *text = NULL;
    if (run->template_path != NULL) {
        TRY(buf_text(&source, &text));
    }
    struct chat_template *chat_template;
    TRY(load_template(run, text, source.len, &chat_template));
    enum err err = print_rendering(run, chat_template, &messages);
    chat_template_destroy(chat_template);
    return err;
}

static enum err render_input(const struct render *run) {
    CLEANUP(buf_done) struct buf input;
    buf_init(&input, TOKENIZER_TEXT_BYTES_MAX);
    TRY(standard_input_read(&input));
    json_error_t error;
    const char *text;
    TRY(buf_text(&input, &text));
    json_t *array = json_loadb(text, input.len, JSON_ALLOW_NUL, &error);
    if (array == NULL) {
        return err_fail(ERR_FORMAT, "line %d: %s", error.line, error.text);
    }
    enum err err = render_given(run, array);
    json_decref(array);
    return err;
}

/* Lines of JSON: the text, or why there is none, is a line too. */

static enum err print_field(const char *name, const char *text, size_t len) {
    json_t *line = json_pack("{s: s%}", name, text, len);
    char *dump = line == NULL ? NULL : json_dumps(line, 0);
    enum err err = ERR_OK;
    if (dump == NULL) {
        err = err_fail(ERR_NOMEM, "answer of %zu bytes", len);
    } else {
        printf("%s\n", dump);
    }
    free(dump);
    json_decref(line);
    return err;
}

static enum err answer_line(const struct render *run, const json_t *line,
                            const struct messages *messages) {
    const json_t *source = json_object_get(line, "template");
    const json_t *flag = json_object_get(line, "add_generation_prompt");
    int add_generation_prompt = flag == NULL ? !run->no_generation_prompt : json_is_true(flag);
    struct chat_template *chat_template;
    TRY(load_template(run, json_string_value(source), json_string_length(source), &chat_template));
    enum err err = ERR_OK;
    if (run->prints_ids) {
        err = print_ids(chat_template, messages);
    } else {
        CLEANUP(buf_done) struct buf text = {0};
        err = render_text(chat_template, messages, add_generation_prompt, &text);
        if (err == ERR_OK) {
            err = print_field("text", text.len == 0 ? "" : (const char *)text.data, text.len);
        }
    }
    chat_template_destroy(chat_template);
    return err;
}

static enum err render_line(void *context, const json_t *line) {
    const struct render *run = context;
    CLEANUP(messages_done) struct messages messages = {0};
    TRY(read_messages(json_object_get(line, "messages"), &messages));
    enum err err = answer_line(run, line, &messages);
    if (err == ERR_UNSUPPORTED) {
        err = print_field("error", err_message(), strlen(err_message()));
    }
    return err == ERR_OK && fflush(stdout) != 0
               ? err_fail(ERR_IO, "standard output cannot be written")
               : err;
}

static enum err run_render(struct render *run) {
    TRY(model_file_open(run->model, &run->file));
    enum err err = tokenizer_create(run->file, &run->tokenizer);
    if (err != ERR_OK) {
        err = err_context(err, "%s", model_file_label(run->model));
    } else {
        err = run->jsonl ? standard_input_json_lines(render_line, run) : render_input(run);
    }
    tokenizer_destroy(run->tokenizer);
    gguf_close(run->file);
    return err;
}

int subcommand_render(int argc, char **argv) {
    struct render run = {0};
    const struct option_entry entries[] = {
        {.name = "model",
         .kind = OPTION_TEXT,
         .value = &run.model,
         .argument = "FILE",
         .help = "GGUF with vocabulary and template, no tensors needed (demo: the one built in)"},
        {.name = "template",
         .kind = OPTION_TEXT,
         .value = &run.template_path,
         .argument = "FILE",
         .help = "a template in place of the model's"},
        {.name = "no-generation-prompt",
         .kind = OPTION_FLAG,
         .value = &run.no_generation_prompt,
         .help = "end with the last message"},
        {.name = "ids",
         .kind = OPTION_FLAG,
         .value = &run.prints_ids,
         .help = "the ids of a new conversation's first prompt"},
        {.name = "jsonl",
         .kind = OPTION_FLAG,
         .value = &run.jsonl,
         .help = "read one JSON object a line"},
    };
    const struct option_spec spec = {
        .usage = "tern render [--model FILE] [--template FILE] [--no-generation-prompt] [--ids]\n"
                 "                   [--jsonl] < MESSAGES",
        .summary =
            "Reads an array of {\"role\", \"content\"} from standard input and writes what the\n"
            "chat template makes of it: the text as it is, or with --ids {\"ids\", "
            "\"prompt_end\"},\n"
            "where prompt_end ids lie in front of the generation prompt.\n\n"
            "With --jsonl every line is {\"messages\", \"template\", \"add_generation_prompt\"},\n"
            "where all but messages may be left out and else override the options; the answer\n"
            "to each is a line, {\"text\"}, {\"ids\", \"prompt_end\"} or {\"error\"} for a "
            "template\n"
            "that is not understood.",
        .entries = entries,
        .count = ARRAY_LEN(entries),
    };
    enum option_outcome outcome = option_parse(&spec, argc, argv, NULL, NULL);
    if (outcome != OPTION_RUN) {
        return outcome == OPTION_HELP_SHOWN ? EXIT_CODE_OK : EXIT_CODE_USAGE;
    }
    enum err err =
        run.prints_ids && run.no_generation_prompt
            ? err_fail(ERR_INVALID, "--ids and --no-generation-prompt cannot both be given")
            : run_render(&run);
    if (err != ERR_OK) {
        fprintf(stderr, "tern render: %s\n", err_message());
        return err == ERR_INVALID ? EXIT_CODE_USAGE : EXIT_CODE_FAILED;
    }
    return EXIT_CODE_OK;
}
