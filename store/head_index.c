#include "store/head.h"

#include <stdlib.h>
#include <string.h>

enum { FIRST_BUCKETS = 256 };

enum err head_index_init(struct head_index *index) {
    *index = (struct head_index){.bucket_count = FIRST_BUCKETS};
    TAILQ_INIT(&index->recency);
    index->buckets = calloc(index->bucket_count, sizeof(*index->buckets));
    if (index->buckets == NULL) {
        return err_fail(ERR_NOMEM, "index of heads");
    }
    return ERR_OK;
}

void head_index_done(struct head_index *index) {
    assert(index->count == 0);
    free(index->buckets);
    index->buckets = NULL;
}

static struct store_head **bucket_of(const struct head_index *index, const uint8_t *key) {
    uint64_t hash;
    memcpy(&hash, key, sizeof hash);
    return &index->buckets[hash & (index->bucket_count - 1)];
}

static void grow(struct head_index *index) {
    struct head_index grown = {.bucket_count = 2 * index->bucket_count};
    grown.buckets = calloc(grown.bucket_count, sizeof(*grown.buckets));
    if (grown.buckets == NULL) {
        return;
    }
    for (size_t i = 0; i < index->bucket_count; i++) {
        struct store_head *head = index->buckets[i];
        while (head != NULL) {
            struct store_head *next = head->next_of_key;
            struct store_head **bucket = bucket_of(&grown, head->key);
            head->next_of_key = *bucket;
            *bucket = head;
            head = next;
        }
    }
    free(index->buckets);
    index->buckets = grown.buckets;
    index->bucket_count = grown.bucket_count;
}

void head_index_link(struct head_index *index, struct store_head *head) {
    assert(!head->is_linked);
    if (index->count >= index->bucket_count) {
        grow(index);
    }
    struct store_head **bucket = bucket_of(index, head->key);
    head->next_of_key = *bucket;
    *bucket = head;
    head->is_linked = 1;
    TAILQ_INSERT_TAIL(&index->recency, head, recency);
    index->count++;
}

void head_index_unlink(struct head_index *index, struct store_head *head) {
    assert(head->is_linked);
    struct store_head **at = bucket_of(index, head->key);
    while (*at != head) {
        at = &(*at)->next_of_key;
    }
    *at = head->next_of_key;
    head->next_of_key = NULL;
    head->is_linked = 0;
    TAILQ_REMOVE(&index->recency, head, recency);
    index->count--;
}

static struct store_head *skip_to_key(struct store_head *head, const uint8_t *key) {
    while (head != NULL && memcmp(head->key, key, STORE_KEY_BYTES) != 0) {
        head = head->next_of_key;
    }
    return head;
}

struct store_head *head_index_first(const struct head_index *index, const uint8_t *key) {
    return skip_to_key(*bucket_of(index, key), key);
}

struct store_head *head_index_next(const struct store_head *head) {
    return skip_to_key(head->next_of_key, head->key);
}

void head_index_touch(struct head_index *index, struct store_head *head) {
    TAILQ_REMOVE(&index->recency, head, recency);
    TAILQ_INSERT_TAIL(&index->recency, head, recency);
}
