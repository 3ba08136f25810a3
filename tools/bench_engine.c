/*
 * `tern bench engine`: what the forward pass does of what the machine can. Token ids are random
 * ones: the work is the same for all, but for rows of the embedding.
 *
 * A shared machine gives half of its memory bandwidth in one second and all of it in the next. So
 * the peaks are measured again and again between the parts of a case, outside its time, and a
 * case's shares are taken of their mean.
 */
#include "base/now.h"
#include "base/pcg32.h"
#include "engine/sampler.h"
#include "gpu/profile.h"
#include "tools/bench.h"
#include "tools/local_engine.h"
#include "tools/model_file.h"
#include "tools/option.h"
#include "tools/subcommand.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { LIST_MAX = 16, STREAMS_MAX = 64, CHUNK_MAX = 4096, DECODE_WARM_STEPS = 2 };

enum { PARTS = 8 }; /* of a case, between which the peaks are measured */

struct engine_options {
    const char *model;
    const char *kv;
    const char *isa;
    const char *lengths;
    const char *streams;
    long long threads;
    long long chunk;
    long long steps;
    long long history;
    int is_json;
};

/* One case: a prompt of a length, or decode steps of a number of streams. */
struct measurement {
    int is_decode;
    int size; /* tokens of the prompt, or streams */
    double tokens;
    double seconds;
    double sample_seconds;  /* part of it */
    double enqueue_seconds; /* on the engine's thread, while the first ops of the step run */
    double longest_step;    /* seconds */
    struct profile_report profile;
    struct profile_peaks peaks; /* their sum, until the case has ended: then their mean */
    int peaks_count;
};

struct engine_bench {
    const struct engine_options *options;
    struct local_engine engine;
    struct sampler *sampler;
    struct pcg32 random;
    struct measurement results[2 * LIST_MAX];
    size_t result_count;
    double load_seconds;
    double model_bytes;
};

static double seconds_since(uint64_t started_ns) {
    return (double)(now_monotonic_ns() - started_ns) * 1e-9;
}

/* --- running --------------------------------------------------------------------------- */

/* Adds what the machine does at best right now. */
static enum err measure_peaks(struct engine_bench *bench, struct measurement *result) {
    struct profile_peaks now;
    TRY(profile_measure_peaks(bench->engine.device, &now));
    result->peaks.dot_ops_per_s += now.dot_ops_per_s;
    result->peaks.float_ops_per_s += now.float_ops_per_s;
    result->peaks.read_bytes_per_s += now.read_bytes_per_s;
    result->peaks_count++;
    return ERR_OK;
}

static void average_peaks(struct measurement *result) {
    double count = result->peaks_count > 0 ? result->peaks_count : 1;
    result->peaks.dot_ops_per_s /= count;
    result->peaks.float_ops_per_s /= count;
    result->peaks.read_bytes_per_s /= count;
}

/* Runs COUNT random tokens in chunks; logits are computed for the last one. */
static enum err run_tokens(struct engine_bench *bench, struct sequence *sequence, int count) {
    int32_t tokens[CHUNK_MAX];
    int chunk = (int)bench->options->chunk;
    uint32_t vocabulary = (uint32_t)bench->engine.model->shape.vocabulary;
    for (int done = 0; done < count;) {
        int now = count - done < chunk ? count - done : chunk;
        for (int i = 0; i < now; i++) {
            tokens[i] = (int32_t)(pcg32_next(&bench->random) % vocabulary);
        }
        TRY(sequence_reserve(sequence, now));
        struct hybrid_forward_item item = {
            .sequence = sequence, .tokens = tokens, .count = now, .outputs = done + now == count};
        TRY(hybrid_forward_enqueue(bench->engine.forward, &item, 1));
        TRY(hybrid_forward_wait(bench->engine.forward));
        done += now;
    }
    return ERR_OK;
}

