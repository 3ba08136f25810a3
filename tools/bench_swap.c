/*
 * `tern bench swap`: many conversations over memory for few of them. Every conversation holds its
 * first turn, then every one its second, and so on, with a number of turns in flight at once; what
 * counts is the time to the first token, by turn, and where the state came from. A first turn has
 * the history to run, a later one its new words only, if its state is still anywhere.
 *
 * State that came from nowhere is counted and not refused: how much of it the budgets bear is what
 * is measured.
 */
#include "tools/bench.h"
#include "tools/bench_clients.h"
#include "tools/bench_stats.h"
#include "tools/bench_store.h"
#include "tools/bench_text.h"
#include "tools/bench_turn.h"
#include "tools/model_file.h"
#include "tools/option.h"
#include "tools/stop_signal.h"
#include "tools/subcommand.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { NUMBER_BYTES = 32, CONVERSATIONS_MAX = 1024, TURNS_MAX = 64 };

struct swap_options {
    const char *model;
    long long conversations;
    long long turns;
    long long in_flight;
    long long history_words;
    long long new_words;
    long long max_tokens;
    long long device_bytes;
    long long host_bytes;
    long long context;
    long long threads;
    int is_json;
};

struct swap {
    const struct swap_options *options;
    int cancel_fd;
    int32_t answer_token;
    struct bench_server *server;
    int turn;                          /* that all conversations hold now, from 0 */
    struct bench_turn_result *results; /* turn by turn, a conversation each */
};

static struct bench_turn_result *result_of(const struct swap *swap, int turn, long long at) {
    return &swap->results[turn * swap->options->conversations + at];
}

static enum err hold_one(void *context, long long job) {
    struct swap *swap = context;
    const struct swap_options *options = swap->options;
    char *message CLEANUP(object_free) = NULL;
    char name[NUMBER_BYTES];
    struct bench_turn_result *result = result_of(swap, swap->turn, job);
    uint64_t seed = (uint64_t)(swap->turn * options->conversations + job) + 1;
    snprintf(name, sizeof name, "swap-%03lld", job);
    TRY(bench_text_words(swap->turn == 0 ? options->history_words : options->new_words, seed,
                         &message));
    struct bench_turn turn = {
        .conversation = name,
        .message = message,
        .max_tokens = options->max_tokens,
        .ignores_end = 1,
        .has_answer_token = 1,
        .answer_token = swap->answer_token,
    };
    enum err code = bench_turn_run(swap->server, &turn, result);
    if (code == ERR_OK && result->turn != swap->turn + 1) {
        code =
            err_fail(ERR_CONFLICT, "its turn is %lld, expected %d", result->turn, swap->turn + 1);
    }
    return code == ERR_OK ? ERR_OK : err_context(code, "%s", name);
}

static enum err hold_all(struct swap *swap) {
    struct bench_clients clients = {
        .in_flight = (int)swap->options->in_flight,
        .jobs = swap->options->conversations,
        .run = hold_one,
        .context = swap,
    };
    TRY(bench_server_start(swap->server));
    for (swap->turn = 0; swap->turn < (int)swap->options->turns; swap->turn++) {
        TRY(bench_clients_run(&clients));
    }
    return bench_server_stop(swap->server);
}

/* --- what was found ------------------------------------------------------------------------------
 */

/* Of one turn of all conversations. */
struct summary {
    struct bench_stats first_ms;
    struct bench_stats whole_ms;
    long long tiers[BENCH_TURN_TIERS];
    long long rebuilt;
    long long bytes_read;
    long long tokens_run;
    const char *reason; /* of one whose state was not taken; NULL: all were */
};

static struct summary summarise(const struct swap *swap, int turn) {
    double first_ms[CONVERSATIONS_MAX], whole_ms[CONVERSATIONS_MAX];
    struct summary summary = {0};
    size_t count = (size_t)swap->options->conversations;
    for (size_t i = 0; i < count; i++) {
        const struct bench_turn_result *result = result_of(swap, turn, (long long)i);
        first_ms[i] = result->first_seconds * 1e3;
        whole_ms[i] = result->seconds * 1e3;
        summary.tiers[result->tier]++;
        summary.rebuilt += result->is_rebuilt;
        summary.bytes_read += result->bytes_read;
        summary.tokens_run += result->tokens_run;
        summary.reason = result->reason[0] != '\0' ? result->reason : summary.reason;
    }
    summary.first_ms = bench_stats_of(first_ms, count);
    summary.whole_ms = bench_stats_of(whole_ms, count);
    return summary;
}

