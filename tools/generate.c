/*
 * `tern generate`: continues a prompt with one model in this process, without a
 * server, a template or a conversation.
 */
#include "engine/sampler.h"
#include "engine/tokenizer.h"
#include "tools/local_engine.h"
#include "tools/model_file.h"
#include "tools/option.h"
#include "tools/subcommand.h"

#include <stdio.h>
#include <string.h>

enum { CHUNK_TOKENS = 64, MAX_TOKENS_DEFAULT = 128 };

struct generate_options {
    const char *model;
    const char *prompt;
    const char *kv;
    const char *isa;
    long long max_tokens;
    long long seed;
    long long threads;
    long long top_k;
    double temperature;
    double top_p;
    double min_p;
};

/* One generation: the prompt's sequence and what turns its logits into text. */
struct generation {
    struct local_engine *engine;
    const struct tokenizer *tokenizer;
    struct sampler *sampler;
    struct sequence sequence;
    struct utf8_stream text;
};

/* Runs TOKENS in chunks; logits are computed for the last of them only. */
static enum err run_tokens(struct generation *generation, const int32_t *tokens, int count) {
    struct hybrid_forward *forward = generation->engine->forward;
    for (int done = 0; done < count;) {
        int now = count - done < CHUNK_TOKENS ? count - done : CHUNK_TOKENS;
        TRY(sequence_reserve(&generation->sequence, now));
        struct hybrid_forward_item item = {
            .sequence = &generation->sequence,
            .tokens = tokens + done,
            .count = now,
            .outputs = done + now == count,
        };
        TRY(hybrid_forward_enqueue(forward, &item, 1));
        TRY(hybrid_forward_wait(forward));
        done += now;
    }
    return ERR_OK;
}

static enum err print_piece(struct generation *generation, int32_t token) {
    const char *bytes = NULL;
    size_t len = 0;
    TRY(tokenizer_piece(generation->tokenizer, token, 0, &bytes, &len));
    char out[3 * 256 + 12];
    while (len > 0) {
        size_t now = len < 256 ? len : 256;
        size_t written = utf8_stream_push(&generation->text, bytes, now, out);
        fwrite(out, 1, written, stdout);
        bytes += now;
        len -= now;
    }
    fflush(stdout);
    return ERR_OK;
}

static enum err generate(struct generation *generation, const struct token_list *prompt,
                         int max_tokens) {
    int32_t token = -1;
    TRY(sequence_start(&generation->sequence, hybrid_forward_stream(generation->engine->forward)));
    for (size_t i = 0; i < prompt->count; i++) {
        sampler_accept_prompt(generation->sampler, prompt->ids[i]);
    }
    TRY(run_tokens(generation, prompt->ids, (int)prompt->count));
    for (int i = 0; i < max_tokens; i++) {
        const float *logits = hybrid_forward_logits(generation->engine->forward, 0);
        TRY(sampler_sample(generation->sampler, logits, &token));
        if (tokenizer_ends_generation(generation->tokenizer, token)) {
            break;
        }
        TRY(print_piece(generation, token));
        if (i + 1 < max_tokens) {
            TRY(run_tokens(generation, &token, 1));
        }
    }
    char rest[12];
    size_t written = utf8_stream_finish(&generation->text, rest);
    fwrite(rest, 1, written, stdout);
    putchar('\n');
    if (fflush(stdout) != 0) {
        return err_fail(ERR_IO, "cannot write to standard output");
    }
    return ERR_OK;
}

static enum err run_prompt(const struct generate_options *options, struct local_engine *engine,
                           const struct tokenizer *tokenizer, struct sampler *sampler) {
    CLEANUP(token_list_done) struct token_list prompt = {0};
    TRY(tokenizer_encode(tokenizer,
                         &(struct tokenizer_encode_params){
                             .text = options->prompt,
                             .len = strlen(options->prompt),
                             .parse_special = 1,
                             .add_bos = 1,
                         },
                         &prompt));
    if (prompt.count == 0) {
        return err_fail(ERR_INVALID, "the prompt has no tokens");
    }
    if (prompt.count + (size_t)options->max_tokens > (size_t)engine->context) {
        return err_fail(ERR_INVALID,
                        "a prompt of %zu tokens and %lld more do not fit the context "
                        "of %d",
                        prompt.count, options->max_tokens, engine->context);
    }
    struct generation generation = {.engine = engine, .tokenizer = tokenizer, .sampler = sampler};
    TRY(sequence_init(&generation.sequence, engine->pool, engine->context));
    enum err code = generate(&generation, &prompt, (int)options->max_tokens);
    sequence_done(&generation.sequence);
    return code;
}