static enum err run_prompt(struct engine_bench *bench, struct sequence *sequence,
                           struct measurement *result) {
    int part = result->size / PARTS > (int)bench->options->chunk * 4
                   ? result->size / PARTS
                   : (int)bench->options->chunk * 4;
    TRY(sequence_start(sequence, hybrid_forward_stream(bench->engine.forward)));
    TRY(run_tokens(bench, sequence, 1)); /* what is allocated at the first use is there then */
    sequence_done(sequence);
    TRY(sequence_init(sequence, bench->engine.pool, bench->engine.context));
    TRY(sequence_start(sequence, hybrid_forward_stream(bench->engine.forward)));
    TRY(device_stream_wait_idle(hybrid_forward_stream(bench->engine.forward)));
    TRY(profile_start(bench->engine.device));
    for (int done = 0; done < result->size; done += part) {
        TRY(measure_peaks(bench, result));
        uint64_t started_ns = now_monotonic_ns();
        TRY(run_tokens(bench, sequence, result->size - done < part ? result->size - done : part));
        result->seconds += seconds_since(started_ns);
    }
    return measure_peaks(bench, result);
}

static enum err measure_prefill(struct engine_bench *bench, int length) {
    struct measurement *result = &bench->results[bench->result_count++];
    struct sequence sequence;
    *result = (struct measurement){.size = length, .tokens = length};
    TRY(sequence_init(&sequence, bench->engine.pool, bench->engine.context));
    enum err code = run_prompt(bench, &sequence, result);
    profile_stop(bench->engine.device, &result->profile);
    average_peaks(result);
    sequence_done(&sequence);
    return code;
}

/* One step of all streams: a token of each, and the next one sampled from its logits. */
static enum err decode_step(struct engine_bench *bench, struct sequence *sequences, int32_t *tokens,
                            struct measurement *result) {
    struct hybrid_forward_item items[STREAMS_MAX];
    for (int i = 0; i < result->size; i++) {
        TRY(sequence_reserve(&sequences[i], 1));
        items[i] = (struct hybrid_forward_item){
            .sequence = &sequences[i], .tokens = &tokens[i], .count = 1, .outputs = 1};
    }
    uint64_t started_ns = now_monotonic_ns();
    TRY(hybrid_forward_enqueue(bench->engine.forward, items, result->size));
    result->enqueue_seconds += seconds_since(started_ns);
    TRY(hybrid_forward_wait(bench->engine.forward));
    started_ns = now_monotonic_ns();
    for (int i = 0; i < result->size; i++) {
        TRY(sampler_sample(bench->sampler, hybrid_forward_logits(bench->engine.forward, i),
                           &tokens[i]));
    }
    result->sample_seconds += seconds_since(started_ns);
    return ERR_OK;
}

static enum err run_decode(struct engine_bench *bench, struct sequence *sequences,
                           struct measurement *result) {
    int32_t tokens[STREAMS_MAX] = {0};
    int steps = (int)bench->options->steps;
    for (int i = 0; i < DECODE_WARM_STEPS; i++) {
        TRY(decode_step(bench, sequences, tokens, result));
    }
    result->sample_seconds = 0;
    result->enqueue_seconds = 0;
    TRY(profile_start(bench->engine.device));
    for (int i = 0; i < steps; i++) {
        if (i * PARTS / steps != (i - 1) * PARTS / steps || i == 0) {
            TRY(measure_peaks(bench, result));
        }
        uint64_t step_ns = now_monotonic_ns();
        TRY(decode_step(bench, sequences, tokens, result));
        double step = seconds_since(step_ns);
        result->seconds += step;
        result->longest_step = step > result->longest_step ? step : result->longest_step;
    }
    result->tokens = (double)steps * result->size;
    return measure_peaks(bench, result);
}

static enum err measure_decode(struct engine_bench *bench, int streams) {
    struct measurement *result = &bench->results[bench->result_count++];
    struct sequence sequences[STREAMS_MAX];
    int made = 0;
    enum err code = ERR_OK;
    *result = (struct measurement){.is_decode = 1, .size = streams};
    while (made < streams && code == ERR_OK) {
        code = sequence_init(&sequences[made], bench->engine.pool, bench->engine.context);
        if (code != ERR_OK) {
            break;
        }
        made++;
        code = sequence_start(&sequences[made - 1], hybrid_forward_stream(bench->engine.forward));
        if (code == ERR_OK) {
            code = run_tokens(bench, &sequences[made - 1], (int)bench->options->history);
        }
    }
    if (code == ERR_OK) {
        code = run_decode(bench, sequences, result);
    }
    profile_stop(bench->engine.device, &result->profile);
    average_peaks(result);
    for (int i = 0; i < made; i++) {
        sequence_done(&sequences[i]);
    }
    return code;
}

