#include "tools/bench_text.h"

#include "base/buf.h"
#include "base/pcg32.h"

#include <stdlib.h>
#include <string.h>

enum { WORD_BYTES_MAX = 16, FITTINGS = 4 };

/* A token each, with the blank before it, of the demo model's vocabulary and of larger ones. */
static const char *const words[] = {
    "time",  "day",  "work",    "water",   "month",  "lot",    "friend", "name",  "good", "other",
    "small", "city", "red",     "blue",    "green",  "tea",    "coffee", "bread", "milk", "cat",
    "dog",   "car",  "morning", "evening", "garden", "number", "color",  "live",  "play", "like",
    "love",  "cook", "sister",  "guitar",  "piano",  "violin", "cello",  "chess",
};

enum err bench_text_words(long long count, uint64_t seed, char **out) {
    struct pcg32 random;
    struct buf text;
    const char *whole;
    buf_init(&text, (size_t)BENCH_TEXT_WORDS_MAX * WORD_BYTES_MAX);
    pcg32_init(&random, seed, 1);
    enum err code = ERR_OK;
    for (long long i = 0; (i < count || i == 0) && code == ERR_OK; i++) {
        code = buf_printf(&text, "%s%s", i > 0 ? " " : "",
                          words[pcg32_next(&random) % ARRAY_LEN(words)]);
    }
    code = code == ERR_OK ? buf_text(&text, &whole) : code;
    if (code != ERR_OK) {
        buf_done(&text);
        return err_context(code, "a message of %lld words", count);
    }
    *out = (char *)text.data; /* with its terminator; the buffer is given away */
    return ERR_OK;
}

enum err bench_text_count(const struct tokenizer *tokenizer, const char *text,
                          long long *tokens_out) {
    CLEANUP(token_list_done) struct token_list list = {0};
    struct tokenizer_encode_params params = {.text = text, .len = strlen(text)};
    TRY(tokenizer_encode(tokenizer, &params, &list));
    *tokens_out = (long long)list.count;
    return ERR_OK;
}

enum err bench_text_tokens(const struct tokenizer *tokenizer, long long tokens, uint64_t seed,
                           char **out) {
    long long count = tokens;
    for (int i = 0; i < FITTINGS; i++) {
        CLEANUP(object_free) char *text = NULL;
        long long found;
        TRY(bench_text_words(count, seed, &text));
        TRY(bench_text_count(tokenizer, text, &found));
        long long fitting = found > 0 ? (count * tokens + found / 2) / found : count;
        if (fitting == count) {
            break;
        }
        count = fitting > 0 ? fitting : 1;
    }
    return bench_text_words(count, seed, out);
}
