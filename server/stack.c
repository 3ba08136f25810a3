#include "server/stack.h"

#include "engine/model_digest.h"
#include "store/state_open.h"

#include <errno.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    PATH_BYTES = 4096,
    STEP_ROWS = 128,
    STEP_MS = 100,
    WARM_TOKENS = 16384, /* for a first turn whose memory need not be found while it waits */
    PROMOTE_THREADS_MAX = 8,
    SLOTS_A_REQUEST = 3,      /* running, prompt end, turn end */
    HEAD_SLOTS_MIN = 2,       /* of the head that the next request attaches */
    SPARE_BLOCKS = 4,         /* tails of heads that a request attaches and makes */
    STATE_FORMAT_VERSION = 1, /* of what a state digest stands for */
};

#define HEADROOM_BYTES ((uint64_t)32 << 20) /* scratch of the kernels */
#define LEDGER_BYTES_MIN ((uint64_t)4 << 20)
#define LEDGER_BYTES_MAX ((uint64_t)16 << 30)

struct stack_config stack_config_default(void) {
    return (struct stack_config){
        .block_size = LAYOUT_BLOCK_SIZE_DEFAULT,
        .kv_type = DTYPE_F16,
        .running_max = 16,
        .queue_max = 256,
        .front_threads = 4,
        .host_bytes = (uint64_t)1 << 30,
        .disk_bytes = (uint64_t)16 << 30,
        .ledger_reserve_bytes = (uint64_t)64 << 20,
        .spills_eagerly = 1,
        .spill_lag_bytes = (uint64_t)256 << 20,
        .spill_lag_ms = 1000,
    };
}

/* --- directory, ledger ---------------------------------------------------------------------------
 */

static enum err join(char out[PATH_BYTES], const char *directory, const char *name) {
    int length = snprintf(out, PATH_BYTES, "%s/%s", directory, name);
    if (length < 0 || length >= PATH_BYTES) {
        return err_fail(ERR_INVALID, "the path of the store directory is too long");
    }
    return ERR_OK;
}

static int exists(const char *path) {
    struct stat status;
    return stat(path, &status) == 0;
}

/* A damaged state environment is only a cache: it is set aside, and begun anew. */
static enum err set_state_aside(struct stack *stack, const char *path) {
    TRY(state_open_set_aside(path));
    stack->is_state_set_aside = 1;
    return ERR_OK;
}

static enum err check_environments(struct stack *stack) {
    char path[PATH_BYTES];
    const struct stack_config *config = &stack->config;
    stack->was_clean = lock_was_clean(stack->lock);
    if (stack->was_clean || config->walk == NULL) {
        return ERR_OK;
    }
    TRY(join(path, config->directory, "ledger"));
    if (exists(path)) {
        enum err code = config->walk(config->walk_context, path, 1);
        if (code != ERR_OK) {
            return err_context(code, "the ledger in '%s' is damaged; restore it from a copy", path);
        }
    }
    TRY(join(path, config->directory, "state"));
    if (exists(path) && config->walk(config->walk_context, path, 0) != ERR_OK) {
        return set_state_aside(stack, path);
    }
    return ERR_OK;
}

static uint64_t ledger_share(const struct stack_config *config) {
    uint64_t share = config->disk_bytes / 4;
    share = share > LEDGER_BYTES_MAX ? LEDGER_BYTES_MAX : share;
    share = share < config->ledger_reserve_bytes ? config->ledger_reserve_bytes : share;
    return share < LEDGER_BYTES_MIN ? LEDGER_BYTES_MIN : share;
}

static enum err open_ledger(struct stack *stack) {
    const struct stack_config *config = &stack->config;
    char path[PATH_BYTES];
    uint64_t map_bytes = ledger_share(config);
    TRY(lock_acquire(config->directory, &stack->lock));
    TRY(check_environments(stack));
    if (map_bytes > config->disk_bytes - config->disk_bytes / 4) {
        return err_fail(ERR_INVALID,
                        "a disk budget of %llu bytes leaves no room for state beside the "
                        "ledger's %llu: raise --disk or lower --ledger-reserve",
                        (unsigned long long)config->disk_bytes, (unsigned long long)map_bytes);
    }
    TRY(join(path, config->directory, "ledger"));
    TRY(secret_load(config->directory, !exists(path), &stack->secret));
    return ledger_open(
        &(struct ledger_config){
            .directory = path,
            .secret = &stack->secret,
            .map_bytes = map_bytes,
            .reserve_bytes =
                config->ledger_reserve_bytes < map_bytes ? config->ledger_reserve_bytes : map_bytes,
        },
        &stack->ledger);
}

