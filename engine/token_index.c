#include "engine/token_index.h"

#include <sodium.h>
#include <stdlib.h>
#include <string.h>

_Static_assert(sizeof((struct token_index *)0)->seed == crypto_shorthash_KEYBYTES, "seed is a key");

enum err token_index_init(struct token_index *index, size_t count) {
    size_t slots = 16;
    while (slots / 2 < count) { /* at most half full: probes stay short, and always end */
        slots *= 2;
    }
    struct token_index_slot *table = calloc(slots, sizeof *table);
    if (table == NULL) {
        return err_fail(ERR_NOMEM, "index of %zu tokens", count);
    }
    *index = (struct token_index){.slots = table, .mask = slots - 1};
    randombytes_buf(index->seed, sizeof index->seed);
    return ERR_OK;
}

void token_index_done(struct token_index *index) {
    free(index->slots);
    *index = (struct token_index){0};
}

/* The slot that holds BYTES, or the free one where they belong. */
static struct token_index_slot *slot_of(const struct token_index *index, const char *bytes,
                                        size_t len) {
    uint64_t hash;
    uint8_t digest[crypto_shorthash_BYTES];
    crypto_shorthash(digest, (const uint8_t *)bytes, len, index->seed);
    memcpy(&hash, digest, sizeof hash);
    for (size_t at = (size_t)hash & index->mask;; at = (at + 1) & index->mask) {
        struct token_index_slot *slot = &index->slots[at];
        if (slot->bytes == NULL ||
            (slot->len == len && (len == 0 || memcmp(slot->bytes, bytes, len) == 0))) {
            return slot;
        }
    }
}

int32_t token_index_find(const struct token_index *index, const char *bytes, size_t len) {
    const struct token_index_slot *slot = slot_of(index, bytes, len);
    return slot->bytes == NULL ? -1 : slot->id;
}

int32_t token_index_insert(struct token_index *index, const char *bytes, size_t len, int32_t id) {
    struct token_index_slot *slot = slot_of(index, bytes, len);
    if (slot->bytes != NULL) {
        return slot->id;
    }
    *slot = (struct token_index_slot){.bytes = bytes, .len = len, .id = id};
    return -1;
}
