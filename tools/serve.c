/*
 * `tern serve`: opens the stack, serves it over HTTP, drains on SIGTERM.
 */
#include "base/log.h"
#include "engine/demo/demo_model.h"
#include "server/config.h"
#include "server/server.h"
#include "server/stack.h"
#include "tools/environment_walk.h"
#include "tools/model_file.h"
#include "tools/subcommand.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

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
        out->ledger_commit_seconds = stats.commit_seconds;
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
    out->turn_commit_seconds = turns.commit_seconds;
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

static enum dtype kv_type_of(enum config_kv kv) {
    switch (kv) {
    case CONFIG_KV_F16:
        return DTYPE_F16;
    case CONFIG_KV_BF16:
        return DTYPE_BF16;
    case CONFIG_KV_F32:
        break;
    }
    return DTYPE_F32;
}

static struct stack_config stack_config_of(const struct config *config) {
    struct stack_config stack = stack_config_default();
    if (model_file_is_demo(config->model)) {
        stack.model_data = demo_model_data(&stack.model_bytes);
    } else {
        stack.model_path = config->model;
    }
    stack.directory = config->store;
    stack.context = config->context;
    stack.block_size = config->block_size;
    stack.kv_type = kv_type_of(config->kv);
    stack.backend = strcmp(config->backend, "auto") == 0 ? NULL : config->backend;
    stack.threads = config->threads;
    stack.running_max = config->running_max;
    stack.queue_max = config->queue_max;
    stack.front_threads = config->front_threads;
    stack.device_bytes = config->device_memory_bytes;
    stack.host_bytes = config->host_memory_bytes;
    stack.disk_bytes = config->disk_bytes;
    stack.ledger_reserve_bytes = config->ledger_reserve_bytes;
    stack.spills_eagerly = config->spill == CONFIG_SPILL_EAGER;
    if (config->spill == CONFIG_SPILL_IDLE) {
        stack.spill_idle_ms = (uint32_t)config->spill_idle_seconds * 1000;
    }
    stack.spill_lag_bytes = config->spill_lag_bytes;
    stack.spill_lag_ms = (uint32_t)config->spill_lag_ms;
    stack.walk = environment_walk_run;
    return stack;
}

/* --- serving -----------------------------------------------------------------------------------
 */

static void announce(const struct config *config, const struct stack *stack, int port) {
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
    printf("tern: listening on http://%s:%d\n", config->host, port);
    fflush(stdout);
}

static void stop_at_once(int signal) {
    (void)signal;
    _exit(EXIT_CODE_FAILED);
}

/* The loop that the signals were handled in has ended. From here on one more signal is the second
 * one: nothing acknowledged is lost by going at once, only what was still to be written. */
static void stop_at_next_signal(void) {
    struct sigaction action = {.sa_handler = stop_at_once};
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
}

static enum err serve(const struct config *config, struct stack *stack) {
    struct server *server = NULL;
    struct server_callbacks callbacks = {.snapshot = fill_snapshot, .context = stack};
    struct server_params params = {
        .host = config->host,
        .port = config->port,
        .api_keys_path = config->api_keys,
        .model = stack->model_name,
        .context = stack->context,
        .front_threads = config->front_threads,
        .queue_max = config->queue_max,
        .drain_seconds = config->drain_seconds,
        .handles_signals = 1,
        .limits = http_limits_default(),
    };
    params.limits.body_max = (size_t)config->body_max_bytes;
    params.limits.connections_max = config->connections_max;
    TRY(server_create(&params, stack->turns, &callbacks, &server));
    announce(config, stack, server_port(server));
    enum err code = server_run(server);
    if (code == ERR_CANCELLED) {
        log_warn("stopped at once");
        _exit(EXIT_CODE_FAILED);
    }
    stop_at_next_signal();
    log_info("writing what is not on disk yet");
    stack_close(stack, (uint32_t)config->drain_seconds * 1000);
    server_destroy(server); /* after the turns, which told it their ends */
    return code;
}

static enum err run(const struct config *config) {
    struct stack_config stack_config = stack_config_of(config);
    struct stack *stack = NULL;
    log_set_level((enum log_level)config->log_level);
    TRY(stack_open(&stack_config, &stack));
    return serve(config, stack);
}

static int run_with(struct config *config, int argc, char **argv) {
    enum err code = config_parse(config, argc, argv);
    if (code == ERR_OK && config->wants_help) {
        config_print_usage(stdout);
        return EXIT_CODE_OK;
    }
    int exit_code = EXIT_CODE_USAGE;
    if (code == ERR_OK) {
        exit_code = EXIT_CODE_FAILED;
        code = run(config);
    }
    if (code != ERR_OK) {
        fprintf(stderr, "tern serve: %s\n", err_message());
        return exit_code;
    }
    return EXIT_CODE_OK;
}

int subcommand_serve(int argc, char **argv) {
    struct config config;
    if (config_init(&config) != ERR_OK) {
        fprintf(stderr, "tern serve: %s\n", err_message());
        return EXIT_CODE_FAILED;
    }
    int exit_code = run_with(&config, argc, argv);
    config_done(&config);
    return exit_code;
}
