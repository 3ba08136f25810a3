/*
 * `tern serve`: opens the stack, serves it over HTTP, drains on SIGTERM.
 */
#include "base/log.h"
#include "engine/demo/demo_model.h"
#include "server/server.h"
#include "server/stack.h"
#include "tools/config_file.h"
#include "tools/environment_walk.h"
#include "tools/model_file.h"
#include "tools/option.h"
#include "tools/subcommand.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { PATH_BYTES = 4096 };

struct serve_options {
    const char *model;
    const char *store;
    const char *host;
    const char *kv;
    const char *backend;
    const char *isa;
    const char *spill;
    const char *api_keys;
    const char *log_level;
    const char *config; /* expanded before the options are parsed */
    long long port;
    long long context;
    long long block_size;
    long long device_memory;
    long long host_memory;
    long long disk;
    long long ledger_reserve;
    long long spill_lag_ms;
    long long spill_lag_bytes;
    long long threads;
    long long running_max;
    long long queue_max;
    long long drain_seconds;
    long long body_max;
};

/* --- health and metrics ------------------------------------------------------------------------
 */

static void fill_tiers(const struct store_counters *store,
                       const struct turn_service_counters *turns, const struct device_info *device,
                       struct server_snapshot *out) {
    static const enum tier tiers[] = {TIER_DEVICE, TIER_HOST, TIER_DISK};
    for (int i = 0; i < SERVER_SNAPSHOT_TIERS; i++) {
        out->tiers[i].tokens_reused = turns->tokens_reused[tiers[i]];
        out->tiers[i].attached = store->found[tiers[i]];
    }
    out->tiers[SERVER_SNAPSHOT_DEVICE].used_bytes = device->memory_used_bytes;
    out->tiers[SERVER_SNAPSHOT_DEVICE].max_bytes = device->memory_max_bytes;
    out->tiers[SERVER_SNAPSHOT_DEVICE].heads = store->heads_device;
    out->tiers[SERVER_SNAPSHOT_DEVICE].evictions = store->evicted_device;
    out->tiers[SERVER_SNAPSHOT_HOST].used_bytes = store->host_bytes;
    out->tiers[SERVER_SNAPSHOT_HOST].max_bytes = store->host_max_bytes;
    out->tiers[SERVER_SNAPSHOT_HOST].heads = store->heads_host;
    out->tiers[SERVER_SNAPSHOT_HOST].evictions = store->evicted_host;
    out->tiers[SERVER_SNAPSHOT_DISK].used_bytes = store->disk_bytes;
    out->tiers[SERVER_SNAPSHOT_DISK].max_bytes = store->disk_max_bytes;
    out->tiers[SERVER_SNAPSHOT_DISK].evictions = store->evicted_disk;
}

static void fill_ledger(struct ledger *ledger, struct server_snapshot *out) {
    struct ledger_stats stats;
    if (ledger_stats_read(ledger, &stats) == ERR_OK) {
        out->ledger_used_bytes = stats.used_bytes - stats.free_bytes;
        out->ledger_max_bytes = stats.map_bytes;
        out->ledger_commits = stats.turns_committed;
        out->ledger_groups = stats.commits;
        out->conversations = stats.conversations;
    }
    out->is_serving = !ledger_is_failed(ledger);
    if (!out->is_serving) {
        snprintf(out->reasons[out->reason_count++], SERVER_SNAPSHOT_REASON_BYTES,
                 "ledger: %.100s; restart the server", stats.failure);
    }
    out->leases = (int)lease_count(ledger_leases(ledger));
}

