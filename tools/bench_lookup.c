/*
 * `tern bench lookup`: what a store's size costs: the server's start, and the time to the first
 * token of a next turn of one word with conversations drawn at random, whose state comes from disk.
 *
 * - Each start has a few samples, as many in a store of ten as in one of ten thousand, so that what
 *   only the first turns of a process pay weighs the same in both. A turn that keeps nothing goes
 *   before them.
 * - The client leaves at the first text, so that the conversation stays as it was and the same
 * store can be measured again. What the answer would have said of its state is taken from /metrics:
 *   each sample must have attached one more head from disk, and rebuilt none.
 * - As many starts on an empty store, by the same server, stand beside.
 */
#include "base/now.h"
#include "base/pcg32.h"
#include "tools/bench.h"
#include "tools/bench_stats.h"
#include "tools/bench_store.h"
#include "tools/bench_turn.h"
#include "tools/model_file.h"
#include "tools/option.h"
#include "tools/stop_signal.h"
#include "tools/store_view.h"
#include "tools/subcommand.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
    NUMBER_BYTES = 32,
    SAMPLES_MAX = 10000,
    ANSWER_TOKENS = 512, /* so many that the client is gone before the answer's end */
    QUIET_MS_MAX = 20 * 1000,
};

struct lookup_options {
    const char *store;
    const char *model;
    long long samples;
    long long per_start;
    long long threads;
    long long disk_bytes;
    int drops_cache;
    int is_json;
};

struct name {
    char *id;
    char *salt;
};

struct names {
    struct name *items;
    size_t count;
    size_t capacity;
};

struct lookup {
    const struct lookup_options *options;
    int cancel_fd;
    int32_t answer_token;
    struct names names; /* in the order in which they are asked for */
    double first_ms[SAMPLES_MAX];
    size_t first_count;
    double start_ms[SAMPLES_MAX];
    double empty_start_ms[SAMPLES_MAX];
    size_t start_count;
    size_t empty_start_count;
    double resident_share; /* the most that was left after a drop */
};

/* --- which conversations there are -------------------------------------------------------------
 */

static void names_done(struct names *names) {
    for (size_t i = 0; i < names->count; i++) {
        free(names->items[i].id);
        free(names->items[i].salt);
    }
    free(names->items);
    *names = (struct names){0};
}

static enum err note_name(void *context, const struct conversation_record *conversation) {
    struct names *names = context;
    const struct conversation_identity *identity = &conversation->identity;
    if (identity->tenant_bytes > 0 || conversation->turn == 0) {
        return ERR_OK; /* the server runs without keys: it serves the nameless tenant */
    }
    if (names->count == names->capacity) {
        size_t capacity = names->capacity > 0 ? 2 * names->capacity : 256;
        struct name *items = realloc(names->items, capacity * sizeof *items);
        if (items == NULL) {
            return err_fail(ERR_NOMEM, "%zu names", capacity);
        }
        names->items = items;
        names->capacity = capacity;
    }
    struct name name = {
        .id = strndup(identity->id, identity->id_bytes),
        .salt = strndup(identity->salt_bytes > 0 ? identity->salt : "", identity->salt_bytes),
    };
    if (name.id == NULL || name.salt == NULL) {
        free(name.id);
        free(name.salt);
        return err_fail(ERR_NOMEM, "a name");
    }
    names->items[names->count++] = name;
    return ERR_OK;
}

static void shuffle(struct names *names) {
    struct pcg32 random;
    pcg32_init(&random, 1, 1);
    for (size_t i = names->count; i > 1; i--) {
        size_t at = pcg32_next(&random) % i;
        struct name moved = names->items[at];
        names->items[at] = names->items[i - 1];
        names->items[i - 1] = moved;
    }
}

static enum err list_names(struct lookup *lookup) {
    struct store_view view;
    uint64_t skipped;
    TRY(store_view_open(lookup->options->store, &view));
    enum err code = store_view_each_conversation(&view, note_name, &lookup->names, &skipped);
    store_view_close(&view);
    TRY(code);
    if (lookup->names.count == 0) {
        return err_fail(ERR_NOT_FOUND, "%s holds no conversations", lookup->options->store);
    }
    shuffle(&lookup->names);
    return ERR_OK;
}

/* --- one sample --------------------------------------------------------------------------------
 */

struct counts {
    double from_disk;
    double rebuilds;
    double misses;
};

static enum err read_counts(const struct bench_server *server, struct counts *out) {
    TRY(bench_server_metric(server, "tern_heads_attached_total{tier=\"disk\"}", &out->from_disk));
    TRY(bench_server_metric(server, "tern_rebuilds_total", &out->rebuilds));
    return bench_server_metric(server, "tern_lookup_misses_total", &out->misses);
}