/* --- what was found -------------------------------------------------------------------- */

/* The least time that LINE's work takes at the peaks: the scarcest of the three decides. */
static double floor_seconds(const struct profile_line *line, const struct profile_peaks *peaks) {
    double bytes = line->bytes / peaks->read_bytes_per_s;
    double dot = line->dot_ops / peaks->dot_ops_per_s;
    double floats = line->float_ops / peaks->float_ops_per_s;
    double most = bytes > dot ? bytes : dot;
    return most > floats ? most : floats;
}

struct totals {
    double bytes;
    double dot_ops;
    double seconds; /* inside ops */
};

static struct totals totals_of(const struct profile_report *report) {
    struct totals totals = {0};
    for (size_t i = 0; i < report->count; i++) {
        totals.bytes += report->lines[i].bytes;
        totals.dot_ops += report->lines[i].dot_ops;
        totals.seconds += (double)report->lines[i].ns * 1e-9;
    }
    return totals;
}

/* What the integer units did of what they could. */
static double dot_share(const struct measurement *result) {
    return totals_of(&result->profile).dot_ops / result->peaks.dot_ops_per_s / result->seconds;
}

/* What was fetched and written of what memory could give. */
static double bandwidth_share(const struct measurement *result) {
    return totals_of(&result->profile).bytes / result->peaks.read_bytes_per_s / result->seconds;
}

static void print_ops(const struct measurement *result) {
    double units = result->is_decode ? result->tokens / result->size : result->tokens;
    printf("\n%s %d, microseconds a %s:\n", result->is_decode ? "decode, streams" : "prefill of",
           result->size, result->is_decode ? "step" : "token");
    printf("  %-28s %10s %7s %8s\n", "op", "time", "share", "of floor");
    for (size_t i = 0; i < result->profile.count; i++) {
        const struct profile_line *line = &result->profile.lines[i];
        double seconds = (double)line->ns * 1e-9;
        double least = floor_seconds(line, &result->peaks);
        printf("  %-28s %10.2f %6.1f%%", line->name, seconds / units * 1e6,
               100 * seconds / result->seconds);
        if (least > 0) {
            printf(" %7.0f%%", 100 * least / seconds);
        }
        putchar('\n');
    }
    double inside = totals_of(&result->profile).seconds;
    printf("  %-28s %10.2f %6.1f%%\n", "sampling", result->sample_seconds / units * 1e6,
           100 * result->sample_seconds / result->seconds);
    if (result->is_decode) {
        printf("  %-28s %10.2f\n", "(enqueuing, beside ops)",
               result->enqueue_seconds / units * 1e6);
    }
    double between = result->seconds - inside - result->sample_seconds;
    printf("  %-28s %10.2f %6.1f%%\n", "between ops", between / units * 1e6,
           100 * between / result->seconds);
}

static void print_tables(const struct engine_bench *bench) {
    struct device_info info;
    device_get_info(bench->engine.device, &info);
    printf("%s, %d threads\n", info.isa, info.threads);
    printf("load: %.2f s, %.2f GB/s\n\n", bench->load_seconds,
           bench->model_bytes / bench->load_seconds * 1e-9);
    printf("%-8s %8s %10s %10s %11s %8s %11s %8s\n", "case", "size", "tokens/s", "longest ms",
           "peak Gop/s", "of it", "peak GB/s", "of it");
    for (size_t i = 0; i < bench->result_count; i++) {
        const struct measurement *result = &bench->results[i];
        printf("%-8s %8d %10.1f %10.1f %11.0f %7.1f%% %11.1f %7.1f%%\n",
               result->is_decode ? "decode" : "prefill", result->size,
               result->tokens / result->seconds, result->longest_step * 1e3,
               result->peaks.dot_ops_per_s * 1e-9, 100 * dot_share(result),
               result->peaks.read_bytes_per_s * 1e-9, 100 * bandwidth_share(result));
    }
    for (size_t i = 0; i < bench->result_count; i++) {
        print_ops(&bench->results[i]);
    }
}

