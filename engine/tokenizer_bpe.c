/*
 * I1  A piece is a linked list of symbols in an array, one per byte at first; a merge keeps the
 *     left symbol's place and kills the right one's, so that order in the array is order in the
 *     text.
 * I2  The heap holds (rank, place of the left symbol) for every adjacent pair that has a rank, and
 *     stale entries. An entry is stale if its left symbol is dead or last, or its pair has
 *     another rank by now: pairs and ranks are one to one.
 * I3  Its minimum is the lowest rank and, of these, the leftmost: the order that BPE prescribes.
 * I4  A merge takes one entry and adds at most two, and there are fewer merges than bytes: twice
 *     the number of bytes is room enough.
 */
#include "engine/tokenizer_bpe.h"

#include "engine/byte_map.h"

#include <sodium.h>
#include <stdlib.h>
#include <string.h>

static const char merges_key[] = "tokenizer.ggml.merges";

enum { FIRST_CAPACITY_BYTES = 256, NO_SYMBOL = -1, DEAD_SYMBOL = -1 };

struct tokenizer_bpe_symbol {
    int32_t id; /* DEAD_SYMBOL once merged into the one before */
    int32_t previous;
    int32_t next;
};

static struct tokenizer_bpe_merge *slot_of(const struct tokenizer_bpe *bpe, int32_t left,
                                           int32_t right) {
    uint64_t hash = ((uint64_t)(uint32_t)left << 32 | (uint32_t)right) ^ bpe->seed;
    hash = (hash ^ hash >> 32) * 0x9e3779b97f4a7c15u;
    hash = (hash ^ hash >> 29) * 0xbf58476d1ce4e5b9u;
    hash ^= hash >> 32;
    for (size_t at = (size_t)hash & bpe->mask;; at = (at + 1) & bpe->mask) {
        struct tokenizer_bpe_merge *slot = &bpe->merges[at];
        if (slot->left < 0 || (slot->left == left && slot->right == right)) {
            return slot;
        }
    }
}

static const struct tokenizer_bpe_merge *find_merge(const struct tokenizer_bpe *bpe, int32_t left,
                                                    int32_t right) {
    const struct tokenizer_bpe_merge *slot = slot_of(bpe, left, right);
    return slot->left < 0 ? NULL : slot;
}

/* The normal token that TEXT (mapped) names; -1 for one that is special, ERR_FORMAT for none. */
static enum err find_token(const struct tokenizer_vocab *vocab, struct gguf_string text,
                           char *scratch, int32_t *out) {
    size_t len;
    if (byte_map_decode(text.text, text.len, scratch, &len)) {
        int32_t id = token_index_find(&vocab->normal, scratch, len);
        if (id >= 0) {
            *out = id;
            return ERR_OK;
        }
    }
    if (token_index_find(&vocab->other, text.text, text.len) < 0) {
        return err_fail(ERR_FORMAT, "'%.*s' is not in tokenizer.ggml.tokens",
                        text.len < 80 ? (int)text.len : 80, text.text);
    }
    *out = -1;
    return ERR_OK;
}

/* "left right", cut at the first space behind the first byte. SCRATCH has room for MERGE. */
static enum err parse_merge(struct tokenizer_bpe *bpe, struct gguf_string merge, uint32_t rank,
                            char *scratch) {
    const char *space = merge.len < 3 ? NULL : memchr(merge.text + 1, ' ', merge.len - 1);
    if (space == NULL) {
        return err_fail(ERR_FORMAT, "expected two tokens with a space between");
    }
    struct gguf_string left = {merge.text, (size_t)(space - merge.text)};
    struct gguf_string right = {space + 1, merge.len - left.len - 1};
    struct gguf_string whole = {scratch, left.len + right.len};
    int32_t left_id;
    int32_t right_id;
    int32_t result;
    TRY(find_token(bpe->vocab, left, scratch, &left_id));
    TRY(find_token(bpe->vocab, right, scratch, &right_id));
    memcpy(scratch, left.text, left.len);
    memcpy(scratch + left.len, right.text, right.len);
    TRY(find_token(bpe->vocab, whole, scratch + whole.len, &result));
    if (left_id < 0 || right_id < 0 || result < 0) {
        return ERR_OK; /* special tokens are cut out of the text, never merged to */
    }
    struct tokenizer_bpe_merge *slot = slot_of(bpe, left_id, right_id);
    if (slot->left < 0) { /* a pair that comes twice keeps its first rank */
        *slot = (struct tokenizer_bpe_merge){left_id, right_id, result, rank};
    }
    return ERR_OK;
}

