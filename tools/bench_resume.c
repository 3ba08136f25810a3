/*
 * `tern bench resume`: the time to the first token of a next turn, by where the conversation's head
 * lies, beside that of the first turn, which has to run the whole history.
 *
 * Each round begins a conversation with a message of the history's length and then holds one turn
 * for each row, so the history grows by what the rows before have added; the rows say what was
 * reused. Before a row its head is brought where the row wants it:
 *
 * - device: it lies there since the turn before.
 * - host: short conversations are held until as many heads have left the device as lay there, and
 *   the least recently used go first.
 * - disk: the server is stopped and started anew; before that the files of the state are read, so
 *   that the page cache holds them, or dropped from the page cache.
 *
 * A row whose answer names another tier, a rebuild or a reason ends the benchmark with an error.
 *
 * The floor of a restore from disk is its coded bytes over the rate at which this machine decodes
 * the same head, with one thread or as many as the server has, whichever is faster, from the page
 * cache into a small buffer, and, where the page cache was dropped, over the rate of one plain
 * reading of the state's files as well: the sum of the two. It stands beside what the server took
 * for the restore, which is part of the time to the first token.
 */
#include "base/buf.h"
#include "engine/demo/demo_model.h"
#include "engine/model_shape.h"
#include "tools/bench.h"
#include "tools/bench_stats.h"
#include "tools/bench_store.h"
#include "tools/bench_text.h"
#include "tools/bench_turn.h"
#include "tools/model_file.h"
#include "tools/option.h"
#include "tools/restore_floor.h"
#include "tools/stop_signal.h"
#include "tools/subcommand.h"
#include "tools/vocabulary.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    ROUNDS_MAX = 64,
    ANSWER_TOKENS = 8,
    FILLERS_MAX = 1000,
    TEMPLATE_TOKENS = 64, /* that a turn's template adds, at most */
    NUMBER_BYTES = 32,
    NAME_BYTES = 32,
    SLOTS_NEEDED = 5, /* of a server that runs one request */
    SLOTS_SPARE = 16,
};

enum place { PLACE_COLD, PLACE_DEVICE, PLACE_HOST, PLACE_CACHED, PLACE_DROPPED };

static const char *const place_names[] = {
    [PLACE_COLD] = "cold",          [PLACE_DEVICE] = "device",        [PLACE_HOST] = "host",
    [PLACE_CACHED] = "disk cached", [PLACE_DROPPED] = "disk dropped",
};

struct row {
    enum place place;
    int is_long; /* the new words, not one */
    double first_ms[ROUNDS_MAX];
    double promote_ms[ROUNDS_MAX];
    struct bench_turn_result last; /* of the last round */
};

/* In the order in which they are shown. */
enum { ROWS = 9 };

/* What is measured one after the other, as indices of rows: those of one word first, while the
 * history has its length, then those from disk. */
static const int steps[] = {0, 1, 2, 4, 3, 8, 7, 6, 5};

struct resume_options {
    const char *model;
    const char *store;
    long long history;
    long long new_words;
    long long rounds;
    long long threads;
    long long device_bytes;
    long long host_bytes;
    int is_json;
};

struct resume {
    const struct resume_options *options;
    const char *store;
    int cancel_fd;
    struct tokenizer *tokenizer;
    struct bench_server *server;
    long long context;
    long long new_tokens; /* of the new words */
    int32_t answer_token;
    int threads; /* of the server */
    struct row rows[ROWS];
    /* A value a round. */
    double decode_single[ROUNDS_MAX]; /* coded bytes a second, one thread */
    double decode_rate[ROUNDS_MAX];   /* the same, by the better of one thread and all */
    double disk_rate[ROUNDS_MAX];     /* bytes a second */
    double resident_share;            /* the most that was left after a drop */
    struct restore_floor floor;       /* of the last round */
};

/* --- bringing the head to where a row wants it --------------------------------------------------
 */

