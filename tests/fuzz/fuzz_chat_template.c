/*
 * A hostile chat template over hostile messages. The first byte is the length of a role, the
 * second the length of a content; they follow, and the rest is the template.
 */
#include "engine/chat_template.h"
#include "tests/gguf/vocabulary_image.h"

#include <stdlib.h>
#include <string.h>

enum { HEADER = 2, RENDERED_BYTES_MAX = 1 << 20 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static const struct vocabulary_image_token tokens[] = {
    {"<s>", 3}, {"</s>", 3}, {"<s>u", 3}, {"<t>", 4}, {"<t>\n", 4}, {"aa", 1}, {"aaaa", 1}};

static const char *const merges[] = {"a a", "aa aa"};

static void check(int is_true) {
    if (!is_true) {
        abort();
    }
}

static void add_ids(struct gguf_builder *builder) {
    gguf_builder_u32(builder, "tokenizer.ggml.bos_token_id", VOCABULARY_IMAGE_BYTES);
    gguf_builder_u32(builder, "tokenizer.ggml.eos_token_id", VOCABULARY_IMAGE_BYTES + 1);
    gguf_builder_bool(builder, "tokenizer.ggml.add_bos_token", 1);
}

static const struct tokenizer *vocabulary(void) {
    static struct tokenizer *tokenizer;
    if (tokenizer == NULL) {
        struct vocabulary_image spec = {
            .model = "gpt2",
            .pre = "gpt-2",
            .tokens = tokens,
            .token_count = ARRAY_LEN(tokens),
            .merges = merges,
            .merge_count = ARRAY_LEN(merges),
            .leaves_out_byte = -1,
            .add = add_ids,
        };
        check(vocabulary_image_load(&spec, &tokenizer) == ERR_OK);
    }
    return tokenizer;
}

/* The pieces of IDS from FIRST on join to TEXT. */
static void check_text(const struct prompt_ids *ids, size_t first, const struct buf *text) {
    size_t at = 0;
    check(ids->prompt_end <= ids->list.count);
    for (size_t i = first; i < ids->list.count; i++) {
        const char *piece;
        size_t len;
        check(tokenizer_piece(vocabulary(), ids->list.ids[i], 1, &piece, &len) == ERR_OK);
        check(len <= text->len - at && memcmp(text->data + at, piece, len) == 0);
        at += len;
    }
    check(at == text->len);
}

static void check_ids(const struct chat_template *chat_template, const struct chat_message *said,
                      size_t count, const struct buf *text) {
    struct prompt_ids ids = {0};
    check(chat_template_first(chat_template, said, count, &ids) == ERR_OK);
    check(ids.list.count > 0 && ids.list.ids[0] == VOCABULARY_IMAGE_BYTES);
    size_t bos_len = 3;
    int is_written = text->len >= bos_len && memcmp(text->data, "<s>", bos_len) == 0;
    /* A message may begin with the text of BOS, which is not BOS. */
    size_t joined = 0;
    for (size_t i = 0; i < ids.list.count; i++) {
        const char *piece;
        size_t len;
        check(tokenizer_piece(vocabulary(), ids.list.ids[i], 1, &piece, &len) == ERR_OK);
        joined += len;
    }
    check(joined == text->len || joined == text->len + bos_len);
    check(joined > text->len || is_written);
    check_text(&ids, joined > text->len, text);
    for (int is_ended = 0; is_ended < 2; is_ended++) {
        struct chat_answer_end end = {.last_id = VOCABULARY_IMAGE_BYTES + 1, .is_ended = is_ended};
        check(chat_template_delta(chat_template, said, count, &end, &ids) == ERR_OK);
        check(ids.prompt_end <= ids.list.count);
    }
    prompt_ids_done(&ids);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    if (bytes < HEADER || bytes - HEADER < (size_t)data[0] + data[1]) {
        return 0;
    }
    const char *text = (const char *)data + HEADER;
    struct chat_message said[] = {
        {.role = text, .role_len = data[0], .content = text + data[0], .content_len = data[1]},
        {.role = text + data[0], .role_len = data[1], .content = text, .content_len = data[0]},
    };
    size_t taken = (size_t)data[0] + data[1];
    struct chat_template_params params = {
        .source = text + taken, .len = bytes - HEADER - taken, .tokenizer = vocabulary()};
    struct chat_template *chat_template = NULL;
    err_clear();
    int can_continue = chat_template_create(&params, &chat_template) == ERR_OK;
    if (!can_continue) {
        check(chat_template == NULL && err_message()[0] != '\0');
        params.is_for_rendering_only = 1;
        if (chat_template_create(&params, &chat_template) != ERR_OK) {
            return 0;
        }
    }
    struct buf out;
    buf_init(&out, RENDERED_BYTES_MAX);
    enum err err = chat_template_render(chat_template, said, ARRAY_LEN(said), 1, &out);
    check(err == ERR_OK || (err == ERR_FULL && out.len == 0));
    if (can_continue && err == ERR_OK) {
        check_ids(chat_template, said, ARRAY_LEN(said), &out);
    }
    buf_done(&out);
    chat_template_destroy(chat_template);
    return 0;
}