static enum err allocate_merges(struct tokenizer_bpe *bpe, size_t count) {
    size_t slots = 16;
    while (slots / 2 < count) {
        slots *= 2;
    }
    bpe->merges = calloc(slots, sizeof *bpe->merges);
    if (bpe->merges == NULL) {
        return err_fail(ERR_NOMEM, "%s: %zu merges", merges_key, count);
    }
    for (size_t i = 0; i < slots; i++) {
        bpe->merges[i].left = -1;
    }
    bpe->mask = slots - 1;
    randombytes_buf(&bpe->seed, sizeof bpe->seed);
    return ERR_OK;
}

static enum err read_merges(struct tokenizer_bpe *bpe, const struct gguf_array *merges) {
    size_t longest = 0;
    for (uint64_t i = 0; i < merges->count; i++) {
        struct gguf_string merge;
        enum err err = gguf_array_string(merges, i, &merge);
        if (err != ERR_OK) {
            return err_context(err, "%s", merges_key);
        }
        longest = merge.len > longest ? merge.len : longest;
    }
    CLEANUP(object_free) char *scratch = malloc(longest * 2 + 1);
    if (scratch == NULL) {
        return err_fail(ERR_NOMEM, "%s: a merge of %zu bytes", merges_key, longest);
    }
    for (uint64_t i = 0; i < merges->count; i++) {
        struct gguf_string merge;
        TRY(gguf_array_string(merges, i, &merge));
        enum err err = parse_merge(bpe, merge, (uint32_t)i, scratch);
        if (err != ERR_OK) {
            return err_context(err, "%s: merge %llu", merges_key, (unsigned long long)i);
        }
    }
    return ERR_OK;
}

static enum err find_bytes(struct tokenizer_bpe *bpe) {
    for (int byte = 0; byte < 256; byte++) {
        char text = (char)byte;
        bpe->byte_ids[byte] = token_index_find(&bpe->vocab->normal, &text, 1);
        if (bpe->byte_ids[byte] < 0) {
            return err_fail(ERR_FORMAT, "tokenizer.ggml.tokens: no normal token for the byte %02X",
                            (unsigned)byte);
        }
    }
    return ERR_OK;
}

enum err tokenizer_bpe_init(struct tokenizer_bpe *bpe, const struct tokenizer_vocab *vocab,
                            const struct gguf *file, int ignores_merges) {
    bpe->vocab = vocab;
    bpe->ignores_merges = ignores_merges;
    TRY(find_bytes(bpe));
    struct gguf_array merges;
    enum err err = gguf_get_array(file, merges_key, &merges);
    if (err == ERR_NOT_FOUND) {
        return err_fail(ERR_FORMAT, "%s is missing", merges_key);
    }
    TRY(err);
    if (merges.count > INT32_MAX) {
        return err_fail(ERR_FORMAT, "%s holds %llu merges, expected at most %d", merges_key,
                        (unsigned long long)merges.count, INT32_MAX);
    }
    TRY(allocate_merges(bpe, (size_t)merges.count));
    return read_merges(bpe, &merges);
}

void tokenizer_bpe_done(struct tokenizer_bpe *bpe) {
    free(bpe->merges);
    *bpe = (struct tokenizer_bpe){0};
}

void tokenizer_bpe_scratch_done(struct tokenizer_bpe_scratch *scratch) {
    free(scratch->symbols);
    free(scratch->heap);
    *scratch = (struct tokenizer_bpe_scratch){0};
}

static enum err scratch_reserve(struct tokenizer_bpe_scratch *scratch, size_t len) {
    if (len <= scratch->capacity) {
        return ERR_OK;
    }
    size_t capacity = len < FIRST_CAPACITY_BYTES ? FIRST_CAPACITY_BYTES : len + len / 2;
    tokenizer_bpe_scratch_done(scratch); /* nothing in it is worth a copy */
    scratch->symbols = calloc(capacity, sizeof *scratch->symbols);
    scratch->heap = calloc(capacity, 2 * sizeof *scratch->heap); /* I4 */
    if (scratch->symbols == NULL || scratch->heap == NULL) {
        tokenizer_bpe_scratch_done(scratch);
        return err_fail(ERR_NOMEM, "a piece of text of %zu bytes", len);
    }
    scratch->capacity = capacity;
    return ERR_OK;
}