static json_t *json_of_ops(const struct measurement *result) {
    json_t *ops = json_array();
    for (size_t i = 0; i < result->profile.count; i++) {
        const struct profile_line *line = &result->profile.lines[i];
        json_array_append_new(ops,
                              json_pack("{s:s, s:I, s:f, s:f}", "op", line->name, "runs",
                                        (json_int_t)line->count, "seconds", (double)line->ns * 1e-9,
                                        "floor_seconds", floor_seconds(line, &result->peaks)));
    }
    return ops;
}

static json_t *json_of_case(const struct measurement *result) {
    return json_pack("{s:s, s:i, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:o}", "case",
                     result->is_decode ? "decode" : "prefill", "size", result->size,
                     "tokens_per_second", result->tokens / result->seconds, "seconds",
                     result->seconds, "sample_seconds", result->sample_seconds,
                     "longest_step_seconds", result->longest_step, "peak_dot_ops_per_second",
                     result->peaks.dot_ops_per_s, "dot_share", dot_share(result),
                     "peak_float_ops_per_second", result->peaks.float_ops_per_s,
                     "peak_read_bytes_per_second", result->peaks.read_bytes_per_s,
                     "bandwidth_share", bandwidth_share(result), "ops", json_of_ops(result));
}

static enum err print_json(const struct engine_bench *bench) {
    struct device_info info;
    device_get_info(bench->engine.device, &info);
    json_t *cases = json_array();
    for (size_t i = 0; i < bench->result_count; i++) {
        json_array_append_new(cases, json_of_case(&bench->results[i]));
    }
    json_t *root = json_pack("{s:s, s:i, s:f, s:f, s:o}", "isa", info.isa, "threads", info.threads,
                             "load_seconds", bench->load_seconds, "model_bytes", bench->model_bytes,
                             "cases", cases);
    if (root == NULL) {
        return err_fail(ERR_NOMEM, "the report");
    }
    int rc = json_dumpf(root, stdout, JSON_INDENT(1) | JSON_REAL_PRECISION(6));
    json_decref(root);
    putchar('\n');
    return rc == 0 ? ERR_OK : err_fail(ERR_IO, "cannot write to standard output");
}

/* --- the whole ------------------------------------------------------------------------- */

/* "1,2,4" into OUT; their number, or -1 for anything else or a number beyond MAX. */
static int parse_list(const char *text, int max, int out[LIST_MAX]) {
    int count = 0;
    while (*text != '\0') {
        char *end = NULL;
        long value = strtol(text, &end, 10);
        if (end == text || value < 1 || value > max || count == LIST_MAX ||
            (*end != ',' && *end != '\0')) {
            return -1;
        }
        out[count++] = (int)value;
        text = *end == ',' ? end + 1 : end;
    }
    return count;
}

struct cases {
    int lengths[LIST_MAX];
    int length_count;
    int streams[LIST_MAX];
    int stream_count;
};

static enum err run_cases(struct engine_bench *bench, const struct cases *cases) {
    for (int i = 0; i < cases->length_count; i++) {
        TRY(measure_prefill(bench, cases->lengths[i]));
    }
    for (int i = 0; i < cases->stream_count; i++) {
        TRY(measure_decode(bench, cases->streams[i]));
    }
    return ERR_OK;
}

static int largest(const int *values, int count) {
    int most = 1;
    for (int i = 0; i < count; i++) {
        most = values[i] > most ? values[i] : most;
    }
    return most;
}

static enum err open_engine(struct engine_bench *bench, const struct cases *cases) {
    const struct engine_options *options = bench->options;
    enum dtype kv_type = DTYPE_F16;
    int context = largest(cases->lengths, cases->length_count);
    int decode = (int)(options->history + options->steps) + DECODE_WARM_STEPS;
    int streams = largest(cases->streams, cases->stream_count);
    struct stat status;
    TRY(dtype_parse(options->kv, &kv_type));
    if (options->model != NULL && stat(options->model, &status) == 0) {
        bench->model_bytes = (double)status.st_size;
    }
    uint64_t started_ns = now_monotonic_ns();
    TRY(local_engine_open(
        &(struct local_engine_config){
            .model_path = options->model,
            .isa = options->isa,
            .threads = (int)options->threads,
            .kv_type = kv_type,
            .block_size = LAYOUT_BLOCK_SIZE_DEFAULT,
            .rows_max = (int)options->chunk > streams ? (int)options->chunk : streams,
            .sequences_max = streams,
            .outputs_max = streams,
            .context = context > decode ? context : decode,
        },
        &bench->engine));
    bench->load_seconds = seconds_since(started_ns);
    struct sampler_params greedy = sampler_params_default();
    return sampler_create(&greedy, bench->engine.model->shape.vocabulary, &bench->sampler);
}