static void fill_snapshot(void *context, struct server_snapshot *out) {
    struct stack *stack = context;
    struct engine_counters engine;
    struct store_counters store;
    struct turn_service_counters turns;
    struct device_info device;
    engine_get_counters(stack->engine, &engine);
    store_get_counters(stack->store, &store);
    turn_service_get_counters(stack->turns, &turns);
    device_get_info(stack->device, &device);
    out->tokens_run = engine.tokens_run;
    out->tokens_generated = engine.tokens_generated;
    out->steps = engine.steps;
    out->set_aside = engine.requests_set_aside;
    out->queued = engine.queued;
    out->running = engine.running;
    out->turns_committed = turns.turns_committed;
    out->turns_failed = turns.turns_failed;
    out->turns_cancelled = turns.turns_cancelled;
    out->rebuilds = turns.turns_rebuilt;
    out->misses = store.found[TIER_NONE];
    fill_tiers(&store, &turns, &device, out);
    out->spills = store.spills_done;
    out->spills_dropped = store.spills_dropped;
    out->spills_refused = store.spills_failed;
    out->spill_bytes = store.spill_bytes;
    out->quarantined = store.quarantined;
    out->spill_lag_bytes = store.lag_bytes;
    out->spill_lag_ms = store.lag_ms;
    fill_ledger(stack->ledger, out);
}

/* --- configuration -----------------------------------------------------------------------------
 */

/* eager, evict or idle:SECONDS. */
static enum err parse_spill(const char *text, struct stack_config *out) {
    char rest = '\0';
    unsigned seconds = 0;
    out->spills_eagerly = strcmp(text, "eager") == 0;
    if (out->spills_eagerly || strcmp(text, "evict") == 0) {
        return ERR_OK;
    }
    if (sscanf(text, "idle:%6u%c", &seconds, &rest) != 1 || seconds < 1) {
        return err_fail(ERR_INVALID, "--spill is '%s', expected eager, idle:SECONDS or evict",
                        text);
    }
    out->spill_idle_ms = seconds * 1000;
    return ERR_OK;
}

static enum err fill_config(const struct serve_options *options, struct stack_config *out) {
    *out = stack_config_default();
    TRY(dtype_parse(options->kv, &out->kv_type));
    TRY(parse_spill(options->spill, out));
    if (model_file_is_demo(options->model)) {
        out->model_data = demo_model_data(&out->model_bytes);
    } else {
        out->model_path = options->model;
    }
    out->directory = options->store;
    out->context = (int)options->context;
    out->block_size = (int)options->block_size;
    out->backend = options->backend;
    out->isa = options->isa;
    out->threads = (int)options->threads;
    out->running_max = (int)options->running_max;
    out->queue_max = (int)options->queue_max;
    out->device_bytes = (uint64_t)options->device_memory;
    out->host_bytes = (uint64_t)options->host_memory;
    out->disk_bytes = (uint64_t)options->disk;
    out->ledger_reserve_bytes = (uint64_t)options->ledger_reserve;
    out->spill_lag_bytes = (uint64_t)options->spill_lag_bytes;
    out->spill_lag_ms = (uint32_t)options->spill_lag_ms;
    out->walk = environment_walk_run;
    return ERR_OK;
}

/* $XDG_DATA_HOME/tern or ~/.local/share/tern. */
static enum err default_store(char out[PATH_BYTES]) {
    const char *data = getenv("XDG_DATA_HOME");
    const char *home = getenv("HOME");
    int length;
    if (data != NULL && data[0] == '/') {
        length = snprintf(out, PATH_BYTES, "%s/tern", data);
    } else if (home != NULL && home[0] == '/') {
        length = snprintf(out, PATH_BYTES, "%s/.local/share/tern", home);
    } else {
        return err_fail(ERR_INVALID, "--store is needed where HOME is not set");
    }
    if (length < 0 || length >= PATH_BYTES) {
        return err_fail(ERR_INVALID, "the default store directory's path is too long");
    }
    return ERR_OK;
}

/* --- serving -----------------------------------------------------------------------------------
 */

static void announce(const struct serve_options *options, const struct stack *stack, int port) {
    struct device_info device;
    struct pool_usage pool;
    device_get_info(stack->device, &device);
    pool_get_usage(stack->pool, &pool);
    log_info("model %s, context %d, %s %s with %d threads, %d KV blocks, %d state slots",
             stack->model_name, stack->context, device.backend, device.isa, device.threads,
             pool.blocks, pool.slots);
    if (!stack->was_clean) {
        log_info("the last server of '%s' ended without closing it", stack->config.directory);
    }
    if (stack->is_state_set_aside) {
        log_warn("the state environment was damaged: set aside, conversations will be rebuilt");
    }
    printf("tern: listening on http://%s:%d\n", options->host, port);
    fflush(stdout);
}

