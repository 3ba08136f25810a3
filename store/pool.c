/*
 * I1: an index is on its free list exactly while its reference count is 0.
 * I2: the free list is a stack in `free_indices`; its first free_count entries are valid.
 */
#include "store/pool.h"

#include <pthread.h>
#include <stdlib.h>

#define POOL_MAGIC 0x706f6f6c74726e31u

/* One kind of unit (blocks or slots) and who holds them. */
struct units {
    int count;
    int free_count;
    int32_t *free_indices;
    int32_t *references;
};

struct pool {
    uint64_t magic;
    struct device *device;
    const struct layout *layout;
    struct device_buffer *kv_buffer;
    struct device_buffer *state_buffer;
    pthread_mutex_t lock; /* over both units; never held across a device call */
    struct units blocks;
    struct units slots;
};

static enum err units_init(struct units *units, int count) {
    if (count < 1) {
        return err_fail(ERR_INVALID, "a pool of %d units", count);
    }
    units->free_indices = calloc((size_t)count, sizeof *units->free_indices);
    units->references = calloc((size_t)count, sizeof *units->references);
    if (units->free_indices == NULL || units->references == NULL) {
        return err_fail(ERR_NOMEM, "pool of %d units", count);
    }
    units->count = count;
    units->free_count = count;
    for (int i = 0; i < count; i++) {
        units->free_indices[i] = count - 1 - i; /* low indices are handed out first */
    }
    return ERR_OK;
}

static void units_done(struct units *units) {
    assert(units->free_count == units->count);
    free(units->free_indices);
    free(units->references);
}

static enum err buffer_of(struct device *device, const char *what, int count, size_t unit_bytes,
                          struct device_buffer **out) {
    if (unit_bytes > SIZE_MAX / (size_t)count) {
        return err_fail(ERR_NOMEM, "%d %s of %zu bytes", count, what, unit_bytes);
    }
    enum err code = device_buffer_create(device, (size_t)count * unit_bytes, out);
    if (code != ERR_OK) {
        return err_context(code, "%d %s of %zu bytes", count, what, unit_bytes);
    }
    return ERR_OK;
}

static enum err reserve(struct pool *pool, const struct pool_config *config) {
    const struct layout *layout = config->layout;
    if (layout->kv_count > 0) {
        TRY(units_init(&pool->blocks, config->blocks));
        TRY(buffer_of(config->device, "KV blocks", config->blocks, layout->block_bytes,
                      &pool->kv_buffer));
    }
    if (layout->state_count > 0) {
        TRY(units_init(&pool->slots, config->slots));
        TRY(buffer_of(config->device, "state slots", config->slots, layout->slot_bytes,
                      &pool->state_buffer));
    }
    return ERR_OK;
}

enum err pool_create(const struct pool_config *config, struct pool **out) {
    struct pool *pool = calloc(1, sizeof *pool);
    if (pool == NULL) {
        return err_fail(ERR_NOMEM, "pool");
    }
    pool->magic = POOL_MAGIC;
    pool->device = config->device;
    pool->layout = config->layout;
    pthread_mutex_init(&pool->lock, NULL);
    enum err code = reserve(pool, config);
    if (code != ERR_OK) {
        pool_destroy(pool);
        return code;
    }
    *out = pool;
    return ERR_OK;
}

void pool_destroy(struct pool *pool) {
    if (pool == NULL) {
        return;
    }
    units_done(&pool->blocks);
    units_done(&pool->slots);
    device_buffer_destroy(pool->kv_buffer);
    device_buffer_destroy(pool->state_buffer);
    pthread_mutex_destroy(&pool->lock);
    free(pool);
}

static void warm_units(struct device_buffer *buffer, size_t unit_bytes, int count, int wanted) {
    if (buffer != NULL) {
        device_buffer_warm(buffer, 0, unit_bytes * (size_t)(wanted < count ? wanted : count));
    }
}

void pool_warm(struct pool *pool, int blocks, int slots) {
    warm_units(pool->state_buffer, pool->layout->slot_bytes, pool->slots.count, slots);
    warm_units(pool->kv_buffer, pool->layout->block_bytes, pool->blocks.count, blocks);
}

const struct layout *pool_layout(const struct pool *pool) {
    return pool->layout;
}

struct device *pool_device(const struct pool *pool) {
    return pool->device;
}

static enum err take(struct pool *pool, struct units *units, const char *what, int32_t *out) {
    MAGIC_CHECK(pool, POOL_MAGIC);
    pthread_mutex_lock(&pool->lock);
    int32_t index = -1;
    if (units->free_count > 0) {
        index = units->free_indices[--units->free_count];
        assert(units->references[index] == 0); /* I1 */
        units->references[index] = 1;
    }
    pthread_mutex_unlock(&pool->lock);
    if (index < 0) {
        return err_fail(ERR_FULL, "all %d %s are in use", units->count, what);
    }
    *out = index;
    return ERR_OK;
}