static enum err run(const struct engine_options *options, const struct cases *cases) {
    struct engine_bench *bench = calloc(1, sizeof *bench);
    if (bench == NULL) {
        return err_fail(ERR_NOMEM, "benchmark");
    }
    bench->options = options;
    pcg32_init(&bench->random, 1, 1);
    enum err code = open_engine(bench, cases);
    if (code == ERR_OK) {
        code = run_cases(bench, cases);
    }
    if (code == ERR_OK && options->is_json) {
        code = print_json(bench);
    } else if (code == ERR_OK) {
        print_tables(bench);
    }
    sampler_destroy(bench->sampler);
    local_engine_close(&bench->engine);
    free(bench);
    return code;
}

int bench_engine(int argc, char **argv) {
    struct engine_options options = {
        .kv = "f16",
        .isa = "auto",
        .lengths = "128,512,2048,8192",
        .streams = "1,2,4,8,16",
        .chunk = 128,
        .steps = 64,
        .history = 256,
    };
    const struct option_entry entries[] = {
        {"model", OPTION_TEXT, &options.model, "FILE", MODEL_FILE_HELP, 0, 0},
        {"lengths", OPTION_TEXT, &options.lengths, "N,...",
         "prompts to run, in tokens (128,512,2048,8192); \"\": none", 0, 0},
        {"streams", OPTION_TEXT, &options.streams, "N,...",
         "sequences to decode at once (1,2,4,8,16); \"\": none", 0, 0},
        {"history", OPTION_INT, &options.history, "N", "tokens before the decode steps (256)", 1,
         1 << 20},
        {"steps", OPTION_INT, &options.steps, "N", "decode steps (64)", 1, 100000},
        {"chunk", OPTION_INT, &options.chunk, "N", "tokens of a prompt in a step (128)", 1,
         CHUNK_MAX},
        {"kv", OPTION_TEXT, &options.kv, "TYPE", "KV blocks in f16, bf16 or f32 (f16)", 0, 0},
        {"threads", OPTION_INT, &options.threads, "N",
         "threads that compute; 0: one per processor (0)", 0, 256},
        {"isa", OPTION_TEXT, &options.isa, "NAME", "auto, portable, avx2 or avx512 (auto)", 0, 0},
        {"json", OPTION_FLAG, &options.is_json, NULL, "print one JSON object", 0, 0},
    };
    const struct option_spec spec = {
        .usage = "tern bench engine [--model FILE] [options]",
        .summary = "Times prefill and decode, and each op of them, beside the machine's integer\n"
                   "rate and memory bandwidth, which it measures too.",
        .entries = entries,
        .count = ARRAY_LEN(entries),
    };
    enum option_outcome outcome = option_parse(&spec, argc, argv, NULL, NULL);
    if (outcome != OPTION_RUN) {
        return outcome == OPTION_HELP_SHOWN ? EXIT_CODE_OK : EXIT_CODE_USAGE;
    }
    struct cases cases;
    cases.length_count = parse_list(options.lengths, 1 << 20, cases.lengths);
    cases.stream_count = parse_list(options.streams, STREAMS_MAX, cases.streams);
    if (cases.length_count < 0 || cases.stream_count < 0) {
        fprintf(stderr,
                "tern bench engine: --lengths and --streams are numbers between commas, "
                "%d at most, streams to %d\n",
                LIST_MAX, STREAMS_MAX);
        return EXIT_CODE_USAGE;
    }
    if (run(&options, &cases) != ERR_OK) {
        fprintf(stderr, "tern bench engine: %s\n", err_message());
        return EXIT_CODE_FAILED;
    }
    return EXIT_CODE_OK;
}