static enum err hold(struct resume *resume, const char *conversation, const char *message,
                     struct bench_turn_result *out) {
    struct bench_turn turn = {
        .conversation = conversation,
        .message = message,
        .max_tokens = ANSWER_TOKENS,
        .ignores_end = 1,
        .has_answer_token = 1,
        .answer_token = resume->answer_token,
        .is_durable = conversation != NULL,
    };
    return bench_turn_run(resume->server, &turn, out);
}

static enum err push_off_device(struct resume *resume) {
    double heads, before, now = 0;
    TRY(bench_server_metric(resume->server, "tern_tier_heads{tier=\"device\"}", &heads));
    TRY(bench_server_metric(resume->server, "tern_evictions_total{tier=\"device\"}", &before));
    for (int i = 0; i < FILLERS_MAX; i++) {
        char name[NAME_BYTES];
        struct bench_turn_result result;
        snprintf(name, sizeof name, "filler-%d", i);
        TRY(hold(resume, name, "time", &result));
        TRY(bench_server_metric(resume->server, "tern_evictions_total{tier=\"device\"}", &now));
        if (now - before >= heads) {
            return ERR_OK;
        }
    }
    return err_fail(ERR_FULL,
                    "%d short conversations did not push %.0f heads off the device, but %.0f: "
                    "lower --device-memory",
                    FILLERS_MAX, heads, now - before);
}

/* With no server on the store. */
static enum err measure_floor(struct resume *resume, int round, const char *conversation) {
    struct bench_store_reading reading;
    double resident;
    TRY(restore_floor_measure(resume->store, conversation, resume->threads, &resume->floor));
    TRY(bench_store_drop(resume->store, &resident));
    TRY(bench_store_read(resume->store, &reading));
    double coded = (double)resume->floor.coded_bytes;
    resume->decode_single[round] = coded / resume->floor.seconds_single;
    double best = resume->floor.seconds_threads;
    best = resume->floor.seconds_single < best ? resume->floor.seconds_single : best;
    resume->decode_rate[round] = coded / best;
    resume->disk_rate[round] = (double)reading.bytes / reading.seconds;
    return ERR_OK;
}

static enum err restart(struct resume *resume, const struct row *row, int round,
                        const char *conversation) {
    struct bench_store_reading reading;
    TRY(bench_server_stop(resume->server));
    if (row->place == PLACE_CACHED) {
        TRY(bench_store_read(resume->store, &reading));
    } else {
        double resident;
        if (!row->is_long) {
            TRY(measure_floor(resume, round, conversation));
        }
        TRY(bench_store_drop(resume->store, &resident));
        resume->resident_share =
            resident > resume->resident_share ? resident : resume->resident_share;
    }
    return bench_server_start(resume->server);
}

static enum err bring(struct resume *resume, const struct row *row, int round,
                      const char *conversation) {
    switch (row->place) {
    case PLACE_COLD:
    case PLACE_DEVICE:
        return ERR_OK;
    case PLACE_HOST:
        return push_off_device(resume);
    case PLACE_CACHED:
    case PLACE_DROPPED:
        break;
    }
    return restart(resume, row, round, conversation);
}

/* --- measuring ----------------------------------------------------------------------------------
 */

