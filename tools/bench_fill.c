/*
 * `tern bench fill`: makes a store of N conversations, fill-00000 and on, by holding one turn with
 * each over HTTP, several at once. The store is what a server leaves that was used, so that what
 * grows with the number of conversations can be measured on it.
 */
#include "base/now.h"
#include "tools/bench.h"
#include "tools/bench_clients.h"
#include "tools/bench_store.h"
#include "tools/bench_text.h"
#include "tools/bench_turn.h"
#include "tools/model_file.h"
#include "tools/option.h"
#include "tools/stop_signal.h"
#include "tools/subcommand.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>

enum { NUMBER_BYTES = 32 };

struct fill_options {
    const char *store;
    const char *model;
    long long conversations;
    long long first;
    long long words;
    long long max_tokens;
    long long in_flight;
    long long threads;
    long long disk_bytes;
    int is_json;
};

struct fill {
    const struct fill_options *options;
    struct bench_server *server;
    double seconds; /* that the turns took, spills that they waited for included */
    double stored;  /* conversations in the store now */
    struct bench_store_size size;
};

static enum err hold_one(void *context, long long job) {
    const struct fill *fill = context;
    const struct fill_options *options = fill->options;
    char *message CLEANUP(object_free) = NULL;
    char name[NUMBER_BYTES];
    struct bench_turn_result result;
    snprintf(name, sizeof name, "fill-%05lld", options->first + job);
    TRY(bench_text_words(options->words, (uint64_t)(options->first + job), &message));
    struct bench_turn turn = {
        .conversation = name,
        .message = message,
        .max_tokens = options->max_tokens,
        .must_be_new = 1,
    };
    enum err code = bench_turn_run(fill->server, &turn, &result);
    return code == ERR_OK ? ERR_OK : err_context(code, "%s (see --first)", name);
}

/* What was held is in the store, the state of each conversation too. */
static enum err check(struct fill *fill) {
    double refused;
    TRY(bench_server_metric(fill->server, "tern_spills_refused_total", &refused));
    TRY(bench_server_metric(fill->server, "tern_conversations", &fill->stored));
    if (refused > 0) {
        return err_fail(ERR_FULL, "%.0f heads found no room on disk: raise --disk", refused);
    }
    if (fill->stored < (double)fill->options->conversations) {
        return err_fail(ERR_CONFLICT, "the ledger holds %.0f conversations, expected %lld",
                        fill->stored, fill->options->conversations);
    }
    return ERR_OK;
}

static enum err hold_all(struct fill *fill) {
    TRY(bench_server_start(fill->server));
    uint64_t started_ns = now_monotonic_ns();
    TRY(bench_clients_run(&(struct bench_clients){.in_flight = (int)fill->options->in_flight,
                                                  .jobs = fill->options->conversations,
                                                  .run = hold_one,
                                                  .context = fill}));
    fill->seconds = (double)(now_monotonic_ns() - started_ns) * 1e-9;
    TRY(check(fill));
    TRY(bench_server_stop(fill->server));
    return bench_store_measure(fill->options->store, &fill->size);
}

static enum err print(const struct fill *fill) {
    const struct fill_options *options = fill->options;
    double rate = (double)options->conversations / fill->seconds;
    if (!options->is_json) {
        printf("%lld conversations in %.1f s, %.0f a second; %s holds %.0f in %.1f MB of state "
               "and %.1f MB of ledger, its reserve included\n",
               options->conversations, fill->seconds, rate, options->store, fill->stored,
               (double)fill->size.state_bytes * 1e-6, (double)fill->size.ledger_bytes * 1e-6);
        return ERR_OK;
    }
    json_t *root = json_pack(
        "{s:s, s:s, s:I, s:f, s:f, s:I, s:I, s:I}", "model", model_file_label(options->model),
        "store", options->store, "conversations", (json_int_t)options->conversations, "seconds",
        fill->seconds, "conversations_per_second", rate, "conversations_stored",
        (json_int_t)fill->stored, "state_bytes", (json_int_t)fill->size.state_bytes, "ledger_bytes",
        (json_int_t)fill->size.ledger_bytes);
    int rc = root == NULL ? -1 : json_dumpf(root, stdout, JSON_INDENT(1) | JSON_REAL_PRECISION(6));
    json_decref(root);
    putchar('\n');
    return rc == 0 ? ERR_OK : err_fail(ERR_IO, "cannot write to standard output");
}