static void print_table(const struct swap *swap) {
    const struct swap_options *options = swap->options;
    printf("%s: %lld conversations, %lld in flight; %lld words, then %lld a turn; device %.0f MB, "
           "host %.0f MB\n\n",
           model_file_label(options->model), options->conversations, options->in_flight,
           options->history_words, options->new_words, (double)options->device_bytes * 1e-6,
           (double)options->host_bytes * 1e-6);
    printf("%-5s %9s %9s %9s %9s %7s %7s %7s %7s %8s %9s %9s\n", "turn", "first ms", "p95", "whole",
           "p95", "device", "host", "disk", "none", "rebuilt", "MB read", "run");
    for (int turn = 0; turn < (int)options->turns; turn++) {
        struct summary summary = summarise(swap, turn);
        const long long *tiers = summary.tiers;
        printf("%-5d %9.1f %9.1f %9.1f %9.1f %7lld %7lld %7lld %7lld %8lld %9.1f %9lld", turn + 1,
               summary.first_ms.median, summary.first_ms.p95, summary.whole_ms.median,
               summary.whole_ms.p95, tiers[BENCH_TURN_DEVICE], tiers[BENCH_TURN_HOST],
               tiers[BENCH_TURN_DISK], tiers[BENCH_TURN_NONE], summary.rebuilt,
               (double)summary.bytes_read * 1e-6, summary.tokens_run);
        if (summary.reason != NULL) {
            printf("  %s", summary.reason);
        }
        putchar('\n');
    }
}

static json_t *json_of_turn(const struct swap *swap, int turn) {
    struct summary summary = summarise(swap, turn);
    return json_pack("{s:i, s:f, s:f, s:f, s:f, s:{s:I, s:I, s:I, s:I}, s:I, s:I, s:I, s:s?}",
                     "turn", turn + 1, "first_token_ms", summary.first_ms.median,
                     "first_token_ms_p95", summary.first_ms.p95, "whole_ms",
                     summary.whole_ms.median, "whole_ms_p95", summary.whole_ms.p95, "tiers",
                     "device", (json_int_t)summary.tiers[BENCH_TURN_DEVICE], "host",
                     (json_int_t)summary.tiers[BENCH_TURN_HOST], "disk",
                     (json_int_t)summary.tiers[BENCH_TURN_DISK], "none",
                     (json_int_t)summary.tiers[BENCH_TURN_NONE], "rebuilt",
                     (json_int_t)summary.rebuilt, "bytes_read", (json_int_t)summary.bytes_read,
                     "tokens_run", (json_int_t)summary.tokens_run, "reason", summary.reason);
}