static enum err check(const struct resume *resume, const struct row *row,
                      const struct bench_turn_result *result) {
    static const enum bench_turn_tier tiers[] = {
        [PLACE_COLD] = BENCH_TURN_NONE,    [PLACE_DEVICE] = BENCH_TURN_DEVICE,
        [PLACE_HOST] = BENCH_TURN_HOST,    [PLACE_CACHED] = BENCH_TURN_DISK,
        [PLACE_DROPPED] = BENCH_TURN_DISK,
    };
    const char *name = place_names[row->place];
    TRY(bench_turn_expect(result, tiers[row->place], name));
    if (result->is_created != (row->place == PLACE_COLD)) {
        return err_fail(ERR_CONFLICT, "%s: the conversation is %s: --store holds other turns", name,
                        result->is_created ? "new" : "there already");
    }
    if (row->place != PLACE_COLD && result->tokens_reused < resume->options->history / 2) {
        return err_fail(ERR_CONFLICT, "%s: only %lld tokens were reused", name,
                        result->tokens_reused);
    }
    if (row->place == PLACE_DROPPED && !row->is_long &&
        (uint64_t)result->bytes_read != resume->floor.coded_bytes) {
        return err_fail(ERR_CONFLICT,
                        "%s: the server read %lld bytes, the floor was measured over %" PRIu64,
                        name, result->bytes_read, resume->floor.coded_bytes);
    }
    return ERR_OK;
}

static enum err make_message(const struct resume *resume, const struct row *row, uint64_t seed,
                             char **out) {
    if (row->place == PLACE_COLD) {
        return bench_text_tokens(resume->tokenizer, resume->options->history, seed, out);
    }
    return bench_text_words(row->is_long ? resume->options->new_words : 1, seed, out);
}

static enum err measure_row(struct resume *resume, struct row *row, int round, uint64_t seed) {
    char conversation[NAME_BYTES];
    char *message CLEANUP(object_free) = NULL;
    snprintf(conversation, sizeof conversation, "resume-%d", round);
    TRY(make_message(resume, row, seed, &message));
    TRY(bring(resume, row, round, conversation));
    TRY(hold(resume, conversation, message, &row->last));
    TRY(check(resume, row, &row->last));
    row->first_ms[round] = row->last.first_seconds * 1e3;
    row->promote_ms[round] = row->last.promote_ms;
    return ERR_OK;
}

static enum err measure_all(struct resume *resume) {
    struct bench_turn_result warm_up; /* what is allocated at the first use is there then */
    TRY(bench_server_start(resume->server));
    TRY(hold(resume, NULL, "time", &warm_up));
    for (int round = 0; round < (int)resume->options->rounds; round++) {
        for (size_t i = 0; i < ARRAY_LEN(steps); i++) {
            uint64_t seed = (uint64_t)round * ROWS + i + 1;
            TRY(measure_row(resume, &resume->rows[steps[i]], round, seed));
        }
    }
    return bench_server_stop(resume->server);
}

/* --- what was found ------------------------------------------------------------------------------
 */

struct report {
    double cold_ms;
    double decode_single; /* bytes a second, as below */
    double decode_rate;
    double disk_rate;
};

static double median_of(const double *values, long long count) {
    double sorted[ROUNDS_MAX];
    memcpy(sorted, values, (size_t)count * sizeof *values);
    return bench_stats_of(sorted, (size_t)count).median;
}

static struct report make_report(const struct resume *resume) {
    long long rounds = resume->options->rounds;
    return (struct report){
        .cold_ms = median_of(resume->rows[0].first_ms, rounds),
        .decode_single = median_of(resume->decode_single, rounds),
        .decode_rate = median_of(resume->decode_rate, rounds),
        .disk_rate = median_of(resume->disk_rate, rounds),
    };
}

/* 0 for rows that restore nothing from disk. */
static double floor_ms(const struct row *row, const struct report *report) {
    double bytes = (double)row->last.bytes_read;
    if (row->place != PLACE_CACHED && row->place != PLACE_DROPPED) {
        return 0;
    }
    double seconds = bytes / report->decode_rate;
    seconds += row->place == PLACE_DROPPED ? bytes / report->disk_rate : 0;
    return seconds * 1e3;
}

