/* Any bytes as the body of a chat completion: a request that holds together, or a refusal. */
#include "server/chat_request.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static void check(int is_true) {
    if (!is_true) {
        abort();
    }
}

static void check_request(const struct chat_request *request) {
    const struct turn_request *turn = &request->turn;
    check(turn->message_count > 0 && turn->message_count <= CHAT_REQUEST_MESSAGES_MAX);
    for (size_t i = 0; i < turn->message_count; i++) {
        check(turn->messages[i].role[0] != '\0');
        check(turn->messages[i].content[turn->messages[i].content_len] == '\0');
    }
    check(turn->stop_count <= TURN_STOPS_MAX);
    for (size_t i = 0; i < turn->stop_count; i++) {
        check(turn->stop_lens[i] > 0 && turn->stops[i][turn->stop_lens[i]] == '\0');
    }
    check(turn->conversation_id != NULL || (turn->expected_turn < 0 && !turn->requires_cache));
    check(strlen(turn->cache_salt) <= CHAT_REQUEST_NAME_MAX);
    check(sampler_params_check(&turn->sampler, INT32_MAX) == ERR_OK);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    char *copy = malloc(bytes > 0 ? bytes : 1);
    if (copy == NULL) {
        return 0;
    }
    memcpy(copy, data, bytes);
    struct chat_request *request = NULL;
    struct api_error error;
    struct buf body;
    buf_init(&body, 1 << 20);
    if (chat_request_parse(copy, bytes, &request, &error) == ERR_OK) {
        check_request(request);
    } else {
        check(error.status >= 400 && error.message[0] != '\0');
        check(api_error_body(&error, &body) == ERR_OK);
    }
    buf_done(&body);
    chat_request_destroy(request);
    free(copy);
    return 0;
}