static void sift_down(uint64_t *heap, size_t count, size_t at) {
    uint64_t entry = heap[at];
    for (;;) {
        size_t child = 2 * at + 1;
        if (child >= count) {
            break;
        }
        if (child + 1 < count && heap[child + 1] < heap[child]) {
            child++;
        }
        if (entry <= heap[child]) {
            break;
        }
        heap[at] = heap[child];
        at = child;
    }
    heap[at] = entry;
}

static void heap_push(uint64_t *heap, size_t *count, uint64_t entry) {
    size_t at = (*count)++;
    while (at > 0 && heap[(at - 1) / 2] > entry) {
        heap[at] = heap[(at - 1) / 2];
        at = (at - 1) / 2;
    }
    heap[at] = entry;
}

static uint64_t heap_pop(uint64_t *heap, size_t *count) {
    uint64_t top = heap[0];
    heap[0] = heap[--*count];
    if (*count > 0) {
        sift_down(heap, *count, 0);
    }
    return top;
}

/* The merge of the symbol at PLACE with the one behind it, NULL if they have none. */
static const struct tokenizer_bpe_merge *merge_at(const struct tokenizer_bpe *bpe,
                                                  const struct tokenizer_bpe_symbol *symbols,
                                                  int32_t place) {
    const struct tokenizer_bpe_symbol *left = &symbols[place];
    if (left->id == DEAD_SYMBOL || left->next == NO_SYMBOL) {
        return NULL;
    }
    return find_merge(bpe, left->id, symbols[left->next].id);
}

static uint64_t heap_entry(const struct tokenizer_bpe_merge *merge, int32_t place) {
    return (uint64_t)merge->rank << 32 | (uint32_t)place; /* I3 */
}

static void merge_all(const struct tokenizer_bpe *bpe, struct tokenizer_bpe_symbol *symbols,
                      uint64_t *heap, size_t count) {
    while (count > 0) {
        uint64_t entry = heap_pop(heap, &count);
        int32_t place = (int32_t)(uint32_t)entry;
        const struct tokenizer_bpe_merge *merge = merge_at(bpe, symbols, place);
        if (merge == NULL || merge->rank != entry >> 32) {
            continue; /* I2 */
        }
        struct tokenizer_bpe_symbol *left = &symbols[place];
        struct tokenizer_bpe_symbol *right = &symbols[left->next];
        left->id = merge->result;
        left->next = right->next;
        right->id = DEAD_SYMBOL;
        if (left->next != NO_SYMBOL) {
            symbols[left->next].previous = place;
            const struct tokenizer_bpe_merge *after = merge_at(bpe, symbols, place);
            if (after != NULL) {
                heap_push(heap, &count, heap_entry(after, place));
            }
        }
        if (left->previous != NO_SYMBOL) {
            const struct tokenizer_bpe_merge *before = merge_at(bpe, symbols, left->previous);
            if (before != NULL) {
                heap_push(heap, &count, heap_entry(before, left->previous));
            }
        }
    }
}

enum err tokenizer_bpe_encode(const struct tokenizer_bpe *bpe,
                              struct tokenizer_bpe_scratch *scratch, const char *piece, size_t len,
                              struct token_list *out) {
    assert(len > 0 && len <= INT32_MAX);
    if (bpe->ignores_merges) {
        int32_t id = token_index_find(&bpe->vocab->normal, piece, len);
        if (id >= 0) {
            return token_list_append(out, &id, 1);
        }
    }
    TRY(scratch_reserve(scratch, len));
    struct tokenizer_bpe_symbol *symbols = scratch->symbols;
    for (size_t i = 0; i < len; i++) {
        symbols[i].id = bpe->byte_ids[(uint8_t)piece[i]];
        symbols[i].previous = (int32_t)i - 1; /* NO_SYMBOL for the first */
        symbols[i].next = i + 1 < len ? (int32_t)i + 1 : NO_SYMBOL;
    }
    size_t count = 0;
    for (size_t i = 0; i + 1 < len; i++) {
        const struct tokenizer_bpe_merge *merge = merge_at(bpe, symbols, (int32_t)i);
        if (merge != NULL) {
            scratch->heap[count++] = heap_entry(merge, (int32_t)i);
        }
    }
    for (size_t i = count / 2; i-- > 0;) {
        sift_down(scratch->heap, count, i);
    }
    merge_all(bpe, symbols, scratch->heap, count);
    for (int32_t place = 0; place != NO_SYMBOL; place = symbols[place].next) {
        TRY(token_list_append(out, &symbols[place].id, 1));
    }
    return ERR_OK;
}
