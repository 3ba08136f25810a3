/*
 * `tern logits`: the logits after every token of a file, as a NumPy array. With
 * --beside, other sequences of other lengths and chunks run in the same steps; the
 * result must not differ.
 */
#include "tools/local_engine.h"
#include "tools/model_file.h"
#include "tools/npy.h"
#include "tools/option.h"
#include "tools/subcommand.h"
#include "tools/token_file.h"

#include <stdio.h>
#include <stdlib.h>

enum { CHUNK_DEFAULT = 64, BESIDE_MAX = 63 };

struct logits_options {
    const char *model;
    const char *tokens;
    const char *out;
    const char *kv;
    const char *isa;
    long long chunk;
    long long threads;
    long long beside;
    long long block_size;
};

/* One line of tokens on its way through the model. */
struct lane {
    struct sequence sequence;
    int32_t *tokens; /* owned */
    int count;
    int chunk;
};

static enum err lane_init(struct lane *lane, struct pool *pool, const struct token_list *list,
                          int count, int chunk, int stride) {
    *lane = (struct lane){.count = count, .chunk = chunk};
    lane->tokens = malloc((size_t)count * sizeof *lane->tokens);
    if (lane->tokens == NULL) {
        return err_fail(ERR_NOMEM, "%d token ids", count);
    }
    for (int i = 0; i < count; i++) {
        lane->tokens[i] = list->ids[(size_t)i * (size_t)stride % list->count];
    }
    return sequence_init(&lane->sequence, pool, count);
}

static void lane_done(struct lane *lane) {
    sequence_done(&lane->sequence);
    free(lane->tokens);
}

static int lane_is_finished(const struct lane *lane) {
    return lane->sequence.length == lane->count;
}

/* Other lanes begin again in a slot that has been used before. */
static enum err lane_restart(struct lane *lane, struct pool *pool) {
    sequence_done(&lane->sequence);
    return sequence_init(&lane->sequence, pool, lane->count);
}

static enum err lane_next(struct lane *lane, struct hybrid_forward *forward, int is_main,
                          struct hybrid_forward_item *out) {
    struct sequence *sequence = &lane->sequence;
    if (sequence->length == 0) {
        TRY(sequence_start(sequence, hybrid_forward_stream(forward)));
    }
    int left = lane->count - sequence->length;
    int count = left < lane->chunk ? left : lane->chunk;
    TRY(sequence_reserve(sequence, count));
    *out = (struct hybrid_forward_item){
        .sequence = sequence,
        .tokens = lane->tokens + sequence->length,
        .count = count,
        .outputs = is_main ? count : 0,
    };
    return ERR_OK;
}

/* Lane 0 is the one that is asked for; runs until it ends. */
static enum err run_lanes(struct local_engine *engine, struct lane *lanes, int lane_count,
                          struct npy *npy) {
    struct hybrid_forward_item items[BESIDE_MAX + 1];
    while (!lane_is_finished(&lanes[0])) {
        for (int i = 0; i < lane_count; i++) {
            if (lane_is_finished(&lanes[i])) {
                TRY(lane_restart(&lanes[i], engine->pool));
            }
            TRY(lane_next(&lanes[i], engine->forward, i == 0, &items[i]));
        }
        TRY(hybrid_forward_enqueue(engine->forward, items, lane_count));
        TRY(hybrid_forward_wait(engine->forward));
        for (int i = 0; i < items[0].count; i++) {
            TRY(npy_write_row(npy, hybrid_forward_logits(engine->forward, i)));
        }
    }
    return ERR_OK;
}

static enum err init_lanes(const struct logits_options *options, const struct token_list *list,
                           struct local_engine *engine, struct lane *lanes) {
    int count = (int)list->count;
    int others = (int)options->beside;
    TRY(lane_init(&lanes[0], engine->pool, list, count, (int)options->chunk, 1));
    for (int i = 1; i <= others; i++) {
        int length = 1 + (int)((long long)count * i / (others + 1));
        int chunk = 1 + (int)(options->chunk * i / (others + 1));
        chunk = chunk < (int)options->chunk ? chunk : (int)options->chunk;
        TRY(lane_init(&lanes[i], engine->pool, list, length < count ? length : count, chunk,
                      2 * i + 1));
    }
    return ERR_OK;
}

