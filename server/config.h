/*
 * What `tern serve` is told: the same names on the command line (--name value, --name=value)
 * and in a file (name = value lines, '#' comments) that --config names. The command line
 * wins over the file, the file over the defaults; of two of a kind the last one counts.
 */
#ifndef TERN_SERVER_CONFIG_H
#define TERN_SERVER_CONFIG_H

#include "base/err.h"

#include <stdio.h>

enum config_kv { CONFIG_KV_F16, CONFIG_KV_BF16, CONFIG_KV_F32 };
enum config_spill { CONFIG_SPILL_EAGER, CONFIG_SPILL_IDLE, CONFIG_SPILL_EVICT };

/* Texts are owned by the config; NULL where the default is "none". */
struct config {
    char *model; /* NULL: the demo model of the binary */
    char *store; /* the directory */
    char *host;
    char *backend;
    char *api_keys; /* NULL: no authentication */
    int port;       /* 0: any that is free */
    int context;    /* 0: what the model was trained for */
    int block_size;
    enum config_kv kv;
    int threads; /* 0: all processors */
    uint64_t device_memory_bytes;
    uint64_t host_memory_bytes;
    uint64_t disk_bytes;
    uint64_t ledger_reserve_bytes;
    enum config_spill spill;
    int spill_idle_seconds; /* with CONFIG_SPILL_IDLE */
    int spill_lag_ms;
    uint64_t spill_lag_bytes;
    int queue_max;
    int running_max;
    int front_threads;
    int connections_max;
    int drain_seconds;
    uint64_t body_max_bytes;
    int log_level; /* enum log_level */
    int wants_help;
};

/* The defaults. */
MUST_USE enum err config_init(struct config *config);
void config_done(struct config *config);

/*
 * Reads ARGV from index 1 on into an initialised config, and the file that it names. ERR_INVALID
 * names flag, value and what was expected. After --help only wants_help is set.
 */
MUST_USE enum err config_parse(struct config *config, int argc, char **argv);

/* The list of all flags with their defaults. */
void config_print_usage(FILE *out);

#endif