static void share(struct pool *pool, struct units *units, int32_t index) {
    assert(index >= 0 && index < units->count);
    pthread_mutex_lock(&pool->lock);
    assert(units->references[index] > 0);
    units->references[index]++;
    pthread_mutex_unlock(&pool->lock);
}

static void release(struct pool *pool, struct units *units, int32_t index) {
    assert(index >= 0 && index < units->count);
    pthread_mutex_lock(&pool->lock);
    assert(units->references[index] > 0);
    if (--units->references[index] == 0) {
        units->free_indices[units->free_count++] = index;
    }
    pthread_mutex_unlock(&pool->lock);
}

enum err pool_block_take(struct pool *pool, int32_t *out) {
    return take(pool, &pool->blocks, "KV blocks", out);
}

void pool_block_share(struct pool *pool, int32_t block) {
    share(pool, &pool->blocks, block);
}

void pool_block_release(struct pool *pool, int32_t block) {
    release(pool, &pool->blocks, block);
}

enum err pool_slot_take(struct pool *pool, int32_t *out) {
    return take(pool, &pool->slots, "state slots", out);
}

void pool_slot_share(struct pool *pool, int32_t slot) {
    share(pool, &pool->slots, slot);
}

void pool_slot_release(struct pool *pool, int32_t slot) {
    release(pool, &pool->slots, slot);
}

void pool_get_usage(struct pool *pool, struct pool_usage *out) {
    pthread_mutex_lock(&pool->lock);
    *out = (struct pool_usage){
        .blocks = pool->blocks.count,
        .blocks_free = pool->blocks.free_count,
        .slots = pool->slots.count,
        .slots_free = pool->slots.free_count,
    };
    pthread_mutex_unlock(&pool->lock);
}

int pool_block_references(struct pool *pool, int32_t block) {
    assert(block >= 0 && block < pool->blocks.count);
    pthread_mutex_lock(&pool->lock);
    int references = pool->blocks.references[block];
    pthread_mutex_unlock(&pool->lock);
    return references;
}

struct op_kv_view pool_kv_view(const struct pool *pool, int kv_index) {
    assert(kv_index >= 0 && kv_index < pool->layout->kv_count);
    const struct layout_kv *entry = &pool->layout->kv[kv_index];
    return (struct op_kv_view){
        .pool = pool->kv_buffer,
        .block_bytes = pool->layout->block_bytes,
        .key_offset_bytes = entry->key_offset_bytes,
        .value_offset_bytes = entry->value_offset_bytes,
        .block_size = pool->layout->block_size,
        .kv_heads = entry->kv_heads,
        .key_size = entry->key_size,
        .value_size = entry->value_size,
        .type = pool->layout->kv_type,
    };
}

struct op_state_view pool_state_view(const struct pool *pool, int state_index) {
    assert(state_index >= 0 && state_index < pool->layout->state_count);
    return (struct op_state_view){
        .pool = pool->state_buffer,
        .slot_bytes = pool->layout->slot_bytes,
        .offset_bytes = pool->layout->states[state_index].offset_bytes,
    };
}

struct device_ptr pool_block_ptr(const struct pool *pool, int32_t block) {
    assert(block >= 0 && block < pool->blocks.count);
    return device_ptr_at(pool->kv_buffer, (size_t)block * pool->layout->block_bytes);
}

struct device_ptr pool_slot_ptr(const struct pool *pool, int32_t slot) {
    assert(slot >= 0 && slot < pool->slots.count);
    return device_ptr_at(pool->state_buffer, (size_t)slot * pool->layout->slot_bytes);
}

enum err pool_copy_tail(struct pool *pool, struct device_stream *stream, int32_t from, int32_t to,
                        int tokens) {
    const struct layout *layout = pool->layout;
    return op_kv_copy_tail(stream, &(struct op_kv_copy_tail){
                                       .pool = pool->kv_buffer,
                                       .block_bytes = layout->block_bytes,
                                       .block_size = layout->block_size,
                                       .type = layout->kv_type,
                                       .segments = layout->segments,
                                       .segment_count = 2 * layout->kv_count,
                                       .from = from,
                                       .to = to,
                                       .tokens = tokens,
                                   });
}

enum err pool_copy_state(struct pool *pool, struct device_stream *stream, int32_t from,
                         int32_t to) {
    return op_state_copy(stream, &(struct op_state_copy){
                                     .pool = pool->state_buffer,
                                     .slot_bytes = pool->layout->slot_bytes,
                                     .from = from,
                                     .to = to,
                                 });
}

enum err pool_clear_state(struct pool *pool, struct device_stream *stream, int32_t slot) {
    return op_state_clear(stream, &(struct op_state_clear){
                                      .pool = pool->state_buffer,
                                      .slot_bytes = pool->layout->slot_bytes,
                                      .slot = slot,
                                  });
}
