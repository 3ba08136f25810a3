#include "engine/prompt_ids.h"

#include "engine/tokenizer_special.h"

#include <string.h>

void prompt_ids_done(struct prompt_ids *ids) {
    token_list_done(&ids->list);
    ids->prompt_end = 0;
}

/* The bytes [begin, end), in which control tokens' text is only text. */
static enum err encode_plain(const struct tokenizer *tokenizer, const struct marked_text *text,
                             size_t begin, size_t end, struct token_list *out) {
    if (begin == end) {
        return ERR_OK;
    }
    struct tokenizer_encode_params params = {.text = (const char *)text->text.data + begin,
                                             .len = end - begin};
    return tokenizer_encode(tokenizer, &params, out);
}

static enum err encode(const struct tokenizer *tokenizer, const struct marked_text *text,
                       struct token_list *out) {
    const char *bytes = (const char *)text->text.data;
    size_t done = 0;
    for (size_t i = 0; i < text->run_count; i++) {
        const struct marked_text_run *run = &text->runs[i];
        size_t at = run->begin;
        struct tokenizer_special_match match;
        /* The run's end is the text's end to this search: no token reaches into a message. */
        while (tokenizer_find_control(tokenizer, bytes, run->end, at, &match)) {
            TRY(encode_plain(tokenizer, text, done, match.at, out));
            TRY(token_list_append(out, &match.id, 1));
            at = match.at + match.len;
            done = at;
        }
    }
    return encode_plain(tokenizer, text, done, text->text.len, out);
}

/* How many ids lie wholly within the first BYTES of the text that they are of. */
static enum err count_within(const struct tokenizer *tokenizer, const struct token_list *list,
                             size_t bytes, size_t *out) {
    size_t count = 0;
    size_t at = 0;
    while (count < list->count) {
        const char *piece;
        size_t len;
        TRY(tokenizer_piece(tokenizer, list->ids[count], 1, &piece, &len));
        if (len > bytes - at) {
            break;
        }
        at += len;
        count++;
    }
    *out = count;
    return ERR_OK;
}

enum err prompt_ids_encode(const struct tokenizer *tokenizer, const struct marked_text *text,
                           size_t generation_at, struct prompt_ids *ids) {
    assert(generation_at <= text->text.len);
    struct token_list list = {0};
    size_t prompt_end = 0;
    enum err err = encode(tokenizer, text, &list);
    if (err == ERR_OK) {
        err = count_within(tokenizer, &list, generation_at, &prompt_end);
    }
    if (err != ERR_OK) {
        token_list_done(&list);
        return err;
    }
    token_list_done(&ids->list);
    *ids = (struct prompt_ids){.list = list, .prompt_end = prompt_end};
    return ERR_OK;
}

enum err prompt_ids_push_front(struct prompt_ids *ids, int32_t id) {
    struct token_list *list = &ids->list;
    TRY(token_list_append(list, &id, 1));
    memmove(list->ids + 1, list->ids, (list->count - 1) * sizeof *list->ids);
    list->ids[0] = id;
    ids->prompt_end++;
    return ERR_OK;
}

void prompt_ids_pop_front(struct prompt_ids *ids) {
    struct token_list *list = &ids->list;
    assert(list->count > 0);
    list->count--;
    memmove(list->ids, list->ids + 1, list->count * sizeof *list->ids);
    ids->prompt_end -= ids->prompt_end > 0;
}