/* --- model
 * ------------------------------------------------------------------------------------------ */

static enum err open_file(struct stack *stack) {
    if (stack->config.model_path != NULL) {
        return gguf_open(stack->config.model_path, &stack->file);
    }
    return gguf_parse(stack->config.model_data, stack->config.model_bytes, &stack->file);
}

static enum err open_model(struct stack *stack) {
    const struct stack_config *config = &stack->config;
    TRY(open_file(stack));
    TRY(tokenizer_create(stack->file, &stack->tokenizer));
    TRY(chat_template_from_gguf(stack->file, stack->tokenizer, &stack->chat_template));
    TRY(device_open(&(struct device_config){.backend = config->backend,
                                            .isa = config->isa,
                                            .threads = config->threads,
                                            .memory_max_bytes = (size_t)config->device_bytes},
                    &stack->device));
    TRY(model_load(stack->file,
                   &(struct model_config){.device = stack->device,
                                          .block_size = config->block_size,
                                          .kv_type = config->kv_type},
                   &stack->model));
    memcpy(stack->model_name, stack->model->shape.name, sizeof stack->model_name);
    int made_for = stack->model->shape.context;
    stack->context = config->context > 0 ? config->context : made_for;
    if (config->context == 0 && stack->context > STACK_CONTEXT_DEFAULT) {
        stack->context = STACK_CONTEXT_DEFAULT;
    }
    if (stack->context > made_for) {
        return err_fail(ERR_INVALID, "--context %d is more than the %d that the model was made for",
                        stack->context, made_for);
    }
    return ERR_OK;
}

/* --- pools
 * ------------------------------------------------------------------------------------------- */

/* Activations of the engine's steps, as an upper bound: they are taken behind the pools. */
static uint64_t activation_bytes(const struct stack *stack) {
    const struct model_shape *shape = &stack->model->shape;
    uint64_t width = 4 * (uint64_t)shape->hidden;
    for (int i = 0; i < shape->layer_count; i++) {
        const struct model_layer_shape *layer = &shape->layers[i];
        uint64_t mamba = 4 * (uint64_t)model_mamba2_inner(&layer->mamba2) +
                         3 * (uint64_t)model_mamba2_channels(&layer->mamba2);
        uint64_t attention = 4 * (uint64_t)layer->attention.heads *
                             (uint64_t)(layer->attention.key_size + layer->attention.value_size);
        uint64_t ffn = 3 * (uint64_t)layer->feed_forward;
        uint64_t widest = mamba > attention ? mamba : attention;
        widest = widest > ffn ? widest : ffn;
        width = width > widest ? width : widest;
    }
    uint64_t logits = (uint64_t)stack->config.running_max *
                      ((uint64_t)shape->vocabulary + (uint64_t)shape->hidden);
    return 4 * (2 * width * STEP_ROWS + logits) + HEADROOM_BYTES;
}

/* Without a cap of --device-memory: the default, in a small machine half of its memory, but never
 * less than what is needed. */
static uint64_t default_budget(uint64_t needed) {
    uint64_t budget = STACK_POOL_DEFAULT;
    long pages = sysconf(_SC_PHYS_PAGES), page_bytes = sysconf(_SC_PAGESIZE);
    if (pages > 0 && page_bytes > 0) {
        uint64_t half = (uint64_t)pages / 2 * (uint64_t)page_bytes;
        budget = half < budget ? half : budget;
    }
    return needed > budget ? needed : budget;
}

/*
 * What one request needs to run to the end of its context; the rest is halved between state slots
 * and KV blocks. A state is as large as the KV of some thousand tokens, which is what a
 * conversation has: and it is slots, SLOTS_A_REQUEST each, that decide how many requests run at
 * once.
 */
