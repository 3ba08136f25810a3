/*
 * A model, its pools and a forward pass in this process, for the subcommands that
 * run a model by themselves. One thread.
 */
#ifndef TERN_TOOLS_LOCAL_ENGINE_H
#define TERN_TOOLS_LOCAL_ENGINE_H

#include "engine/hybrid_forward.h"

struct local_engine_config {
    const char *model_path; /* as for model_file_open */
    const char *isa;        /* "auto", "portable", "avx2", "avx512" */
    int threads;            /* 0: one per processor */
    enum dtype kv_type;
    int block_size;
    int rows_max; /* tokens in a step */
    int sequences_max;
    int outputs_max;
    int context; /* tokens of any one sequence; 0: what the model was made for, at most
                    LOCAL_ENGINE_CONTEXT_DEFAULT */
};

enum { LOCAL_ENGINE_CONTEXT_DEFAULT = 32768 };

struct local_engine {
    struct gguf *file; /* stays open for the tokenizer */
    struct device *device;
    struct model *model;
    struct pool *pool;
    struct hybrid_forward *forward;
    int context;
};

MUST_USE enum err local_engine_open(const struct local_engine_config *config,
                                    struct local_engine *out);
void local_engine_close(struct local_engine *engine); /* also a zeroed one */

#endif
