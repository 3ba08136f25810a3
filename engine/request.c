#include "engine/request.h"

#include <stdlib.h>
#include <string.h>

static void destroy(struct engine_request *request) {
    /* What belongs to the pools was given back by the engine thread when the request ended. */
    assert(request->sequence.slot < 0 && request->sequence.block_count == 0);
    sampler_destroy(request->sampler);
    answer_text_done(&request->text);
    free(request->tokens);
    free(request);
}

static enum err fill(struct engine_request *request, const struct engine_params *params,
                     int vocabulary) {
    size_t capacity = (size_t)params->count + (size_t)params->max_tokens;
    request->tokens = malloc(capacity * sizeof *request->tokens);
    if (request->tokens == NULL) {
        return err_fail(ERR_NOMEM, "request of %zu tokens", capacity);
    }
    memcpy(request->tokens, params->tokens, (size_t)params->count * sizeof *request->tokens);
    request->prompt_count = params->count;
    request->token_count = params->count;
    TRY(answer_text_init(&request->text, params->stops, params->stop_lens, params->stop_count));
    TRY(sampler_create(&params->sampler, vocabulary, &request->sampler));
    for (int i = 0; i < params->count; i++) {
        sampler_accept_prompt(request->sampler, params->tokens[i]);
    }
    return ERR_OK;
}

enum err request_create(struct engine *engine, const struct engine_params *params, int vocabulary,
                        struct engine_request **out) {
    struct engine_request *request = calloc(1, sizeof *request);
    if (request == NULL) {
        return err_fail(ERR_NOMEM, "request");
    }
    request->engine = engine;
    atomic_init(&request->references, 1);
    atomic_init(&request->is_cancelled, 0);
    request->events = params->events;
    request->prompt_end = params->prompt_end;
    request->keeps_turn_end = params->keeps_turn_end;
    request->max_tokens = params->max_tokens;
    request->ignores_end = params->ignores_end;
    request->wants_logits_digest = params->wants_logits_digest;
    request->sequence.slot = -1;
    request->prompt_end_slot = -1;
    request->turn_end_slot = -1;
    request->spare_blocks[0] = -1;
    request->spare_blocks[1] = -1;
    crypto_hash_sha256_init(&request->digest);
    enum err code = fill(request, params, vocabulary);
    if (code != ERR_OK) {
        destroy(request);
        return code;
    }
    request->attach = params->attach;
    *out = request;
    return ERR_OK;
}

void request_release(struct engine_request *request) {
    if (atomic_fetch_sub(&request->references, 1) == 1) {
        destroy(request);
    }
}
