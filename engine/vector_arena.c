#include "engine/vector_arena.h"

#include <stdlib.h>
#include <string.h>

enum { ALIGN_BYTES = 64 };

void vector_arena_init(struct vector_arena *arena, size_t max_bytes) {
    *arena = (struct vector_arena){0};
    buf_init(&arena->bytes, max_bytes);
}

void vector_arena_done(struct vector_arena *arena) {
    buf_done(&arena->bytes);
    free(arena->pending);
    arena->pending = NULL;
}

static enum err remember(struct vector_arena *arena, struct device_ptr *ptr) {
    if (arena->pending_count == arena->pending_capacity) {
        size_t capacity = arena->pending_capacity == 0 ? 64 : 2 * arena->pending_capacity;
        struct device_ptr **grown = realloc(arena->pending, capacity * sizeof(*grown));
        if (grown == NULL) {
            return err_fail(ERR_NOMEM, "list of %zu model vectors", capacity);
        }
        arena->pending = grown;
        arena->pending_capacity = capacity;
    }
    arena->pending[arena->pending_count++] = ptr;
    return ERR_OK;
}

enum err vector_arena_add(struct vector_arena *arena, const void *data, size_t bytes,
                          struct device_ptr *ptr, void **place) {
    size_t padding = (ALIGN_BYTES - arena->bytes.len % ALIGN_BYTES) % ALIGN_BYTES;
    uint8_t *to = NULL;
    TRY(buf_extend(&arena->bytes, padding, &to));
    memset(to, 0, padding);
    size_t offset = arena->bytes.len;
    TRY(buf_extend(&arena->bytes, bytes, &to));
    TRY(remember(arena, ptr));
    if (data != NULL) {
        memcpy(to, data, bytes);
    } else {
        memset(to, 0, bytes);
    }
    *ptr = device_ptr_at(NULL, offset);
    if (place != NULL) {
        *place = to;
    }
    return ERR_OK;
}

static enum err copy_all(struct vector_arena *arena, struct device *device,
                         struct device_buffer *buffer) {
    struct device_stream *stream = NULL;
    TRY(device_stream_create(device, DEVICE_STREAM_COPY, &stream));
    enum err code =
        device_copy_in(stream, device_ptr_at(buffer, 0), arena->bytes.data, arena->bytes.len);
    if (code == ERR_OK) {
        code = device_stream_wait_idle(stream);
    }
    device_stream_destroy(stream);
    return code;
}

enum err vector_arena_upload(struct vector_arena *arena, struct device *device,
                             struct device_buffer **out) {
    if (arena->bytes.len == 0) {
        *out = NULL;
        return ERR_OK;
    }
    struct device_buffer *buffer = NULL;
    TRY(device_buffer_create(device, arena->bytes.len, &buffer));
    enum err code = copy_all(arena, device, buffer);
    if (code != ERR_OK) {
        device_buffer_destroy(buffer);
        return code;
    }
    for (size_t i = 0; i < arena->pending_count; i++) {
        arena->pending[i]->buffer = buffer;
    }
    *out = buffer;
    return ERR_OK;
}