static void print_row(const struct row *row, const struct report *report, long long rounds) {
    double sorted[ROUNDS_MAX];
    memcpy(sorted, row->first_ms, sizeof sorted);
    struct bench_stats first = bench_stats_of(sorted, (size_t)rounds);
    double promote = median_of(row->promote_ms, rounds);
    double least = floor_ms(row, report);
    printf("%-13s %9lld %7lld %-6s %9.2f %9.1f %9.1f %9.1f %8.1f", place_names[row->place],
           row->last.tokens_reused, row->last.tokens_run, bench_turn_tier_name(row->last.tier),
           (double)row->last.bytes_read * 1e-6, first.median, first.min, first.max,
           report->cold_ms / first.median);
    if (row->place != PLACE_COLD) {
        printf(" %9.1f", promote);
    }
    if (least > 0) {
        printf(" %9.1f %7.2f", least, promote / least);
    }
    putchar('\n');
}

static void print_table(const struct resume *resume) {
    struct report report = make_report(resume);
    printf("%s: a message of %lld tokens, then turns of one word and of %lld words (%lld tokens); "
           "%d threads, %lld rounds\n\n",
           model_file_label(resume->options->model), resume->options->history,
           resume->options->new_words, resume->new_tokens, resume->threads,
           resume->options->rounds);
    printf("%-13s %9s %7s %-6s %9s %9s %9s %9s %8s %9s %9s %7s\n", "head", "reused", "run", "tier",
           "MB read", "first ms", "min", "max", "of cold", "restore", "floor", "x floor");
    for (int i = 0; i < ROWS; i++) {
        print_row(&resume->rows[i], &report, resume->options->rounds);
    }
    printf("\nThe floor of a restore is its bytes over the decode rate and, dropped, over the disk "
           "rate too:\ndecode %.2f GB/s by up to %d threads (%.2f by one), disk %.2f GB/s, of "
           "coded bytes, "
           "each\nof which stands for %.2f bytes of state.\n",
           report.decode_rate * 1e-9, resume->threads, report.decode_single * 1e-9,
           report.disk_rate * 1e-9,
           (double)resume->floor.raw_bytes / (double)resume->floor.coded_bytes);
    if (resume->resident_share > 0.01) {
        printf("%.0f %% of the state's pages stayed in the page cache when they were dropped: on "
               "this file system\nthe rows 'disk dropped' and the disk rate are those of memory.\n",
               100 * resume->resident_share);
    }
}

static json_t *json_of_row(const struct row *row, const struct report *report, long long rounds) {
    double sorted[ROUNDS_MAX];
    memcpy(sorted, row->first_ms, sizeof sorted);
    struct bench_stats first = bench_stats_of(sorted, (size_t)rounds);
    return json_pack(
        "{s:s, s:b, s:s, s:I, s:I, s:I, s:f, s:f, s:f, s:f, s:f, s:f}", "head",
        place_names[row->place], "is_one_word", !row->is_long && row->place != PLACE_COLD, "tier",
        bench_turn_tier_name(row->last.tier), "tokens_reused", (json_int_t)row->last.tokens_reused,
        "tokens_run", (json_int_t)row->last.tokens_run, "bytes_read",
        (json_int_t)row->last.bytes_read, "first_token_ms", first.median, "first_token_ms_min",
        first.min, "first_token_ms_max", first.max, "times_less_than_cold",
        report->cold_ms / first.median, "restore_ms", median_of(row->promote_ms, rounds),
        "floor_ms", floor_ms(row, report));
}

