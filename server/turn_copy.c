/*
 * A turn's own copy of its request: the caller's memory is gone when turn_submit returns.
 */
#include "server/turn_state.h"

#include <stdlib.h>
#include <string.h>

/* Copies LEN bytes and a NUL into the turn's texts; *offset is where. */
static enum err copy_text(struct turn *turn, const char *text, size_t len, size_t *offset) {
    *offset = turn->texts.len;
    TRY(buf_append(&turn->texts, text, len));
    return buf_append(&turn->texts, "", 1);
}

/* Where each text went: the buffer moves while it grows. */
struct text_places {
    size_t tenant;
    size_t salt;
    size_t id;
    size_t *roles;
    size_t *contents;
    size_t stops[TURN_STOPS_MAX];
};

static enum err copy_texts(struct turn *turn, const struct turn_request *request,
                           struct text_places *places) {
    TRY(copy_text(turn, request->tenant, strlen(request->tenant), &places->tenant));
    TRY(copy_text(turn, request->cache_salt, strlen(request->cache_salt), &places->salt));
    if (request->conversation_id != NULL) {
        TRY(copy_text(turn, request->conversation_id, strlen(request->conversation_id),
                      &places->id));
    }
    for (size_t i = 0; i < request->message_count; i++) {
        const struct turn_message *message = &request->messages[i];
        TRY(copy_text(turn, message->role, strlen(message->role), &places->roles[i]));
        TRY(copy_text(turn, message->content, message->content_len, &places->contents[i]));
    }
    for (size_t i = 0; i < request->stop_count; i++) {
        TRY(copy_text(turn, request->stops[i], request->stop_lens[i], &places->stops[i]));
    }
    return ERR_OK;
}

/* Arrays of the copied request, in one allocation that `messages` heads. */
struct request_arrays {
    const char *stops[TURN_STOPS_MAX];
    size_t stop_lens[TURN_STOPS_MAX];
    struct sampler_bias *biases;
    struct turn_message messages[];
};

static struct request_arrays *arrays_of(struct turn *turn) {
    return (struct request_arrays *)(void *)((char *)(uintptr_t)turn->request.messages -
                                             offsetof(struct request_arrays, messages));
}

static enum err copy_arrays(struct turn *turn, const struct turn_request *request,
                            const struct text_places *places) {
    const char *texts = (const char *)turn->texts.data;
    struct request_arrays *arrays =
        calloc(1, sizeof *arrays + request->message_count * sizeof arrays->messages[0]);
    if (arrays == NULL) {
        return err_fail(ERR_NOMEM, "%zu messages", request->message_count);
    }
    turn->request.messages = arrays->messages;
    for (size_t i = 0; i < request->message_count; i++) {
        arrays->messages[i] = (struct turn_message){
            .role = texts + places->roles[i],
            .content = texts + places->contents[i],
            .content_len = request->messages[i].content_len,
        };
    }
    for (size_t i = 0; i < request->stop_count; i++) {
        arrays->stops[i] = texts + places->stops[i];
        arrays->stop_lens[i] = request->stop_lens[i];
    }
    turn->request.stops = arrays->stops;
    turn->request.stop_lens = arrays->stop_lens;
    if (request->sampler.bias_count > 0) {
        size_t bytes = request->sampler.bias_count * sizeof *arrays->biases;
        arrays->biases = malloc(bytes);
        if (arrays->biases == NULL) {
            return err_fail(ERR_NOMEM, "%zu biases", request->sampler.bias_count);
        }
        memcpy(arrays->biases, request->sampler.biases, bytes);
    }
    turn->request.sampler.biases = arrays->biases;
    turn->request.tenant = texts + places->tenant;
    turn->request.cache_salt = texts + places->salt;
    turn->request.conversation_id = request->conversation_id == NULL ? NULL : texts + places->id;
    return ERR_OK;
}

enum err turn_state_copy_request(struct turn *turn, const struct turn_request *request) {
    struct text_places places = {0};
    if (request->stop_count > TURN_STOPS_MAX) {
        return err_fail(ERR_INVALID, "%zu stop strings, at most %d", request->stop_count,
                        TURN_STOPS_MAX);
    }
    turn->request = *request;
    turn->request.messages = NULL;
    places.roles = calloc(2 * request->message_count + 1, sizeof *places.roles);
    if (places.roles == NULL) {
        return err_fail(ERR_NOMEM, "%zu messages", request->message_count);
    }
    places.contents = places.roles + request->message_count;
    enum err code = copy_texts(turn, request, &places);
    if (code == ERR_OK) {
        code = copy_arrays(turn, request, &places);
    }
    free(places.roles);
    return code;
}

void turn_state_free_request(struct turn *turn) {
    if (turn->request.messages != NULL) {
        free(arrays_of(turn)->biases);
        free(arrays_of(turn));
        turn->request.messages = NULL;
    }
}
