#include "engine/chat_template.h"

#include "engine/template_program.h"

#include <sodium.h>
#include <stdlib.h>
#include <string.h>

struct chat_template {
    const struct tokenizer *tokenizer;
    struct template_program *program;
    int is_for_rendering_only;
    uint8_t digest[CHAT_TEMPLATE_DIGEST_BYTES];
};

/* Rendering. */

static enum err write_piece(const struct template_program *program,
                            const struct template_program_piece *piece,
                            const struct chat_message *message, struct marked_text *out) {
    switch (piece->kind) {
    case TEMPLATE_PROGRAM_ROLE:
        return marked_text_append_quoted(out, message->role, message->role_len);
    case TEMPLATE_PROGRAM_CONTENT:
        return marked_text_append_quoted(out, message->content, message->content_len);
    case TEMPLATE_PROGRAM_LITERAL:
        break;
    }
    return marked_text_append_own(out, (const char *)program->text.data + piece->at, piece->len);
}

/* MESSAGE is NULL but for the part that is written for each message. */
static enum err write_part(const struct template_program *program, enum template_program_part part,
                           const struct chat_message *message, struct marked_text *out) {
    for (size_t i = program->first[part]; i < program->first[part + 1]; i++) {
        TRY(write_piece(program, &program->pieces[i], message, out));
    }
    return ERR_OK;
}

static enum err write_messages(const struct template_program *program,
                               const struct chat_message *messages, size_t count,
                               struct marked_text *out) {
    for (size_t i = 0; i < count; i++) {
        TRY(write_part(program, TEMPLATE_PROGRAM_MESSAGE, &messages[i], out));
    }
    return ERR_OK;
}

/* All behind the messages; *generation_at is where the generation prompt begins. */
static enum err write_end(const struct template_program *program, int add_generation_prompt,
                          struct marked_text *out, size_t *generation_at) {
    TRY(write_part(program, TEMPLATE_PROGRAM_BEHIND, NULL, out));
    *generation_at = out->text.len;
    if (add_generation_prompt) {
        TRY(write_part(program, TEMPLATE_PROGRAM_GENERATION, NULL, out));
    }
    return write_part(program, TEMPLATE_PROGRAM_ENDING, NULL, out);
}

static enum err write_all(const struct template_program *program,
                          const struct chat_message *messages, size_t count,
                          int add_generation_prompt, struct marked_text *out,
                          size_t *generation_at) {
    TRY(write_part(program, TEMPLATE_PROGRAM_BEGINNING, NULL, out));
    TRY(write_messages(program, messages, count, out));
    return write_end(program, add_generation_prompt, out, generation_at);
}

static const struct chat_message assistant = {.role = "assistant", .role_len = 9};

/* Where the content stands among the pieces of a message, and how often. */
static size_t find_content(const struct template_program *program, size_t *count) {
    size_t begin = program->first[TEMPLATE_PROGRAM_MESSAGE];
    size_t end = program->first[TEMPLATE_PROGRAM_MESSAGE + 1];
    size_t found = end;
    *count = 0;
    for (size_t i = begin; i < end; i++) {
        if (program->pieces[i].kind == TEMPLATE_PROGRAM_CONTENT) {
            found = *count == 0 ? i : found;
            (*count)++;
        }
    }
    return found;
}

/* What stands in front of the content of an assistant's message, and what behind it. */
static enum err write_opening(const struct template_program *program, struct marked_text *out) {
    size_t count;
    size_t content = find_content(program, &count);
    for (size_t i = program->first[TEMPLATE_PROGRAM_MESSAGE]; i < content; i++) {
        TRY(write_piece(program, &program->pieces[i], &assistant, out));
    }
    return ERR_OK;
}

static enum err write_closing(const struct template_program *program, struct marked_text *out) {
    size_t count;
    size_t content = find_content(program, &count);
    assert(count == 1); /* check_answer */
    for (size_t i = content + 1; i < program->first[TEMPLATE_PROGRAM_MESSAGE + 1]; i++) {
        TRY(write_piece(program, &program->pieces[i], &assistant, out));
    }
    return ERR_OK;
}

enum err chat_template_render(const struct chat_template *chat_template,
                              const struct chat_message *messages, size_t count,
                              int add_generation_prompt, struct buf *out) {
    CLEANUP(marked_text_done) struct marked_text text;
    marked_text_init(&text, out->max_bytes - out->len);
    size_t generation_at;
    TRY(write_all(chat_template->program, messages, count, add_generation_prompt, &text,
                  &generation_at));
    return buf_append(out, text.text.data, text.text.len);
}

/* Token ids. */

