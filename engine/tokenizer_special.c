/*
 * A sorted list instead of a tree of bytes: it costs four bytes a token whatever the texts are,
 * and narrowing a range of the list by one more byte of the text is what a step down a tree is.
 *
 * I1  ids is sorted by memcmp, shorter first: of the tokens that share the first d bytes, the
 *     one that has no more comes first. No two have the same bytes (tokenizer_vocab.c, I2).
 */
#include "engine/tokenizer_special.h"

#include <stdlib.h>
#include <string.h>

static int compare(const void *left, const void *right, void *context) {
    const struct tokenizer_vocab *vocab = context;
    size_t left_len;
    size_t right_len;
    const char *left_bytes = tokenizer_vocab_bytes(vocab, *(const int32_t *)left, &left_len);
    const char *right_bytes = tokenizer_vocab_bytes(vocab, *(const int32_t *)right, &right_len);
    int order = memcmp(left_bytes, right_bytes, left_len < right_len ? left_len : right_len);
    return order != 0 ? order : (left_len > right_len) - (left_len < right_len);
}

static int is_wanted(uint8_t kind, int control) {
    return kind == TOKENIZER_VOCAB_USER || (control && kind == TOKENIZER_VOCAB_CONTROL);
}

/* Byte DEPTH of the token at IDX of the list; -1 when it is not that long. */
static int byte_at(const struct tokenizer_special *special, size_t idx, size_t depth) {
    size_t len;
    const char *bytes = tokenizer_vocab_bytes(special->vocab, special->ids[idx], &len);
    return depth < len ? (uint8_t)bytes[depth] : -1;
}

/* The first of [begin, end), which share DEPTH bytes, whose next byte is at least BYTE. */
static size_t lower_bound(const struct tokenizer_special *special, size_t begin, size_t end,
                          size_t depth, int byte) {
    while (begin < end) {
        size_t middle = begin + (end - begin) / 2;
        if (byte_at(special, middle, depth) < byte) {
            begin = middle + 1;
        } else {
            end = middle;
        }
    }
    return begin;
}

enum err tokenizer_special_init(struct tokenizer_special *special,
                                const struct tokenizer_vocab *vocab, int control) {
    size_t count = 0;
    for (int32_t i = 0; i < vocab->count; i++) {
        count += (size_t)is_wanted(vocab->kinds[i], control);
    }
    int32_t *ids = calloc(count + 1, sizeof *ids);
    if (ids == NULL) {
        return err_fail(ERR_NOMEM, "list of %zu special tokens", count);
    }
    *special = (struct tokenizer_special){.vocab = vocab, .ids = ids, .count = count};
    size_t at = 0;
    for (int32_t i = 0; i < vocab->count; i++) {
        if (is_wanted(vocab->kinds[i], control)) {
            ids[at++] = i;
        }
    }
    qsort_r(ids, count, sizeof *ids, compare, (void *)(uintptr_t)vocab);
    for (int byte = 0; byte <= 256; byte++) {
        special->first[byte] = lower_bound(special, 0, count, 0, byte);
    }
    return ERR_OK;
}

void tokenizer_special_done(struct tokenizer_special *special) {
    free(special->ids);
    *special = (struct tokenizer_special){0};
}

/* The longest token that TEXT begins with. */
static int longest(const struct tokenizer_special *special, const char *text, size_t len,
                   struct tokenizer_special_match *out) {
    size_t begin = special->first[(uint8_t)text[0]];
    size_t end = special->first[(uint8_t)text[0] + 1];
    int is_found = 0;
    for (size_t depth = 1; begin < end; depth++) {
        if (byte_at(special, begin, depth) < 0) { /* I1 */
            out->id = special->ids[begin];
            out->len = depth;
            is_found = 1;
            begin++;
        }
        if (depth == len) {
            break;
        }
        int byte = (uint8_t)text[depth];
        begin = lower_bound(special, begin, end, depth, byte);
        end = lower_bound(special, begin, end, depth, byte + 1);
    }
    return is_found;
}

int tokenizer_special_find(const struct tokenizer_special *special, const char *text, size_t len,
                           size_t from, struct tokenizer_special_match *out) {
    if (special->count == 0) {
        return 0;
    }
    for (size_t at = from; at < len; at++) {
        struct tokenizer_special_match match = {.at = at};
        if (longest(special, text + at, len - at, &match)) {
            *out = match;
            return 1;
        }
    }
    return 0;
}