static enum err print_json(const struct resume *resume) {
    struct report report = make_report(resume);
    json_t *rows = json_array();
    for (int i = 0; i < ROWS; i++) {
        json_array_append_new(rows,
                              json_of_row(&resume->rows[i], &report, resume->options->rounds));
    }
    json_t *root = json_pack(
        "{s:s, s:I, s:I, s:I, s:I, s:i, s:I, s:I, s:f, s:f, s:f, s:f, s:o}", "model",
        model_file_label(resume->options->model), "history_tokens",
        (json_int_t)resume->options->history, "new_words", (json_int_t)resume->options->new_words,
        "new_tokens", (json_int_t)resume->new_tokens, "rounds", (json_int_t)resume->options->rounds,
        "threads", resume->threads, "head_coded_bytes", (json_int_t)resume->floor.coded_bytes,
        "head_raw_bytes", (json_int_t)resume->floor.raw_bytes, "decode_bytes_per_second",
        report.decode_rate, "decode_bytes_per_second_one_thread", report.decode_single,
        "disk_bytes_per_second", report.disk_rate, "resident_share_after_drop",
        resume->resident_share, "rows", rows);
    if (root == NULL || json_array_size(rows) != ROWS) {
        json_decref(root);
        return err_fail(ERR_NOMEM, "the report");
    }
    int rc = json_dumpf(root, stdout, JSON_INDENT(1) | JSON_REAL_PRECISION(6));
    json_decref(root);
    putchar('\n');
    return rc == 0 ? ERR_OK : err_fail(ERR_IO, "cannot write to standard output");
}

/* --- the whole -----------------------------------------------------------------------------------
 */

static uint64_t model_bytes(const char *model) {
    struct stat status;
    size_t bytes = 0;
    if (model_file_is_demo(model)) {
        (void)demo_model_data(&bytes);
        return bytes;
    }
    return stat(model, &status) == 0 ? (uint64_t)status.st_size : 0;
}

/* Little beyond weights, activations and one context, so that few short conversations push a head
 * off the device. */
static enum err least_device_bytes(const struct resume *resume, uint64_t *out) {
    struct gguf *file;
    struct model_shape shape = {0};
    struct layout layout = {0};
    TRY(model_file_open(resume->options->model, &file));
    enum err code = model_shape_read(file, &shape);
    if (code == ERR_OK) {
        code = model_shape_layout(&shape, LAYOUT_BLOCK_SIZE_DEFAULT, DTYPE_F16, &layout);
    }
    if (code == ERR_OK) {
        uint64_t weights = model_bytes(resume->options->model);
        uint64_t blocks = (uint64_t)layout_blocks(&layout, (int)resume->context) + 8;
        *out = weights + weights / 4 + ((uint64_t)96 << 20) + blocks * layout.block_bytes +
               (SLOTS_NEEDED + SLOTS_SPARE) * (uint64_t)layout.slot_bytes;
    }
    layout_done(&layout);
    model_shape_done(&shape);
    gguf_close(file);
    return code;
}

static enum err make_server(struct resume *resume) {
    const struct resume_options *options = resume->options;
    char threads[NUMBER_BYTES], context[NUMBER_BYTES], device[NUMBER_BYTES], host[NUMBER_BYTES];
    uint64_t device_bytes = (uint64_t)options->device_bytes;
    if (device_bytes == 0) {
        TRY(least_device_bytes(resume, &device_bytes));
    }
    snprintf(threads, sizeof threads, "%d", resume->threads);
    snprintf(context, sizeof context, "%lld", resume->context);
    snprintf(device, sizeof device, "%" PRIu64, device_bytes);
    snprintf(host, sizeof host, "%lld", options->host_bytes);
    TRY(bench_server_create(
        &(struct bench_server_config){.model = options->model,
                                      .store = resume->store,
                                      .cancel_fd = resume->cancel_fd,
                                      .flags = {"--threads", threads, "--context", context,
                                                "--device-memory", device, "--host-memory", host,
                                                "--running-max", "4"}},
        &resume->server));
    enum err code = measure_all(resume);
    bench_server_destroy(resume->server, code);
    return code;
}

static enum err run_on(struct resume *resume) {
    const struct resume_options *options = resume->options;
    char *message CLEANUP(object_free) = NULL;
    TRY(bench_text_words(options->new_words, 1, &message));
    TRY(bench_text_count(resume->tokenizer, message, &resume->new_tokens));
    TRY(bench_turn_answer_token(options->model, &resume->answer_token));
    long long turn_tokens = TEMPLATE_TOKENS + ANSWER_TOKENS + 8;
    resume->context = options->history + options->history / 20 + ROWS * turn_tokens +
                      4 * (resume->new_tokens + resume->new_tokens / 4);
    TRY(make_server(resume));
    if (options->is_json) {
        return print_json(resume);
    }
    print_table(resume);
    return ERR_OK;
}