static enum err run(const struct fill_options *options) {
    struct fill fill = {.options = options};
    char threads[NUMBER_BYTES], disk[NUMBER_BYTES], connections[NUMBER_BYTES];
    int cancel_fd = -1;
    snprintf(threads, sizeof threads, "%lld", options->threads);
    snprintf(disk, sizeof disk, "%lld", options->disk_bytes);
    snprintf(connections, sizeof connections, "%d", BENCH_CLIENTS_MAX + 8);
    TRY(stop_signal_open(&cancel_fd));
    enum err code = bench_server_create(
        &(struct bench_server_config){
            .model = options->model,
            .store = options->store,
            .cancel_fd = cancel_fd,
            .flags = {"--threads", threads, "--disk", disk, "--queue-max", connections}},
        &fill.server);
    if (code == ERR_OK) {
        code = hold_all(&fill);
        bench_server_destroy(fill.server, code);
    }
    stop_signal_close(cancel_fd);
    return code == ERR_OK ? print(&fill) : code;
}

int bench_fill(int argc, char **argv) {
    struct fill_options options = {
        .words = 12, .max_tokens = 4, .in_flight = 8, .disk_bytes = (long long)64 << 30};
    const struct option_entry entries[] = {
        {"store", OPTION_TEXT, &options.store, "DIR", "the store; made if it is missing", 0, 0},
        {"conversations", OPTION_INT, &options.conversations, "N", "how many to add", 1, 10000000},
        {"first", OPTION_INT, &options.first, "N", "number of the first one (0)", 0, 10000000},
        {"model", OPTION_TEXT, &options.model, "FILE", MODEL_FILE_HELP, 0, 0},
        {"words", OPTION_INT, &options.words, "N", "words of each message (12)", 1, 100000},
        {"max-tokens", OPTION_INT, &options.max_tokens, "N", "tokens of each answer (4)", 1,
         100000},
        {"in-flight", OPTION_INT, &options.in_flight, "N", "turns at once (8)", 1,
         BENCH_CLIENTS_MAX},
        {"threads", OPTION_INT, &options.threads, "N",
         "threads of the server; 0: one per processor (0)", 0, 256},
        {"disk", OPTION_BYTES, &options.disk_bytes, "SIZE", "the server's cap (64G)", 1 << 20,
         1e15},
        {"json", OPTION_FLAG, &options.is_json, NULL, "print one JSON object", 0, 0},
    };
    const struct option_spec spec = {
        .usage = "tern bench fill --store DIR --conversations N [options]",
        .summary = "Makes a store of N conversations, fill-00000 and on, by holding one turn with\n"
                   "each; prints the rate and what the store takes on the disk.",
        .entries = entries,
        .count = ARRAY_LEN(entries),
    };
    enum option_outcome outcome = option_parse(&spec, argc, argv, NULL, NULL);
    if (outcome == OPTION_RUN && options.store == NULL) {
        outcome = option_missing(argv[0], "store");
    }
    if (outcome == OPTION_RUN && options.conversations == 0) {
        outcome = option_missing(argv[0], "conversations");
    }
    if (outcome != OPTION_RUN) {
        return outcome == OPTION_HELP_SHOWN ? EXIT_CODE_OK : EXIT_CODE_USAGE;
    }
    if (run(&options) != ERR_OK) {
        fprintf(stderr, "tern bench fill: %s\n", err_message());
        return EXIT_CODE_FAILED;
    }
    return EXIT_CODE_OK;
}