static enum err serve(const struct serve_options *options, struct stack *stack) {
    struct server *server = NULL;
    struct server_callbacks callbacks = {.snapshot = fill_snapshot, .context = stack};
    struct server_params params = {
        .host = options->host,
        .port = (int)options->port,
        .api_keys_path = options->api_keys,
        .model = stack->model_name,
        .context = stack->context,
        .front_threads = stack->config.front_threads,
        .queue_max = stack->config.queue_max,
        .drain_seconds = (int)options->drain_seconds,
        .handles_signals = 1,
        .limits = http_limits_default(),
    };
    params.limits.body_max = (size_t)options->body_max;
    TRY(server_create(&params, stack->turns, &callbacks, &server));
    announce(options, stack, server_port(server));
    enum err code = server_run(server);
    if (code == ERR_CANCELLED) {
        /* Told twice to stop: nothing acknowledged is lost by going at once. */
        log_warn("stopped at once");
        _exit(EXIT_CODE_FAILED);
    }
    log_info("draining");
    stack_close(stack, (uint32_t)options->drain_seconds * 1000);
    server_destroy(server); /* after the turns, which told it their ends */
    return code;
}

static enum err run(const struct serve_options *options) {
    struct stack_config config;
    struct stack *stack = NULL;
    enum log_level level;
    if (!log_level_parse(options->log_level, &level)) {
        return err_fail(ERR_INVALID,
                        "--log-level is '%s', expected debug, info, warn, error or "
                        "off",
                        options->log_level);
    }
    log_set_level(level);
    TRY(fill_config(options, &config));
    TRY(stack_open(&config, &stack));
    return serve(options, stack);
}

/* --- options -------------------------------------------------------------------------------------
 */

static struct serve_options options_default(void) {
    struct stack_config defaults = stack_config_default();
    return (struct serve_options){
        .host = "127.0.0.1",
        .kv = "f16",
        .backend = "host",
        .isa = "auto",
        .spill = "eager",
        .log_level = "info",
        .port = 8080,
        .block_size = defaults.block_size,
        .host_memory = (long long)defaults.host_bytes,
        .disk = (long long)defaults.disk_bytes,
        .ledger_reserve = (long long)defaults.ledger_reserve_bytes,
        .spill_lag_ms = defaults.spill_lag_ms,
        .spill_lag_bytes = (long long)defaults.spill_lag_bytes,
        .running_max = defaults.running_max,
        .queue_max = defaults.queue_max,
        .drain_seconds = 30,
        .body_max = 16 << 20,
    };
}

enum { ENTRIES_MAX = 32 };

/* Appends COUNT entries to TABLE, which holds *USED. */
static void add_entries(struct option_entry *table, size_t *used,
                        const struct option_entry *entries, size_t count) {
    assert(*used + count <= ENTRIES_MAX);
    memcpy(table + *used, entries, count * sizeof *entries);
    *used += count;
}

static void add_service_entries(struct serve_options *options, struct option_entry *table,
                                size_t *used) {
    const struct option_entry entries[] = {
        {"model", OPTION_TEXT, &options->model, "FILE", MODEL_FILE_HELP, 0, 0},
        {"store", OPTION_TEXT, &options->store, "DIR",
         "where conversations are kept; made if missing (~/.local/share/tern)", 0, 0},
        {"host", OPTION_TEXT, &options->host, "ADDRESS", "to listen on (127.0.0.1)", 0, 0},
        {"port", OPTION_INT, &options->port, "N", "0: any that is free (8080)", 0, 65535},
        {"threads", OPTION_INT, &options->threads, "N",
         "threads that compute; 0: one per processor (0)", 0, 256},
        {"backend", OPTION_TEXT, &options->backend, "NAME", "host (host)", 0, 0},
        {"isa", OPTION_TEXT, &options->isa, "NAME", "auto, portable, avx2 or avx512 (auto)", 0, 0},
        {"running-max", OPTION_INT, &options->running_max, "N", "turns that compute at once (16)",
         1, 256},
        {"queue-max", OPTION_INT, &options->queue_max, "N", "turns that wait (256)", 1, 1 << 16},
        {"body-max", OPTION_BYTES, &options->body_max, "SIZE", "of a request's body (16M)", 1024,
         0x1p30},
        {"drain-seconds", OPTION_INT, &options->drain_seconds, "N",
         "what running turns and spills get after SIGTERM (30)", 0, 3600},
        {"api-keys", OPTION_TEXT, &options->api_keys, "FILE",
         "lines `KEY TENANT`; without it nobody is asked", 0, 0},
        {"config", OPTION_TEXT, &options->config, "FILE",
         "lines `name = value` with these names; the command line wins", 0, 0},
        {"log-level", OPTION_TEXT, &options->log_level, "LEVEL",
         "debug, info, warn, error or off (info)", 0, 0},
    };
    add_entries(table, used, entries, ARRAY_LEN(entries));
}

