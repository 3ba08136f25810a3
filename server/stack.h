/*
 * Everything of a server below HTTP, opened in order and closed in reverse: the
 * lock of the store directory, the check after an unclean end, ledger, device,
 * model, pools, store, engine, turn service. For `tern serve` and for tests that
 * hold conversations without HTTP.
 *
 * One thread opens and closes.
 */
#ifndef TERN_SERVER_STACK_H
#define TERN_SERVER_STACK_H

#include "server/turn_service.h"
#include "store/lock.h"

struct stack_config {
    const char *model_path; /* NULL: model_data */
    const void *model_data; /* a GGUF in memory, aligned to 64 bytes; kept by the caller */
    size_t model_bytes;
    const char *directory; /* of the store; made if missing */
    int context;           /* tokens; 0: the model's, at most STACK_CONTEXT_DEFAULT */
    int block_size;
    enum dtype kv_type;
    const char *backend; /* "host" */
    const char *isa;
    int threads;
    int running_max;
    int queue_max;
    int front_threads;
    uint64_t device_bytes; /* weights, pools, activations; 0: by the model, with
                              STACK_POOL_DEFAULT for the pools */
    uint64_t host_bytes;
    uint64_t disk_bytes;           /* everything in the directory */
    uint64_t ledger_reserve_bytes; /* of those, allocated ahead for the ledger */
    int spills_eagerly;
    uint32_t spill_idle_ms; /* else: when a head has lain so long; 0: when it is evicted */
    uint64_t spill_lag_bytes;
    uint32_t spill_lag_ms;
    /* Runs after an unclean end, before an environment is opened in this process: walks it where a
     * crash harms nobody. ERR_OK: it may be opened. NULL: no walk. */
    enum err (*walk)(void *context, const char *environment_dir, int is_ledger);
    void *walk_context;
};

enum { STACK_CONTEXT_DEFAULT = 32768 };
#define STACK_POOL_DEFAULT ((uint64_t)1 << 30)

/* What a configuration that says nothing amounts to. */
struct stack_config stack_config_default(void);

struct stack {
    struct stack_config config;
    struct lock *lock;
    struct secret secret;
    struct ledger *ledger;
    struct gguf *file; /* closed once the model is loaded */
    struct device *device;
    struct model *model;
    struct tokenizer *tokenizer;
    struct chat_template *chat_template;
    struct pool *pool;
    struct store *store;
    struct engine *engine;
    struct front *front;
    struct turn_service *turns;
    int context;
    int was_clean;
    int is_state_set_aside; /* the state environment was damaged and begun anew */
    char model_name[128];
};

/* Errors say which part could not be opened, and for budgets what each part takes. */
MUST_USE enum err stack_open(const struct stack_config *config, struct stack **out);

/*
 * Closes in order. DRAIN_MS: how long to wait for spills; 0 drops them. Turns that
 * have not reached the ledger are cancelled.
 */
void stack_close(struct stack *stack, uint32_t drain_ms);

#endif
