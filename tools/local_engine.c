#include "tools/local_engine.h"

#include "tools/model_file.h"

static enum err open_parts(const struct local_engine_config *config, struct local_engine *engine) {
    TRY(model_file_open(config->model_path, &engine->file));
    TRY(device_open(&(struct device_config){.isa = config->isa, .threads = config->threads},
                    &engine->device));
    TRY(model_load(engine->file,
                   &(struct model_config){
                       .device = engine->device,
                       .block_size = config->block_size,
                       .kv_type = config->kv_type,
                   },
                   &engine->model));
    engine->context = config->context;
    if (engine->context == 0) {
        int made_for = engine->model->shape.context;
        engine->context =
            made_for < LOCAL_ENGINE_CONTEXT_DEFAULT ? made_for : LOCAL_ENGINE_CONTEXT_DEFAULT;
    }
    int blocks = layout_blocks(&engine->model->layout, engine->context);
    TRY(pool_create(
        &(struct pool_config){
            .device = engine->device,
            .layout = &engine->model->layout,
            .blocks = config->sequences_max * blocks,
            .slots = config->sequences_max,
        },
        &engine->pool));
    return hybrid_forward_create(
        &(struct hybrid_forward_config){
            .model = engine->model,
            .pool = engine->pool,
            .rows_max = config->rows_max,
            .sequences_max = config->sequences_max,
            .outputs_max = config->outputs_max,
            .context_max = engine->context,
        },
        &engine->forward);
}

enum err local_engine_open(const struct local_engine_config *config, struct local_engine *out) {
    struct local_engine engine = {0};
    enum err code = open_parts(config, &engine);
    if (code != ERR_OK) {
        local_engine_close(&engine);
        return code;
    }
    *out = engine;
    return ERR_OK;
}

void local_engine_close(struct local_engine *engine) {
    hybrid_forward_destroy(engine->forward);
    pool_destroy(engine->pool);
    model_destroy(engine->model);
    device_close(engine->device);
    gguf_close(engine->file);
    *engine = (struct local_engine){0};
}