static enum err size_pools(const struct stack *stack, struct pool_config *out) {
    const struct layout *layout = &stack->model->layout;
    struct device_info info;
    uint64_t blocks_min =
        layout->kv_count > 0 ? (uint64_t)layout_blocks(layout, stack->context) + SPARE_BLOCKS : 0;
    uint64_t slots_min = layout->state_count > 0 ? SLOTS_A_REQUEST + HEAD_SLOTS_MIN : 0;
    uint64_t needed = blocks_min * layout->block_bytes + slots_min * layout->slot_bytes;
    uint64_t budget = default_budget(needed);
    device_get_info(stack->device, &info);
    if (stack->config.device_bytes > 0) {
        uint64_t taken = info.memory_used_bytes + activation_bytes(stack);
        budget = stack->config.device_bytes > taken ? stack->config.device_bytes - taken : 0;
    }
    if (budget < needed) {
        return err_fail(ERR_NOMEM,
                        "the device budget leaves %llu bytes for the pools, and one context of "
                        "%d tokens needs %llu: raise --device-memory or lower --context",
                        (unsigned long long)budget, stack->context, (unsigned long long)needed);
    }
    uint64_t slots = slots_min, blocks = blocks_min;
    uint64_t rest = budget - needed;
    if (layout->state_count > 0) {
        slots += (layout->kv_count > 0 ? rest / 2 : rest) / layout->slot_bytes;
        rest = budget - blocks_min * layout->block_bytes - slots * layout->slot_bytes;
    }
    if (layout->kv_count > 0) {
        blocks += rest / layout->block_bytes;
    }
    *out = (struct pool_config){
        .device = stack->device,
        .layout = layout,
        .blocks = (int)(blocks > INT32_MAX ? INT32_MAX : blocks),
        .slots = (int)(slots > INT32_MAX ? INT32_MAX : slots),
    };
    return ERR_OK;
}

/* --- store
 * ------------------------------------------------------------------------------------------- */

static void hash_int(crypto_generichash_state *hash, int64_t value) {
    uint8_t bytes[8];
    for (int i = 0; i < 8; i++) {
        bytes[i] = (uint8_t)((uint64_t)value >> (8 * i));
    }
    crypto_generichash_update(hash, bytes, sizeof bytes);
}

/* The state digest: weights and metadata (the whole file), layer layout, types, block size. */
static enum err state_digest(const struct stack *stack, uint8_t out[STORE_DIGEST_BYTES]) {
    const struct layout *layout = &stack->model->layout;
    uint8_t file[32];
    crypto_generichash_state hash;
    if (stack->config.model_path != NULL) {
        TRY(model_digest_file(stack->config.model_path, stack->file, stack->config.directory,
                              file));
    } else {
        crypto_generichash(file, sizeof file, stack->config.model_data, stack->config.model_bytes,
                           NULL, 0);
    }
    crypto_generichash_init(&hash, NULL, 0, STORE_DIGEST_BYTES);
    hash_int(&hash, STATE_FORMAT_VERSION);
    crypto_generichash_update(&hash, file, sizeof file);
    hash_int(&hash, layout->block_size);
    hash_int(&hash, (int64_t)layout->kv_type);
    hash_int(&hash, (int64_t)layout->block_bytes);
    hash_int(&hash, (int64_t)layout->slot_bytes);
    hash_int(&hash, layout->kv_count);
    for (int i = 0; i < layout->kv_count; i++) {
        hash_int(&hash, layout->kv[i].layer);
        hash_int(&hash, layout->kv[i].kv_heads);
        hash_int(&hash, layout->kv[i].key_size);
        hash_int(&hash, layout->kv[i].value_size);
    }
    hash_int(&hash, layout->state_count);
    for (int i = 0; i < layout->state_count; i++) {
        hash_int(&hash, layout->states[i].layer);
        for (int d = 0; d < LAYOUT_DIMS_MAX; d++) {
            hash_int(&hash, layout->states[i].dims[d]);
        }
    }
    crypto_generichash_final(&hash, out, STORE_DIGEST_BYTES);
    return ERR_OK;
}