static enum err run_engine(const struct logits_options *options, const struct token_list *list,
                           struct local_engine *engine) {
    struct lane lanes[BESIDE_MAX + 1] = {0};
    int lane_count = (int)options->beside + 1;
    struct npy npy;
    TRY(npy_create(options->out, list->count, (size_t)engine->model->shape.vocabulary, &npy));
    enum err code = init_lanes(options, list, engine, lanes);
    if (code == ERR_OK) {
        code = run_lanes(engine, lanes, lane_count, &npy);
    }
    for (int i = 0; i < lane_count; i++) {
        lane_done(&lanes[i]);
    }
    if (code == ERR_OK) {
        code = npy_finish(&npy);
    }
    npy_abandon(&npy);
    return code;
}

static enum err run(const struct logits_options *options) {
    enum dtype kv_type = DTYPE_F16;
    CLEANUP(token_list_done) struct token_list list = {0};
    TRY(dtype_parse(options->kv, &kv_type));
    TRY(token_file_read(options->tokens, &list));
    if (list.count == 0 || list.count > MODEL_CONTEXT_MAX) {
        return err_fail(ERR_INVALID, "'%s' holds %zu token ids, expected 1 to %d", options->tokens,
                        list.count, MODEL_CONTEXT_MAX);
    }
    int count = (int)list.count;
    int chunk = options->chunk < count ? (int)options->chunk : count;
    struct local_engine engine;
    TRY(local_engine_open(
        &(struct local_engine_config){
            .model_path = options->model,
            .isa = options->isa,
            .threads = (int)options->threads,
            .kv_type = kv_type,
            .block_size = (int)options->block_size,
            .rows_max = chunk * ((int)options->beside + 1),
            .sequences_max = (int)options->beside + 1,
            .outputs_max = chunk,
            .context = count,
        },
        &engine));
    enum err code = run_engine(options, &list, &engine);
    local_engine_close(&engine);
    return code;
}

int subcommand_logits(int argc, char **argv) {
    struct logits_options options = {
        .kv = "f16",
        .isa = "auto",
        .chunk = CHUNK_DEFAULT,
        .block_size = LAYOUT_BLOCK_SIZE_DEFAULT,
    };
    const struct option_entry entries[] = {
        {"model", OPTION_TEXT, &options.model, "FILE", MODEL_FILE_HELP, 0, 0},
        {"tokens", OPTION_TEXT, &options.tokens, "FILE",
         "token ids separated by white space; - is standard input", 0, 0},
        {"out", OPTION_TEXT, &options.out, "FILE",
         "where the array goes: float32 [tokens, vocabulary], .npy", 0, 0},
        {"chunk", OPTION_INT, &options.chunk, "N", "tokens run at once (64)", 1, 1 << 20},
        {"kv", OPTION_TEXT, &options.kv, "TYPE", "KV blocks in f16, bf16 or f32 (f16)", 0, 0},
        {"block-size", OPTION_INT, &options.block_size, "N",
         "tokens in a KV block, a power of two (32)", 8, 256},
        {"threads", OPTION_INT, &options.threads, "N",
         "threads that compute; 0: one per processor (0)", 0, 256},
        {"isa", OPTION_TEXT, &options.isa, "NAME", "auto, portable, avx2 or avx512 (auto)", 0, 0},
        {"beside", OPTION_INT, &options.beside, "N",
         "run N other sequences in the same batches (0)", 0, BESIDE_MAX},
    };
    const struct option_spec spec = {
        .usage = "tern logits --tokens FILE --out FILE [--model FILE] [options]",
        .summary = "Writes the logits after every token of a sequence. They are a function of\n"
                   "the token ids alone: no option but --model and --kv changes a bit of them.",
        .entries = entries,
        .count = ARRAY_LEN(entries),
    };
    enum option_outcome outcome = option_parse(&spec, argc, argv, NULL, NULL);
    if (outcome != OPTION_RUN) {
        return outcome == OPTION_HELP_SHOWN ? EXIT_CODE_OK : EXIT_CODE_USAGE;
    }
    if (options.tokens == NULL || options.out == NULL) {
        fprintf(stderr, "tern logits: --tokens and --out are needed; see --help\n");
        return EXIT_CODE_USAGE;
    }
    if (run(&options) != ERR_OK) {
        fprintf(stderr, "tern logits: %s\n", err_message());
        return EXIT_CODE_FAILED;
    }
    return EXIT_CODE_OK;
}