static enum err check_use(const struct chat_template *chat_template) {
    if (chat_template->is_for_rendering_only) {
        return err_fail(ERR_UNSUPPORTED, "a chat template that was loaded for rendering only");
    }
    return ERR_OK;
}

static enum err encode_first(const struct tokenizer *tokenizer, const struct marked_text *text,
                             size_t generation_at, struct prompt_ids *ids) {
    TRY(prompt_ids_encode(tokenizer, text, generation_at, ids));
    int32_t bos = tokenizer_bos(tokenizer);
    if (!tokenizer_adds_bos(tokenizer) || (ids->list.count > 0 && ids->list.ids[0] == bos)) {
        return ERR_OK;
    }
    return prompt_ids_push_front(ids, bos);
}

enum err chat_template_first(const struct chat_template *chat_template,
                             const struct chat_message *messages, size_t count,
                             struct prompt_ids *out) {
    TRY(check_use(chat_template));
    CLEANUP(marked_text_done) struct marked_text text;
    marked_text_init(&text, TOKENIZER_TEXT_BYTES_MAX);
    size_t generation_at;
    TRY(write_all(chat_template->program, messages, count, 1, &text, &generation_at));
    struct prompt_ids ids = {0};
    enum err err = encode_first(chat_template->tokenizer, &text, generation_at, &ids);
    if (err != ERR_OK) {
        prompt_ids_done(&ids);
        return err;
    }
    prompt_ids_done(out);
    *out = ids;
    return ERR_OK;
}

enum err chat_template_delta(const struct chat_template *chat_template,
                             const struct chat_message *messages, size_t count,
                             const struct chat_answer_end *end, struct prompt_ids *out) {
    TRY(check_use(chat_template));
    CLEANUP(marked_text_done) struct marked_text text;
    marked_text_init(&text, TOKENIZER_TEXT_BYTES_MAX);
    size_t generation_at;
    TRY(write_closing(chat_template->program, &text));
    TRY(write_messages(chat_template->program, messages, count, &text));
    TRY(write_end(chat_template->program, 1, &text, &generation_at));
    TRY(prompt_ids_encode(chat_template->tokenizer, &text, generation_at, out));
    if (end->is_ended && out->list.count > 0 && out->list.ids[0] == end->last_id) {
        prompt_ids_pop_front(out);
    }
    return ERR_OK;
}

/* Creation. */

static int begins_with(const struct buf *text, const struct buf *beginning) {
    return text->len >= beginning->len &&
           (beginning->len == 0 || memcmp(text->data, beginning->data, beginning->len) == 0);
}

#define PROBE_MESSAGE(role_text, content_text)                                                     \
    {                                                                                              \
        .role = (role_text), .role_len = sizeof(role_text) - 1, .content = (content_text),         \
        .content_len = sizeof(content_text) - 1                                                    \
    }

static const struct chat_message probe[] = {
    PROBE_MESSAGE("system", "Be kind."),
    PROBE_MESSAGE("user", "What is red?"),
    PROBE_MESSAGE("assistant", "A colour."),
    PROBE_MESSAGE("user", "And blue?"),
};

enum { PROBE_QUESTION = 2, PROBE_ANSWERED = 3, PROBE_FOLLOWED = 4 };

struct probe_texts {
    struct buf question; /* without a generation prompt, here and below */
    struct buf prompt;   /* the same with it */
    struct buf answered;
    struct buf followed;
};

static void probe_texts_done(struct probe_texts *texts) {
    buf_done(&texts->question);
    buf_done(&texts->prompt);
    buf_done(&texts->answered);
    buf_done(&texts->followed);
}

/*
 * What the template writes in front of an answer must agree with its generation prompt. This is
 * read from the program: a text to look for could stand in a hostile template itself.
 */
static enum err check_answer(const struct template_program *program) {
    size_t count;
    (void)find_content(program, &count);
    if (count != 1) {
        return err_fail(ERR_UNSUPPORTED,
                        "chat template: it writes an answer's content %zu times, expected once, "
                        "so no conversation can be continued",
                        count);
    }
    CLEANUP(marked_text_done) struct marked_text opening;
    CLEANUP(marked_text_done) struct marked_text generation;
    marked_text_init(&opening, TOKENIZER_TEXT_BYTES_MAX);
    marked_text_init(&generation, TOKENIZER_TEXT_BYTES_MAX);
    TRY(write_opening(program, &opening));
    TRY(write_part(program, TEMPLATE_PROGRAM_GENERATION, NULL, &generation));
    if (!begins_with(&opening.text, &generation.text) &&
        !begins_with(&generation.text, &opening.text)) {
        return err_fail(ERR_UNSUPPORTED,
                        "chat template: the generation prompt is not what it writes in front of "
                        "an assistant's content, so no conversation can be continued");
    }
    return ERR_OK;
}

