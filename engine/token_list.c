#include "engine/token_list.h"

#include <stdlib.h>
#include <string.h>

enum { FIRST_CAPACITY = 64 };

void token_list_done(struct token_list *list) {
    free(list->ids);
    *list = (struct token_list){0};
}

static enum err reserve(struct token_list *list, size_t count) {
    if (count <= list->capacity - list->count) {
        return ERR_OK;
    }
    if (count > SIZE_MAX / sizeof *list->ids / 2 - list->count) {
        return err_fail(ERR_NOMEM, "list of %zu more tokens", count);
    }
    size_t capacity = list->capacity < FIRST_CAPACITY ? FIRST_CAPACITY : list->capacity * 2;
    if (capacity < list->count + count) {
        capacity = list->count + count;
    }
    int32_t *ids = realloc(list->ids, capacity * sizeof *ids);
    if (ids == NULL) {
        return err_fail(ERR_NOMEM, "list of %zu tokens", capacity);
    }
    list->ids = ids;
    list->capacity = capacity;
    return ERR_OK;
}

enum err token_list_append(struct token_list *list, const int32_t *ids, size_t count) {
    TRY(reserve(list, count));
    if (count > 0) {
        memcpy(list->ids + list->count, ids, count * sizeof *ids);
    }
    list->count += count;
    return ERR_OK;
}