static enum err open_store(struct stack *stack) {
    const struct stack_config *config = &stack->config;
    struct pool_config pool;
    struct device_info info;
    char path[PATH_BYTES];
    TRY(join(path, config->directory, "state"));
    TRY(size_pools(stack, &pool));
    TRY(pool_create(&pool, &stack->pool));
    device_get_info(stack->device, &info);
    struct store_config store = {
        .pool = stack->pool,
        .host_max_bytes = (size_t)config->host_bytes,
        .directory = path,
        .disk_max_bytes = config->disk_bytes - ledger_share(config),
        .promote_threads = info.threads < PROMOTE_THREADS_MAX ? info.threads : PROMOTE_THREADS_MAX,
        .numerics_class = info.numerics_class,
        .spills_eagerly = config->spills_eagerly,
        .spill_idle_ms = config->spill_idle_ms,
        .spill_lag_bytes = config->spill_lag_bytes,
        .spill_lag_ms = config->spill_lag_ms,
    };
    TRY(state_digest(stack, store.state_digest));
    enum err code = store_create(&store, &stack->store);
    if (code == ERR_FORMAT || code == ERR_CORRUPT) {
        TRY(set_state_aside(stack, path));
        code = store_create(&store, &stack->store);
    }
    return code;
}

/* --- the whole
 * ----------------------------------------------------------------------------------------- */

static enum err open_engine(struct stack *stack) {
    const struct stack_config *config = &stack->config;
    TRY(engine_create(&(struct engine_config){.model = stack->model,
                                              .pool = stack->pool,
                                              .store = stack->store,
                                              .tokenizer = stack->tokenizer,
                                              .context = stack->context,
                                              .running_max = config->running_max,
                                              .queue_max = config->queue_max,
                                              .step_rows_max = STEP_ROWS > 2 * config->running_max
                                                                   ? STEP_ROWS
                                                                   : 2 * config->running_max,
                                              .step_ms = STEP_MS},
                      &stack->engine));
    TRY(front_create(config->front_threads, config->queue_max, &stack->front));
    return turn_service_create(&(struct turn_service_config){.ledger = stack->ledger,
                                                             .secret = &stack->secret,
                                                             .store = stack->store,
                                                             .engine = stack->engine,
                                                             .tokenizer = stack->tokenizer,
                                                             .chat_template = stack->chat_template,
                                                             .front = stack->front,
                                                             .context = stack->context},
                               &stack->turns);
}

static enum err open_all(struct stack *stack) {
    if (sodium_init() < 0) {
        return err_fail(ERR_IO, "libsodium found no source of randomness");
    }
    TRY(open_ledger(stack));
    TRY(open_model(stack));
    TRY(open_store(stack));
    gguf_close(stack->file); /* the map is released: weights are in memory once */
    stack->file = NULL;
    TRY(open_engine(stack));
    store_warm(stack->store, WARM_TOKENS);
    return ERR_OK;
}

enum err stack_open(const struct stack_config *config, struct stack **out) {
    struct stack *stack = calloc(1, sizeof *stack);
    if (stack == NULL) {
        return err_fail(ERR_NOMEM, "server");
    }
    stack->config = *config;
    enum err code = open_all(stack);
    if (code != ERR_OK) {
        stack_close(stack, 0);
        return code;
    }
    *out = stack;
    return ERR_OK;
}

void stack_close(struct stack *stack, uint32_t drain_ms) {
    if (stack == NULL) {
        return;
    }
    int is_clean = stack->turns != NULL;
    if (stack->turns != NULL) {
        turn_service_cancel_all(stack->turns);
    }
    front_destroy(stack->front);
    turn_service_destroy(stack->turns);
    engine_destroy(stack->engine);
    if (stack->store != NULL && drain_ms > 0 && store_drain(stack->store, drain_ms) != ERR_OK) {
        is_clean = 0; /* harmless: the next start walks, and re-runs what was not written */
    }
    store_destroy(stack->store);
    pool_destroy(stack->pool);
    model_destroy(stack->model);
    chat_template_destroy(stack->chat_template);
    tokenizer_destroy(stack->tokenizer);
    device_close(stack->device);
    gguf_close(stack->file);
    ledger_close(stack->ledger);
    secret_done(&stack->secret);
    lock_release(stack->lock, is_clean);
    free(stack);
}