static enum err run_engine(const struct generate_options *options, struct local_engine *engine) {
    struct sampler_params params = sampler_params_default();
    params.temperature = (float)options->temperature;
    params.top_k = (int)options->top_k;
    params.top_p = (float)options->top_p;
    params.min_p = (float)options->min_p;
    params.seed = (uint64_t)options->seed;
    struct tokenizer *tokenizer = NULL;
    struct sampler *sampler = NULL;
    TRY(tokenizer_create(engine->file, &tokenizer));
    enum err code = sampler_create(&params, engine->model->shape.vocabulary, &sampler);
    if (code == ERR_OK) {
        code = run_prompt(options, engine, tokenizer, sampler);
    }
    sampler_destroy(sampler);
    tokenizer_destroy(tokenizer);
    return code;
}

static enum err run(const struct generate_options *options) {
    enum dtype kv_type = DTYPE_F16;
    TRY(dtype_parse(options->kv, &kv_type));
    struct local_engine engine;
    TRY(local_engine_open(
        &(struct local_engine_config){
            .model_path = options->model,
            .isa = options->isa,
            .threads = (int)options->threads,
            .kv_type = kv_type,
            .block_size = LAYOUT_BLOCK_SIZE_DEFAULT,
            .rows_max = CHUNK_TOKENS,
            .sequences_max = 1,
            .outputs_max = 1,
        },
        &engine));
    enum err code = run_engine(options, &engine);
    local_engine_close(&engine);
    return code;
}

int subcommand_generate(int argc, char **argv) {
    struct generate_options options = {
        .kv = "f16", .isa = "auto", .max_tokens = MAX_TOKENS_DEFAULT, .top_p = 1.0};
    const struct option_entry entries[] = {
        {"model", OPTION_TEXT, &options.model, "FILE", MODEL_FILE_HELP, 0, 0},
        {"prompt", OPTION_TEXT, &options.prompt, "TEXT",
         "what to continue; special tokens in it are recognised", 0, 0},
        {"max-tokens", OPTION_INT, &options.max_tokens, "N", "tokens to generate at most (128)", 1,
         1 << 20},
        {"temperature", OPTION_NUMBER, &options.temperature, "T", "0: greedy (0)", 0, 100},
        {"top-k", OPTION_INT, &options.top_k, "N", "keep the N best tokens; 0: all (0)", 0,
         1 << 20},
        {"top-p", OPTION_NUMBER, &options.top_p, "P", "keep the best tokens up to P (1)", 0, 1},
        {"min-p", OPTION_NUMBER, &options.min_p, "P",
         "drop tokens less likely than P times the best (0)", 0, 1},
        {"seed", OPTION_INT, &options.seed, "N", "of the random generator (0)", 0, 0},
        {"kv", OPTION_TEXT, &options.kv, "TYPE", "KV blocks in f16, bf16 or f32 (f16)", 0, 0},
        {"threads", OPTION_INT, &options.threads, "N",
         "threads that compute; 0: one per processor (0)", 0, 256},
        {"isa", OPTION_TEXT, &options.isa, "NAME", "auto, portable, avx2 or avx512 (auto)", 0, 0},
    };
    const struct option_spec spec = {
        .usage = "tern generate --prompt TEXT [--model FILE] [options]",
        .summary = "Continues TEXT as it stands, without a chat template, and prints what the\n"
                   "model adds until it ends or --max-tokens is reached.",
        .entries = entries,
        .count = ARRAY_LEN(entries),
    };
    enum option_outcome outcome = option_parse(&spec, argc, argv, NULL, NULL);
    if (outcome != OPTION_RUN) {
        return outcome == OPTION_HELP_SHOWN ? EXIT_CODE_OK : EXIT_CODE_USAGE;
    }
    if (options.prompt == NULL) {
        option_missing(argv[0], "prompt");
        return EXIT_CODE_USAGE;
    }
    if (run(&options) != ERR_OK) {
        fprintf(stderr, "tern generate: %s\n", err_message());
        return EXIT_CODE_FAILED;
    }
    return EXIT_CODE_OK;
}