/* Until the server has seen that the client is gone. */
static enum err await_quiet(const struct bench_server *server) {
    const struct timespec pause = {.tv_nsec = 1000 * 1000};
    uint64_t deadline_ms = now_monotonic_ms() + QUIET_MS_MAX;
    for (;;) {
        double running, leases;
        TRY(bench_server_metric(server, "tern_requests_running", &running));
        TRY(bench_server_metric(server, "tern_leases", &leases));
        if (running == 0 && leases == 0) {
            return ERR_OK;
        }
        if (now_monotonic_ms() > deadline_ms) {
            return err_fail(ERR_BUSY, "a turn goes on though its client has left");
        }
        nanosleep(&pause, NULL);
    }
}

static enum err take_sample(struct lookup *lookup, const struct bench_server *server,
                            const struct name *name) {
    struct counts before, after;
    struct bench_turn_result result;
    struct bench_turn turn = {
        .conversation = name->id,
        .salt = name->salt,
        .message = "time",
        .max_tokens = ANSWER_TOKENS,
        .ignores_end = 1,
        .has_answer_token = 1,
        .answer_token = lookup->answer_token,
        .must_be_there = 1,
        .stops_at_first = 1,
    };
    TRY(read_counts(server, &before));
    enum err code = bench_turn_run(server, &turn, &result);
    if (code != ERR_OK) {
        return err_context(code, "%s", name->id);
    }
    TRY(await_quiet(server));
    TRY(read_counts(server, &after));
    if (after.from_disk != before.from_disk + 1 || after.rebuilds != before.rebuilds ||
        after.misses != before.misses) {
        return err_fail(ERR_CONFLICT, "%s: its state did not come from disk as it lay there",
                        name->id);
    }
    lookup->first_ms[lookup->first_count++] = result.first_seconds * 1e3;
    return ERR_OK;
}

/* --- starts -------------------------------------------------------------------------------------
 */

static enum err hold_nothing(const struct bench_server *server) {
    struct bench_turn_result result;
    struct bench_turn turn = {.message = "time", .max_tokens = 4};
    return bench_turn_run(server, &turn, &result);
}

static enum err measure_start(struct lookup *lookup, struct bench_server *server, size_t *next) {
    const struct lookup_options *options = lookup->options;
    if (options->drops_cache) {
        double resident;
        TRY(bench_store_drop(options->store, &resident));
        lookup->resident_share =
            resident > lookup->resident_share ? resident : lookup->resident_share;
    }
    TRY(bench_server_start(server));
    lookup->start_ms[lookup->start_count++] = bench_server_start_seconds(server) * 1e3;
    TRY(hold_nothing(server));
    /* None twice in one process: the second time it would not come from disk. */
    size_t most = lookup->names.count;
    most = most < (size_t)options->per_start ? most : (size_t)options->per_start;
    for (size_t i = 0; i < most && lookup->first_count < (size_t)options->samples; i++) {
        TRY(take_sample(lookup, server, &lookup->names.items[*next % lookup->names.count]));
        (*next)++;
    }
    return bench_server_stop(server);
}

static enum err start_and_stop(struct bench_server *server, double *ms_out) {
    TRY(bench_server_start(server));
    *ms_out = bench_server_start_seconds(server) * 1e3;
    return bench_server_stop(server);
}

/* The two stores take turns, so that a slow minute of the machine falls on both. */
static enum err measure(struct lookup *lookup, struct bench_server *full,
                        struct bench_server *empty) {
    size_t next = 0;
    double made_ms;
    TRY(start_and_stop(empty, &made_ms)); /* makes the store, which is not measured */
    TRY(start_and_stop(full, &made_ms));  /* and may have to close what an unclean end left */
    while (lookup->first_count < (size_t)lookup->options->samples) {
        TRY(measure_start(lookup, full, &next));
        TRY(start_and_stop(empty, &lookup->empty_start_ms[lookup->empty_start_count]));
        lookup->empty_start_count++;
    }
    return ERR_OK;
}

/* --- the whole ----------------------------------------------------------------------------------
 */

static enum err print(struct lookup *lookup) {
    const struct lookup_options *options = lookup->options;
    struct bench_stats first = bench_stats_of(lookup->first_ms, lookup->first_count);
    struct bench_stats start = bench_stats_of(lookup->start_ms, lookup->start_count);
    struct bench_stats empty = bench_stats_of(lookup->empty_start_ms, lookup->empty_start_count);
    if (!options->is_json) {
        printf("%s: %zu conversations, %s\n", options->store, lookup->names.count,
               model_file_label(options->model));
        printf("start        median %8.1f ms, max %8.1f, of %zu; of an empty store %.1f, max %.1f: "
               "%+.1f ms\n",
               start.median, start.max, start.count, empty.median, empty.max,
               start.median - empty.median);
        printf("first token  median %8.2f ms, p95 %8.2f, max %.2f, of %zu turns of one word, from "
               "disk\n",
               first.median, first.p95, first.max, first.count);
        if (lookup->resident_share > 0.01) {
            printf("%.0f %% of the state's pages stayed in the page cache when they were dropped\n",
                   100 * lookup->resident_share);
        }
        return ERR_OK;
    }
    json_t *root = json_pack(
        "{s:s, s:s, s:I, s:I, s:I, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:b, s:f}", "model",
        model_file_label(options->model), "store", options->store, "conversations",
        (json_int_t)lookup->names.count, "starts", (json_int_t)start.count, "samples",
        (json_int_t)first.count, "start_ms", start.median, "start_ms_max", start.max,
        "empty_start_ms", empty.median, "empty_start_ms_max", empty.max, "start_beyond_empty_ms",
        start.median - empty.median, "first_token_ms", first.median, "first_token_ms_p95",
        first.p95, "first_token_ms_max", first.max, "is_cache_dropped", options->drops_cache,
        "resident_share_after_drop", lookup->resident_share);
    int rc = root == NULL ? -1 : json_dumpf(root, stdout, JSON_INDENT(1) | JSON_REAL_PRECISION(6));
    json_decref(root);
    putchar('\n');
    return rc == 0 ? ERR_OK : err_fail(ERR_IO, "cannot write to standard output");
}