static enum err print_json(const struct swap *swap) {
    const struct swap_options *options = swap->options;
    json_t *turns = json_array();
    for (int turn = 0; turn < (int)options->turns; turn++) {
        json_array_append_new(turns, json_of_turn(swap, turn));
    }
    json_t *root = json_pack(
        "{s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:o}", "model", model_file_label(options->model),
        "conversations", (json_int_t)options->conversations, "in_flight",
        (json_int_t)options->in_flight, "history_words", (json_int_t)options->history_words,
        "new_words", (json_int_t)options->new_words, "device_memory_bytes",
        (json_int_t)options->device_bytes, "host_memory_bytes", (json_int_t)options->host_bytes,
        "turns", turns);
    if (root == NULL || json_array_size(turns) != (size_t)options->turns) {
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

static enum err run_on(struct swap *swap, const char *store) {
    const struct swap_options *options = swap->options;
    char threads[NUMBER_BYTES], context[NUMBER_BYTES], device[NUMBER_BYTES], host[NUMBER_BYTES];
    char running[NUMBER_BYTES];
    snprintf(threads, sizeof threads, "%lld", options->threads);
    snprintf(context, sizeof context, "%lld", options->context);
    snprintf(device, sizeof device, "%lld", options->device_bytes);
    snprintf(host, sizeof host, "%lld", options->host_bytes);
    snprintf(running, sizeof running, "%lld", options->in_flight);
    TRY(bench_turn_answer_token(options->model, &swap->answer_token));
    TRY(bench_server_create(
        &(struct bench_server_config){.model = options->model,
                                      .store = store,
                                      .cancel_fd = swap->cancel_fd,
                                      .flags = {"--threads", threads, "--context", context,
                                                "--device-memory", device, "--host-memory", host,
                                                "--running-max", running, "--queue-max", "1024"}},
        &swap->server));
    enum err code = hold_all(swap);
    bench_server_destroy(swap->server, code);
    TRY(code);
    if (options->is_json) {
        return print_json(swap);
    }
    print_table(swap);
    return ERR_OK;
}

static enum err run(const struct swap_options *options) {
    struct swap swap = {.options = options, .cancel_fd = -1};
    char store[BENCH_STORE_PATH_BYTES];
    swap.results = calloc((size_t)(options->conversations * options->turns), sizeof *swap.results);
    if (swap.results == NULL) {
        return err_fail(ERR_NOMEM, "benchmark");
    }
    enum err code = stop_signal_open(&swap.cancel_fd);
    code = code == ERR_OK ? bench_store_make(store) : code;
    if (code == ERR_OK) {
        code = run_on(&swap, store);
        enum err removed = bench_store_remove(store);
        code = code == ERR_OK ? removed : code;
    }
    stop_signal_close(swap.cancel_fd);
    free(swap.results);
    return code;
}

static enum option_outcome parse(struct swap_options *options, int argc, char **argv) {
    const struct option_entry entries[] = {
        {"model", OPTION_TEXT, &options->model, "FILE", MODEL_FILE_HELP, 0, 0},
        {"device-memory", OPTION_BYTES, &options->device_bytes, "SIZE",
         "the server's cap, weights too", 1 << 20, 1e15},
        {"host-memory", OPTION_BYTES, &options->host_bytes, "SIZE", "the server's cap", 1, 1e15},
        {"conversations", OPTION_INT, &options->conversations, "N", "how many (16)", 1,
         CONVERSATIONS_MAX},
        {"turns", OPTION_INT, &options->turns, "N", "of each (5)", 1, TURNS_MAX},
        {"in-flight", OPTION_INT, &options->in_flight, "N", "turns at once (4)", 1,
         BENCH_CLIENTS_MAX},
        {"history-words", OPTION_INT, &options->history_words, "N",
         "words of a first message (4000)", 1, BENCH_TEXT_WORDS_MAX},
        {"new-words", OPTION_INT, &options->new_words, "N", "words of a later one (200)", 1,
         BENCH_TEXT_WORDS_MAX},
        {"max-tokens", OPTION_INT, &options->max_tokens, "N", "tokens of an answer (16)", 1,
         100000},
        {"context", OPTION_INT, &options->context, "TOKENS",
         "of the server; 0: what the model was made for (0)", 0, 1 << 24},
        {"threads", OPTION_INT, &options->threads, "N",
         "threads of the server; 0: one per processor (0)", 0, 256},
        {"json", OPTION_FLAG, &options->is_json, NULL, "print one JSON object", 0, 0},
    };
    const struct option_spec spec = {
        .usage = "tern bench swap --device-memory SIZE --host-memory SIZE [options]",
        .summary = "Holds turns with more conversations than the budgets have room for, and shows\n"
                   "for each turn the time to the first token and where the state came from.",
        .entries = entries,
        .count = ARRAY_LEN(entries),
    };
    enum option_outcome outcome = option_parse(&spec, argc, argv, NULL, NULL);
    if (outcome == OPTION_RUN && options->device_bytes == 0) {
        outcome = option_missing(argv[0], "device-memory");
    }
    if (outcome == OPTION_RUN && options->host_bytes == 0) {
        outcome = option_missing(argv[0], "host-memory");
    }
    return outcome;
}

int bench_swap(int argc, char **argv) {
    struct swap_options options = {
        .conversations = 16,
        .turns = 5,
        .in_flight = 4,
        .history_words = 4000,
        .new_words = 200,
        .max_tokens = 16,
    };
    enum option_outcome outcome = parse(&options, argc, argv);
    if (outcome != OPTION_RUN) {
        return outcome == OPTION_HELP_SHOWN ? EXIT_CODE_OK : EXIT_CODE_USAGE;
    }
    if (run(&options) != ERR_OK) {
        fprintf(stderr, "tern bench swap: %s\n", err_message());
        return EXIT_CODE_FAILED;
    }
    return EXIT_CODE_OK;
}