/*
 * What is written for messages is tried, not read from the program: so it holds however a template
 * comes to write it. The generation prompt may end earlier than what stands in front of an answer
 * (the model then writes the rest) or later (it opens a thought, say): the ids stay as they are.
 */
static enum err check_continuation(const struct chat_template *chat_template) {
    CLEANUP(probe_texts_done) struct probe_texts texts = {0};
    buf_init(&texts.question, TOKENIZER_TEXT_BYTES_MAX);
    buf_init(&texts.prompt, TOKENIZER_TEXT_BYTES_MAX);
    buf_init(&texts.answered, TOKENIZER_TEXT_BYTES_MAX);
    buf_init(&texts.followed, TOKENIZER_TEXT_BYTES_MAX);
    TRY(chat_template_render(chat_template, probe, PROBE_QUESTION, 0, &texts.question));
    TRY(chat_template_render(chat_template, probe, PROBE_QUESTION, 1, &texts.prompt));
    TRY(chat_template_render(chat_template, probe, PROBE_ANSWERED, 0, &texts.answered));
    TRY(chat_template_render(chat_template, probe, PROBE_FOLLOWED, 0, &texts.followed));
    if (!begins_with(&texts.prompt, &texts.question) ||
        !begins_with(&texts.answered, &texts.question) ||
        !begins_with(&texts.followed, &texts.answered)) {
        return err_fail(ERR_UNSUPPORTED,
                        "chat template: what it writes for messages is not the beginning of what "
                        "it writes when others follow, so no conversation can be continued");
    }
    return check_answer(chat_template->program);
}

/* What bos_token and eos_token stand for: nothing where the model has none. */
static enum err name_token(const struct tokenizer *tokenizer, int32_t id, const char **text,
                           size_t *len) {
    *text = "";
    *len = 0;
    return id < 0 ? ERR_OK : tokenizer_piece(tokenizer, id, 1, text, len);
}

static enum err load(struct chat_template *chat_template,
                     const struct chat_template_params *params) {
    struct template_program_names names;
    const struct tokenizer *tokenizer = params->tokenizer;
    TRY(name_token(tokenizer, tokenizer_bos(tokenizer), &names.bos, &names.bos_len));
    TRY(name_token(tokenizer, tokenizer_eos(tokenizer), &names.eos, &names.eos_len));
    TRY(template_program_parse(params->source, params->len, &names, &chat_template->program));
    crypto_generichash(chat_template->digest, sizeof chat_template->digest,
                       (const unsigned char *)params->source, params->len, NULL, 0);
    return params->is_for_rendering_only ? ERR_OK : check_continuation(chat_template);
}

enum err chat_template_create(const struct chat_template_params *params,
                              struct chat_template **out) {
    if (sodium_init() < 0) {
        return err_fail(ERR_UNSUPPORTED, "libsodium cannot be initialised");
    }
    struct chat_template *chat_template = calloc(1, sizeof *chat_template);
    if (chat_template == NULL) {
        return err_fail(ERR_NOMEM, "chat template");
    }
    chat_template->tokenizer = params->tokenizer;
    chat_template->is_for_rendering_only = params->is_for_rendering_only;
    enum err err = load(chat_template, params);
    if (err != ERR_OK) {
        chat_template_destroy(chat_template);
        return err;
    }
    *out = chat_template;
    return ERR_OK;
}

enum err chat_template_from_gguf(const struct gguf *file, const struct tokenizer *tokenizer,
                                 struct chat_template **out) {
    struct gguf_string source;
    enum err err = gguf_get_string(file, "tokenizer.chat_template", &source);
    if (err == ERR_NOT_FOUND) {
        return err_fail(ERR_UNSUPPORTED,
                        "tokenizer.chat_template is missing: the model cannot be talked to");
    }
    TRY(err);
    struct chat_template_params params = {
        .source = source.text, .len = source.len, .tokenizer = tokenizer};
    return chat_template_create(&params, out);
}

void chat_template_destroy(struct chat_template *chat_template) {
    if (chat_template == NULL) {
        return;
    }
    template_program_destroy(chat_template->program);
    free(chat_template);
}

void chat_template_digest(const struct chat_template *chat_template,
                          uint8_t out[CHAT_TEMPLATE_DIGEST_BYTES]) {
    memcpy(out, chat_template->digest, CHAT_TEMPLATE_DIGEST_BYTES);
}