static enum err run(const struct resume_options *options) {
    struct resume *resume CLEANUP(object_free) = calloc(1, sizeof *resume);
    char made[BENCH_STORE_PATH_BYTES];
    if (resume == NULL) {
        return err_fail(ERR_NOMEM, "benchmark");
    }
    resume->options = options;
    resume->store = options->store != NULL ? options->store : made;
    resume->threads =
        options->threads > 0 ? (int)options->threads : (int)sysconf(_SC_NPROCESSORS_ONLN);
    for (int i = 0; i < ROWS; i++) {
        resume->rows[i].place = i == 0 ? PLACE_COLD : (enum place)((i - 1) % 4 + 1);
        resume->rows[i].is_long = i > 4;
    }
    TRY(stop_signal_open(&resume->cancel_fd));
    enum err code = vocabulary_load(options->model, &resume->tokenizer);
    if (code == ERR_OK && options->store == NULL) {
        code = bench_store_make(made);
    }
    if (code == ERR_OK) {
        code = run_on(resume);
        if (options->store == NULL) {
            enum err removed = bench_store_remove(made);
            code = code == ERR_OK ? removed : code;
        }
    }
    tokenizer_destroy(resume->tokenizer);
    stop_signal_close(resume->cancel_fd);
    return code;
}

int bench_resume(int argc, char **argv) {
    struct resume_options options = {
        .history = 4096, .new_words = 200, .rounds = 3, .host_bytes = (long long)4 << 30};
    const struct option_entry entries[] = {
        {"model", OPTION_TEXT, &options.model, "FILE", MODEL_FILE_HELP, 0, 0},
        {"history", OPTION_INT, &options.history, "N", "tokens of the first message (4096)", 64,
         1 << 20},
        {"new-words", OPTION_INT, &options.new_words, "N", "words of a next turn (200)", 2, 100000},
        {"rounds", OPTION_INT, &options.rounds, "N", "conversations to hold (3)", 1, ROUNDS_MAX},
        {"threads", OPTION_INT, &options.threads, "N",
         "threads of the server; 0: one per processor (0)", 0, RESTORE_FLOOR_THREADS_MAX},
        {"store", OPTION_TEXT, &options.store, "DIR",
         "where the store goes; stays (one in TMPDIR or /var/tmp that is removed)", 0, 0},
        {"device-memory", OPTION_BYTES, &options.device_bytes, "SIZE",
         "the server's cap (little more than one context needs)", 1 << 20, 1e15},
        {"host-memory", OPTION_BYTES, &options.host_bytes, "SIZE", "the server's cap (4G)", 1 << 20,
         1e15},
        {"json", OPTION_FLAG, &options.is_json, NULL, "print one JSON object", 0, 0},
    };
    const struct option_spec spec = {
        .usage = "tern bench resume [--model FILE] [options]",
        .summary = "Times the first token of a next turn with the conversation's state on the\n"
                   "device, in host memory, on disk in a new process with the page cache warm and\n"
                   "dropped, beside a first turn that runs the whole history.",
        .entries = entries,
        .count = ARRAY_LEN(entries),
    };
    enum option_outcome outcome = option_parse(&spec, argc, argv, NULL, NULL);
    if (outcome != OPTION_RUN) {
        return outcome == OPTION_HELP_SHOWN ? EXIT_CODE_OK : EXIT_CODE_USAGE;
    }
    if (run(&options) != ERR_OK) {
        fprintf(stderr, "tern bench resume: %s\n", err_message());
        return EXIT_CODE_FAILED;
    }
    return EXIT_CODE_OK;
}