static void add_budget_entries(struct serve_options *options, struct option_entry *table,
                               size_t *used) {
    const struct option_entry entries[] = {
        {"context", OPTION_INT, &options->context, "N",
         "tokens of a conversation at most; 0: the model's, at most 32768 (0)", 0,
         MODEL_CONTEXT_MAX},
        {"block-size", OPTION_INT, &options->block_size, "N",
         "tokens in a KV block, a power of two (32)", 8, 256},
        {"kv", OPTION_TEXT, &options->kv, "TYPE", "KV blocks in f16, bf16 or f32 (f16)", 0, 0},
        {"device-memory", OPTION_BYTES, &options->device_memory, "SIZE",
         "weights, pools, activations; 0: weights and 1G of pools (0)", 0, 0x1p50},
        {"host-memory", OPTION_BYTES, &options->host_memory, "SIZE",
         "heads in host memory, staging, what is set aside (1G)", 0, 0x1p50},
        {"disk", OPTION_BYTES, &options->disk, "SIZE", "everything in the store (16G)", 0x1p24,
         0x1p60},
        {"ledger-reserve", OPTION_BYTES, &options->ledger_reserve, "SIZE",
         "of that, allocated ahead for the ledger (64M)", 0, 0x1p50},
        {"spill", OPTION_TEXT, &options->spill, "WHEN",
         "state goes to disk eager (after every turn), idle:SECONDS or evict (eager)", 0, 0},
        {"spill-lag", OPTION_INT, &options->spill_lag_ms, "MS",
         "how long state may lag the ledger before commits wait (1000)", 1, 1 << 30},
        {"spill-lag-bytes", OPTION_BYTES, &options->spill_lag_bytes, "SIZE", "likewise (256M)", 1,
         0x1p50},
    };
    add_entries(table, used, entries, ARRAY_LEN(entries));
}

int subcommand_serve(int argc, char **argv) {
    char store[PATH_BYTES];
    struct serve_options options = options_default();
    struct option_entry entries[ENTRIES_MAX];
    struct option_spec spec = {
        .usage = "tern serve [options]",
        .summary = "Serves chat completions whose conversations are kept: the client sends only\n"
                   "the new messages with a conversation_id. SIGTERM drains, a second stops.",
        .entries = entries,
    };
    add_service_entries(&options, entries, &spec.count);
    add_budget_entries(&options, entries, &spec.count);
    CLEANUP(config_file_done) struct config_file arguments = {0};
    if (config_file_expand(argc, argv, &arguments) != ERR_OK) {
        fprintf(stderr, "tern serve: %s\n", err_message());
        return EXIT_CODE_USAGE;
    }
    enum option_outcome outcome = option_parse(&spec, arguments.argc, arguments.argv, NULL, NULL);
    if (outcome != OPTION_RUN) {
        return outcome == OPTION_HELP_SHOWN ? EXIT_CODE_OK : EXIT_CODE_USAGE;
    }
    enum err code = ERR_OK;
    if (options.store == NULL) {
        code = default_store(store);
        options.store = store;
    }
    if (code == ERR_OK) {
        code = run(&options);
    }
    if (code != ERR_OK) {
        fprintf(stderr, "tern serve: %s\n", err_message());
        return EXIT_CODE_FAILED;
    }
    return EXIT_CODE_OK;
}