static enum err run_on(struct lookup *lookup, const char *empty_store) {
    const struct lookup_options *options = lookup->options;
    struct bench_server *full = NULL;
    struct bench_server *empty = NULL;
    char threads[NUMBER_BYTES], disk[NUMBER_BYTES];
    snprintf(threads, sizeof threads, "%lld", options->threads);
    snprintf(disk, sizeof disk, "%lld", options->disk_bytes);
    struct bench_server_config config = {.model = options->model,
                                         .store = options->store,
                                         .cancel_fd = lookup->cancel_fd,
                                         .flags = {"--threads", threads, "--disk", disk}};
    TRY(bench_turn_answer_token(options->model, &lookup->answer_token));
    TRY(bench_server_create(&config, &full));
    config.store = empty_store;
    enum err code = bench_server_create(&config, &empty);
    code = code == ERR_OK ? measure(lookup, full, empty) : code;
    bench_server_destroy(full, code);
    bench_server_destroy(empty, ERR_OK);
    return code == ERR_OK ? print(lookup) : code;
}

static enum err run(const struct lookup_options *options) {
    struct lookup *lookup CLEANUP(object_free) = calloc(1, sizeof *lookup);
    char empty_store[BENCH_STORE_PATH_BYTES];
    if (lookup == NULL) {
        return err_fail(ERR_NOMEM, "benchmark");
    }
    lookup->options = options;
    TRY(stop_signal_open(&lookup->cancel_fd));
    enum err code = list_names(lookup);
    code = code == ERR_OK ? bench_store_make(empty_store) : code;
    if (code == ERR_OK) {
        code = run_on(lookup, empty_store);
        enum err removed = bench_store_remove(empty_store);
        code = code == ERR_OK ? removed : code;
    }
    names_done(&lookup->names);
    stop_signal_close(lookup->cancel_fd);
    return code;
}

int bench_lookup(int argc, char **argv) {
    struct lookup_options options = {
        .samples = 100, .per_start = 10, .disk_bytes = (long long)64 << 30};
    const struct option_entry entries[] = {
        {"store", OPTION_TEXT, &options.store, "DIR", "a store, such as `tern bench fill` makes", 0,
         0},
        {"model", OPTION_TEXT, &options.model, "FILE", MODEL_FILE_HELP, 0, 0},
        {"samples", OPTION_INT, &options.samples, "N", "turns to time (100)", 1, SAMPLES_MAX},
        {"per-start", OPTION_INT, &options.per_start, "N", "of them a start of the server (10)", 1,
         SAMPLES_MAX},
        {"drop-cache", OPTION_FLAG, &options.drops_cache, NULL,
         "drop the state from the page cache before each start", 0, 0},
        {"threads", OPTION_INT, &options.threads, "N",
         "threads of the server; 0: one per processor (0)", 0, 256},
        {"disk", OPTION_BYTES, &options.disk_bytes, "SIZE",
         "the server's cap, no less than the store was made with (64G)", 1 << 20, 1e15},
        {"json", OPTION_FLAG, &options.is_json, NULL, "print one JSON object", 0, 0},
    };
    const struct option_spec spec = {
        .usage = "tern bench lookup --store DIR [options]",
        .summary = "Times the server's start on a store, and the first token of a next turn with\n"
                   "conversations of it drawn at random. Leaves the conversations as they are.",
        .entries = entries,
        .count = ARRAY_LEN(entries),
    };
    enum option_outcome outcome = option_parse(&spec, argc, argv, NULL, NULL);
    if (outcome == OPTION_RUN && options.store == NULL) {
        outcome = option_missing(argv[0], "store");
    }
    if (outcome != OPTION_RUN) {
        return outcome == OPTION_HELP_SHOWN ? EXIT_CODE_OK : EXIT_CODE_USAGE;
    }
    if (run(&options) != ERR_OK) {
        fprintf(stderr, "tern bench lookup: %s\n", err_message());
        return EXIT_CODE_FAILED;
    }
    return EXIT_CODE_OK;
}
