#include "server/chat_request.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <limits.h>
#include <sodium.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct owned {
    struct chat_request request; /* first */
    json_t *document;
    struct turn_message *messages;
    char **joined; /* contents that were given in parts; one entry per message */
    const char **stops;
    size_t *stop_lens;
    struct sampler_bias *biases;
};

struct reading {
    struct owned *owned;
    struct turn_request *turn;
    struct api_error *error;
    int has_seed;
    int has_stream_options;
    int max_completion_tokens; /* 0: not said */
};

struct field {
    const char *name;
    enum err (*read)(struct reading *reading, const char *name, const json_t *value);
};

/* --- refusals --------------------------------------------------------------------------- */

static enum err refuse(struct reading *reading, const char *code, const char *param,
                       const char *format, ...) PRINTF_LIKE(4, 5);

static enum err refuse(struct reading *reading, const char *code, const char *param,
                       const char *format, ...) {
    char message[384];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);
    api_error_set(reading->error, 400, code, param, "%s", message);
    return err_fail(ERR_INVALID, "%s", message);
}

static const char *type_name(const json_t *value) {
    switch (json_typeof(value)) {
    case JSON_OBJECT:
        return "an object";
    case JSON_ARRAY:
        return "an array";
    case JSON_STRING:
        return "a string";
    case JSON_INTEGER:
        return "an integer";
    case JSON_REAL:
        return "a number with a fraction";
    case JSON_TRUE:
    case JSON_FALSE:
        return "a boolean";
    case JSON_NULL:
        break;
    }
    return "null";
}

static enum err refuse_type(struct reading *reading, const char *name, const char *expected,
                            const json_t *value) {
    return refuse(reading, "invalid_type", name, "Invalid type for '%s': expected %s, but got %s.",
                  name, expected, type_name(value));
}

static enum err refuse_unsupported(struct reading *reading, const char *name) {
    return refuse(reading, "unsupported_parameter", name,
                  "Unsupported parameter: '%s' is not supported by this server.", name);
}

static enum err no_memory(struct reading *reading) {
    api_error_set(reading->error, 503, NULL, NULL, "The server is out of memory.");
    return err_fail(ERR_NOMEM, "chat request");
}

/* --- values of one kind ------------------------------------------------------------------- */

static enum err get_boolean(struct reading *reading, const char *name, const json_t *value,
                            int *out) {
    if (!json_is_boolean(value)) {
        return refuse_type(reading, name, "a boolean", value);
    }
    *out = json_is_true(value);
    return ERR_OK;
}

static enum err get_integer(struct reading *reading, const char *name, const json_t *value,
                            int64_t min, int64_t max, int64_t *out) {
    if (!json_is_integer(value)) {
        return refuse_type(reading, name, "an integer", value);
    }
    int64_t number = json_integer_value(value);
    if (number < min || number > max) {
        return refuse(reading, "invalid_value", name,
                      "Invalid value for '%s': expected %" PRId64 " to %" PRId64
                      ", but got %" PRId64 ".",
                      name, min, max, number);
    }
    *out = number;
    return ERR_OK;
}

static enum err get_number(struct reading *reading, const char *name, const json_t *value,
                           double min, double max, float *out) {
    if (!json_is_number(value)) {
        return refuse_type(reading, name, "a number", value);
    }
    double number = json_number_value(value);
    if (!(number >= min && number <= max)) {
        return refuse(reading, "invalid_value", name,
                      "Invalid value for '%s': expected %g to %g, but got %g.", name, min, max,
                      number);
    }
    *out = (float)number;
    return ERR_OK;
}

enum err chat_request_check_name(const char *name, size_t len, const char *param,
                                 struct api_error *error) {
    if (len > CHAT_REQUEST_NAME_MAX || memchr(name, '\0', len) != NULL) {
        api_error_set(error, 400, "invalid_value", param,
                      "Invalid value for '%s': expected at most %d bytes without NUL.", param,
                      CHAT_REQUEST_NAME_MAX);
        return err_fail(ERR_INVALID, "%s", error->message);
    }
    return ERR_OK;
}

static enum err get_name(struct reading *reading, const char *name, const json_t *value,
                         const char **out) {
    if (!json_is_string(value)) {
        return refuse_type(reading, name, "a string", value);
    }
    TRY(chat_request_check_name(json_string_value(value), json_string_length(value), name,
                                reading->error));
    *out = json_string_value(value);
    return ERR_OK;
}

/* --- fields of the sampler ------------------------------------------------------------------ */

static enum err read_temperature(struct reading *reading, const char *name, const json_t *value) {
    return get_number(reading, name, value, 0, 2, &reading->turn->sampler.temperature);
}

static enum err read_top_p(struct reading *reading, const char *name, const json_t *value) {
    return get_number(reading, name, value, 0, 1, &reading->turn->sampler.top_p);
}

static enum err read_min_p(struct reading *reading, const char *name, const json_t *value) {
    return get_number(reading, name, value, 0, 1, &reading->turn->sampler.min_p);
}

/* Others write -1 for "off". */
static enum err read_top_k(struct reading *reading, const char *name, const json_t *value) {
    int64_t number = 0;
    TRY(get_integer(reading, name, value, -1, INT_MAX, &number));
    reading->turn->sampler.top_k = number < 0 ? 0 : (int)number;
    return ERR_OK;
}

static enum err read_presence_penalty(struct reading *reading, const char *name,
                                      const json_t *value) {
    return get_number(reading, name, value, -2, 2, &reading->turn->sampler.presence_penalty);
}

static enum err read_frequency_penalty(struct reading *reading, const char *name,
                                       const json_t *value) {
    return get_number(reading, name, value, -2, 2, &reading->turn->sampler.frequency_penalty);
}

static enum err read_repetition_penalty(struct reading *reading, const char *name,
                                        const json_t *value) {
    return get_number(reading, name, value, 0.01, 100, &reading->turn->sampler.repetition_penalty);
}

static enum err read_seed(struct reading *reading, const char *name, const json_t *value) {
    int64_t seed = 0;
    TRY(get_integer(reading, name, value, INT64_MIN, INT64_MAX, &seed));
    reading->turn->sampler.seed = (uint64_t)seed;
    reading->has_seed = 1;
    return ERR_OK;
}

/* A token id as JSON keys have it: decimal digits. */
static int parse_token(const char *key, int32_t *out) {
    char *end;
    errno = 0;
    long number = strtol(key, &end, 10);
    if (key[0] < '0' || key[0] > '9' || *end != '\0' || errno != 0 || number > INT32_MAX) {
        return 0;
    }
    *out = (int32_t)number;
    return 1;
}

static enum err read_logit_bias(struct reading *reading, const char *name, const json_t *value) {
    if (!json_is_object(value)) {
        return refuse_type(reading, name, "an object", value);
    }
    size_t count = json_object_size(value);
    if (count > CHAT_REQUEST_BIASES_MAX) {
        return refuse(reading, "invalid_value", name,
                      "Invalid value for '%s': expected at most %d tokens, but got %zu.", name,
                      CHAT_REQUEST_BIASES_MAX, count);
    }
    struct sampler_bias *biases = calloc(count + 1, sizeof *biases);
    if (biases == NULL) {
        return no_memory(reading);
    }
    reading->owned->biases = biases;
    size_t used = 0;
    for (void *at = json_object_iter((json_t *)(uintptr_t)value); at != NULL;
         at = json_object_iter_next((json_t *)(uintptr_t)value, at)) {
        if (!parse_token(json_object_iter_key(at), &biases[used].token)) {
            return refuse(reading, "invalid_value", name,
                          "Invalid key in '%s': expected token ids, but got '%.40s'.", name,
                          json_object_iter_key(at));
        }
        TRY(get_number(reading, name, json_object_iter_value(at), -100, 100, &biases[used].bias));
        used++;
    }
    reading->turn->sampler.biases = biases;
    reading->turn->sampler.bias_count = used;
    return ERR_OK;
}

/* --- fields of the answer --------------------------------------------------------------------- */

static enum err read_max_tokens(struct reading *reading, const char *name, const json_t *value) {
    int64_t number = 0;
    TRY(get_integer(reading, name, value, 1, INT_MAX, &number));
    reading->turn->max_tokens = (int)number;
    return ERR_OK;
}

static enum err read_max_completion_tokens(struct reading *reading, const char *name,
                                           const json_t *value) {
    int64_t number = 0;
    TRY(get_integer(reading, name, value, 1, INT_MAX, &number));
    reading->max_completion_tokens = (int)number;
    return ERR_OK;
}

static enum err put_stop(struct reading *reading, const char *name, const json_t *value) {
    struct owned *owned = reading->owned;
    if (!json_is_string(value)) {
        return refuse_type(reading, name, "a string", value);
    }
    size_t len = json_string_length(value);
    if (len == 0 || len > CHAT_REQUEST_STOP_BYTES_MAX) {
        return refuse(reading, "invalid_value", name,
                      "Invalid value for '%s': expected 1 to %d bytes, but got %zu.", name,
                      CHAT_REQUEST_STOP_BYTES_MAX, len);
    }
    owned->stops[reading->turn->stop_count] = json_string_value(value);
    owned->stop_lens[reading->turn->stop_count] = len;
    reading->turn->stop_count++;
    return ERR_OK;
}

static enum err read_stop(struct reading *reading, const char *name, const json_t *value) {
    struct owned *owned = reading->owned;
    if (!json_is_string(value) && !json_is_array(value)) {
        return refuse_type(reading, name, "a string or an array of strings", value);
    }
    if (json_array_size(value) > TURN_STOPS_MAX) {
        return refuse(reading, "invalid_value", name,
                      "Invalid value for '%s': expected at most %d strings, but got %zu.", name,
                      TURN_STOPS_MAX, json_array_size(value));
    }
    owned->stops = calloc(TURN_STOPS_MAX, sizeof *owned->stops);
    owned->stop_lens = calloc(TURN_STOPS_MAX, sizeof *owned->stop_lens);
    if (owned->stops == NULL || owned->stop_lens == NULL) {
        return no_memory(reading);
    }
    reading->turn->stops = owned->stops;
    reading->turn->stop_lens = owned->stop_lens;
    if (json_is_string(value)) {
        return put_stop(reading, name, value);
    }
    for (size_t i = 0; i < json_array_size(value); i++) {
        char place[32];
        snprintf(place, sizeof place, "%s[%zu]", name, i);
        TRY(put_stop(reading, place, json_array_get(value, i)));
    }
    return ERR_OK;
}

static enum err read_stream(struct reading *reading, const char *name, const json_t *value) {
    return get_boolean(reading, name, value, &reading->owned->request.is_stream);
}

static enum err read_stream_options(struct reading *reading, const char *name,
                                    const json_t *value) {
    if (!json_is_object(value)) {
        return refuse_type(reading, name, "an object", value);
    }
    reading->has_stream_options = 1;
    const json_t *usage = json_object_get(value, "include_usage");
    if (usage == NULL || json_is_null(usage)) {
        return ERR_OK;
    }
    return get_boolean(reading, "stream_options.include_usage", usage,
                       &reading->owned->request.includes_usage);
}

static enum err read_ignore_eos(struct reading *reading, const char *name, const json_t *value) {
    return get_boolean(reading, name, value, &reading->turn->ignores_end);
}

static enum err read_logits_digest(struct reading *reading, const char *name, const json_t *value) {
    return get_boolean(reading, name, value, &reading->turn->wants_logits_digest);
}

/* --- fields of the conversation ------------------------------------------------------------- */

static enum err read_conversation_id(struct reading *reading, const char *name,
                                     const json_t *value) {
    TRY(get_name(reading, name, value, &reading->turn->conversation_id));
    if (reading->turn->conversation_id[0] == '\0') {
        return refuse(reading, "invalid_value", name,
                      "Invalid value for '%s': expected a string that is not empty.", name);
    }
    return ERR_OK;
}

static enum err read_cache_salt(struct reading *reading, const char *name, const json_t *value) {
    return get_name(reading, name, value, &reading->turn->cache_salt);
}

static enum err read_expected_turn(struct reading *reading, const char *name, const json_t *value) {
    return get_integer(reading, name, value, 0, INT64_MAX, &reading->turn->expected_turn);
}

static enum err read_require_cache(struct reading *reading, const char *name, const json_t *value) {
    return get_boolean(reading, name, value, &reading->turn->requires_cache);
}

static enum err read_durability(struct reading *reading, const char *name, const json_t *value) {
    if (!json_is_string(value)) {
        return refuse_type(reading, name, "a string", value);
    }
    const char *text = json_string_value(value);
    if (strcmp(text, "state") != 0 && strcmp(text, "ledger") != 0) {
        return refuse(reading, "invalid_value", name,
                      "Invalid value for '%s': expected 'ledger' or 'state', but got '%.40s'.",
                      name, text);
    }
    reading->turn->waits_for_state = strcmp(text, "state") == 0;
    return ERR_OK;
}

/* --- messages --------------------------------------------------------------------------------- */

/* The text of a part that is one; NULL: the refusal stands in the error. */
static const json_t *part_text(struct reading *reading, const char *place, const json_t *part,
                               enum err *code) {
    const json_t *type = json_object_get(part, "type");
    const json_t *text = json_object_get(part, "text");
    if (!json_is_object(part)) {
        *code = refuse_type(reading, place, "an object", part);
    } else if (!json_is_string(type)) {
        *code = refuse(reading, "missing_required_parameter", place,
                       "Missing required parameter: '%s.type'.", place);
    } else if (strcmp(json_string_value(type), "text") != 0) {
        *code = refuse(reading, "unsupported_value", place,
                       "Unsupported content part '%.40s' in '%s': only 'text' is supported.",
                       json_string_value(type), place);
    } else if (!json_is_string(text)) {
        *code = refuse(reading, "invalid_type", place,
                       "Invalid type for '%s.text': expected a string.", place);
    } else {
        return text;
    }
    return NULL;
}

/* Joins the text parts of message INDEX, with nothing between them. */
static enum err read_parts(struct reading *reading, const json_t *parts, size_t index) {
    size_t total = 0;
    for (size_t i = 0; i < json_array_size(parts); i++) {
        char place[64];
        enum err code = ERR_OK;
        snprintf(place, sizeof place, "messages[%zu].content[%zu]", index, i);
        const json_t *text = part_text(reading, place, json_array_get(parts, i), &code);
        if (text == NULL) {
            return code;
        }
        total += json_string_length(text);
    }
    char *joined = malloc(total + 1);
    if (joined == NULL) {
        return no_memory(reading);
    }
    reading->owned->joined[index] = joined;
    size_t used = 0;
    for (size_t i = 0; i < json_array_size(parts); i++) {
        const json_t *text = json_object_get(json_array_get(parts, i), "text");
        memcpy(joined + used, json_string_value(text), json_string_length(text));
        used += json_string_length(text);
    }
    joined[used] = '\0';
    reading->owned->messages[index].content = joined;
    reading->owned->messages[index].content_len = used;
    return ERR_OK;
}

static enum err read_role(struct reading *reading, const json_t *message, size_t index) {
    char place[48];
    snprintf(place, sizeof place, "messages[%zu].role", index);
    const json_t *role = json_object_get(message, "role");
    if (role == NULL) {
        return refuse(reading, "missing_required_parameter", place,
                      "Missing required parameter: '%s'.", place);
    }
    if (!json_is_string(role)) {
        return refuse_type(reading, place, "a string", role);
    }
    size_t len = json_string_length(role);
    if (len == 0 || len > 64 || strlen(json_string_value(role)) != len) {
        return refuse(reading, "invalid_value", place,
                      "Invalid value for '%s': expected 1 to 64 bytes without NUL.", place);
    }
    reading->owned->messages[index].role = json_string_value(role);
    return ERR_OK;
}

static enum err read_content(struct reading *reading, const json_t *message, size_t index) {
    char place[48];
    snprintf(place, sizeof place, "messages[%zu].content", index);
    const json_t *content = json_object_get(message, "content");
    if (content == NULL) {
        return refuse(reading, "missing_required_parameter", place,
                      "Missing required parameter: '%s'.", place);
    }
    if (json_is_array(content)) {
        return read_parts(reading, content, index);
    }
    if (!json_is_string(content)) {
        return refuse_type(reading, place, "a string or an array of text parts", content);
    }
    reading->owned->messages[index].content = json_string_value(content);
    reading->owned->messages[index].content_len = json_string_length(content);
    return ERR_OK;
}

static int is_nothing(const json_t *value) {
    return value == NULL || json_is_null(value) ||
           (json_is_array(value) && json_array_size(value) == 0) ||
           (json_is_object(value) && json_object_size(value) == 0);
}

static enum err read_message(struct reading *reading, const json_t *message, size_t index) {
    static const char *const unsupported[] = {"tool_calls", "function_call", "audio"};
    char place[48];
    snprintf(place, sizeof place, "messages[%zu]", index);
    if (!json_is_object(message)) {
        return refuse_type(reading, place, "an object", message);
    }
    for (size_t i = 0; i < ARRAY_LEN(unsupported); i++) {
        if (!is_nothing(json_object_get(message, unsupported[i]))) {
            snprintf(place, sizeof place, "messages[%zu].%s", index, unsupported[i]);
            return refuse_unsupported(reading, place);
        }
    }
    TRY(read_role(reading, message, index));
    return read_content(reading, message, index);
}

static enum err read_messages(struct reading *reading, const char *name, const json_t *value) {
    struct owned *owned = reading->owned;
    if (!json_is_array(value)) {
        return refuse_type(reading, name, "an array", value);
    }
    size_t count = json_array_size(value);
    if (count == 0 || count > CHAT_REQUEST_MESSAGES_MAX) {
        return refuse(reading, "invalid_value", name,
                      "Invalid value for '%s': expected 1 to %d messages, but got %zu.", name,
                      CHAT_REQUEST_MESSAGES_MAX, count);
    }
    owned->messages = calloc(count, sizeof *owned->messages);
    owned->joined = calloc(count, sizeof *owned->joined);
    if (owned->messages == NULL || owned->joined == NULL) {
        return no_memory(reading);
    }
    reading->turn->messages = owned->messages;
    reading->turn->message_count = count;
    for (size_t i = 0; i < count; i++) {
        TRY(read_message(reading, json_array_get(value, i), i));
    }
    return ERR_OK;
}

/* --- fields that are accepted where they ask for nothing ---------------------------------------
 */

static enum err accept_text(struct reading *reading, const char *name, const json_t *value) {
    return json_is_string(value) ? ERR_OK : refuse_type(reading, name, "a string", value);
}

static enum err accept_boolean(struct reading *reading, const char *name, const json_t *value) {
    int ignored;
    return get_boolean(reading, name, value, &ignored);
}

static enum err accept_false(struct reading *reading, const char *name, const json_t *value) {
    int is_wanted;
    TRY(get_boolean(reading, name, value, &is_wanted));
    return is_wanted ? refuse_unsupported(reading, name) : ERR_OK;
}

static enum err accept_one(struct reading *reading, const char *name, const json_t *value) {
    int64_t number = 0;
    TRY(get_integer(reading, name, value, 1, 128, &number));
    return number > 1 ? refuse_unsupported(reading, name) : ERR_OK;
}

static enum err accept_zero(struct reading *reading, const char *name, const json_t *value) {
    int64_t number = 0;
    TRY(get_integer(reading, name, value, 0, 20, &number));
    return number > 0 ? refuse_unsupported(reading, name) : ERR_OK;
}

static enum err accept_empty_array(struct reading *reading, const char *name, const json_t *value) {
    if (!json_is_array(value)) {
        return refuse_type(reading, name, "an array", value);
    }
    return json_array_size(value) > 0 ? refuse_unsupported(reading, name) : ERR_OK;
}

static enum err accept_empty_object(struct reading *reading, const char *name,
                                    const json_t *value) {
    if (!json_is_object(value)) {
        return refuse_type(reading, name, "an object", value);
    }
    return json_object_size(value) > 0 ? refuse_unsupported(reading, name) : ERR_OK;
}

/* Without tools "none" and "auto" are what happens anyway. */
static enum err accept_no_choice(struct reading *reading, const char *name, const json_t *value) {
    const char *text = json_string_value(value);
    int is_harmless = text != NULL && (strcmp(text, "none") == 0 || strcmp(text, "auto") == 0);
    return is_harmless ? ERR_OK : refuse_unsupported(reading, name);
}

static enum err accept_text_format(struct reading *reading, const char *name, const json_t *value) {
    if (!json_is_object(value)) {
        return refuse_type(reading, name, "an object", value);
    }
    const char *type = json_string_value(json_object_get(value, "type"));
    return type != NULL && strcmp(type, "text") == 0 ? ERR_OK : refuse_unsupported(reading, name);
}

static enum err accept_text_modality(struct reading *reading, const char *name,
                                     const json_t *value) {
    if (!json_is_array(value)) {
        return refuse_type(reading, name, "an array", value);
    }
    const char *first = json_string_value(json_array_get(value, 0));
    int is_text = json_array_size(value) == 1 && first != NULL && strcmp(first, "text") == 0;
    return is_text ? ERR_OK : refuse_unsupported(reading, name);
}

static enum err accept_nothing(struct reading *reading, const char *name, const json_t *value) {
    (void)value;
    return refuse_unsupported(reading, name);
}

/* --- the whole ----------------------------------------------------------------------------------
 */

static const struct field fields[] = {
    {"messages", read_messages},
    {"model", accept_text}, /* the loaded model answers, whatever its name */
    {"temperature", read_temperature},
    {"top_p", read_top_p},
    {"top_k", read_top_k},
    {"min_p", read_min_p},
    {"presence_penalty", read_presence_penalty},
    {"frequency_penalty", read_frequency_penalty},
    {"repetition_penalty", read_repetition_penalty},
    {"seed", read_seed},
    {"logit_bias", read_logit_bias},
    {"max_tokens", read_max_tokens},
    {"max_completion_tokens", read_max_completion_tokens},
    {"stop", read_stop},
    {"stream", read_stream},
    {"stream_options", read_stream_options},
    {"ignore_eos", read_ignore_eos},
    {"logits_digest", read_logits_digest},
    {"cache_salt", read_cache_salt},
    {"conversation_id", read_conversation_id},
    {"conversation_expected_turn", read_expected_turn},
    {"conversation_require_cache", read_require_cache},
    {"conversation_durability", read_durability},
    {"n", accept_one},
    {"logprobs", accept_false},
    {"top_logprobs", accept_zero},
    {"tools", accept_empty_array},
    {"functions", accept_empty_array},
    {"tool_choice", accept_no_choice},
    {"function_call", accept_no_choice},
    {"parallel_tool_calls", accept_boolean},
    {"response_format", accept_text_format},
    {"modalities", accept_text_modality},
    {"audio", accept_nothing},
    {"prediction", accept_nothing},
    {"web_search_options", accept_nothing},
    {"chat_template_kwargs", accept_empty_object},
    {"store", accept_boolean},
    {"conversation", accept_nothing},
    {"conversation_history", accept_nothing},
    {"conversation_resume", accept_nothing},
    {"conversation_at_turn", accept_nothing},
    {"conversation_on_abort", accept_nothing},
    {"conversation_ttl", accept_nothing},
    {"conversation_pin", accept_false},
};

static enum err read_field(struct reading *reading, const char *name, const json_t *value) {
    static const char prefix[] = "conversation_";
    for (size_t i = 0; i < ARRAY_LEN(fields); i++) {
        if (strcmp(fields[i].name, name) == 0) {
            return json_is_null(value) && fields[i].read != read_messages
                       ? ERR_OK
                       : fields[i].read(reading, name, value);
        }
    }
    if (strncmp(name, prefix, sizeof prefix - 1) == 0) {
        char shown[64];
        snprintf(shown, sizeof shown, "%s", name);
        return refuse(reading, "unknown_parameter", shown, "Unknown parameter: '%s'.", shown);
    }
    return ERR_OK;
}

/* What fields say about each other. */
static enum err check_together(struct reading *reading) {
    struct turn_request *turn = reading->turn;
    if (turn->messages == NULL) {
        return refuse(reading, "missing_required_parameter", "messages",
                      "Missing required parameter: 'messages'.");
    }
    if (turn->conversation_id == NULL && turn->expected_turn >= 0) {
        return refuse(reading, "missing_required_parameter", "conversation_id",
                      "'conversation_expected_turn' needs a 'conversation_id'.");
    }
    if (turn->conversation_id == NULL && turn->requires_cache) {
        return refuse(reading, "missing_required_parameter", "conversation_id",
                      "'conversation_require_cache' needs a 'conversation_id'.");
    }
    if (reading->has_stream_options && !reading->owned->request.is_stream) {
        return refuse(reading, "invalid_value", "stream_options",
                      "'stream_options' is only allowed when 'stream' is true.");
    }
    if (reading->max_completion_tokens > 0) {
        if (turn->max_tokens > 0 && turn->max_tokens != reading->max_completion_tokens) {
            return refuse(reading, "invalid_value", "max_tokens",
                          "'max_tokens' and 'max_completion_tokens' differ; give one of them.");
        }
        turn->max_tokens = reading->max_completion_tokens;
    }
    if (!reading->has_seed) {
        randombytes_buf(&turn->sampler.seed, sizeof turn->sampler.seed);
    }
    return ERR_OK;
}

/*
 * Counts values and depth before anything is built from them: a few bytes of JSON may cost hundreds
 * of memory. Bounds only; what is malformed is left to the parser.
 */
static enum err check_size(struct reading *reading, const char *json, size_t len) {
    size_t values = 1;
    int depth = 0;
    int is_inside = 0; /* a string */
    for (size_t i = 0; i < len; i++) {
        char byte = json[i];
        if (is_inside) {
            i += byte == '\\';
            is_inside = byte != '"';
            continue;
        }
        is_inside = byte == '"';
        if (byte == '{' || byte == '[') {
            depth++;
            values++;
        } else if (byte == '}' || byte == ']') {
            depth--;
        } else if (byte == ',') {
            values++;
        }
        if (values > CHAT_REQUEST_VALUES_MAX || depth > CHAT_REQUEST_DEPTH_MAX) {
            return refuse(reading, "invalid_json", NULL,
                          "The body holds too much: at most %d values, nested at most %d deep.",
                          CHAT_REQUEST_VALUES_MAX, CHAT_REQUEST_DEPTH_MAX);
        }
    }
    return ERR_OK;
}

static enum err read_document(struct reading *reading, const char *json, size_t len) {
    TRY(check_size(reading, json, len));
    json_error_t problem;
    json_t *document =
        json_loadb(json, len, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY | JSON_ALLOW_NUL, &problem);
    if (document == NULL) {
        if (json_error_code(&problem) == json_error_out_of_memory) {
            return no_memory(reading);
        }
        return refuse(reading, "invalid_json", NULL,
                      "The body is not valid JSON: %s (line %d, column %d).", problem.text,
                      problem.line, problem.column);
    }
    reading->owned->document = document;
    if (!json_is_object(document)) {
        return refuse(reading, "invalid_json", NULL, "The body is to be a JSON object, not %s.",
                      type_name(document));
    }
    for (void *at = json_object_iter(document); at != NULL;
         at = json_object_iter_next(document, at)) {
        TRY(read_field(reading, json_object_iter_key(at), json_object_iter_value(at)));
    }
    return check_together(reading);
}

enum err chat_request_parse(const char *json, size_t len, struct chat_request **out,
                            struct api_error *error) {
    struct owned *owned = calloc(1, sizeof *owned);
    struct reading reading = {.owned = owned, .error = error};
    if (owned == NULL) {
        return no_memory(&reading);
    }
    reading.turn = &owned->request.turn;
    *reading.turn = (struct turn_request){
        .tenant = "", .cache_salt = "", .expected_turn = -1, .sampler = sampler_params_default()};
    reading.turn->sampler.temperature = 1.0f; /* OpenAI's default */
    enum err code = read_document(&reading, json, len);
    if (code != ERR_OK) {
        chat_request_destroy(&owned->request);
        return code;
    }
    *out = &owned->request;
    return ERR_OK;
}

void chat_request_destroy(struct chat_request *request) {
    if (request == NULL) {
        return;
    }
    struct owned *owned = (struct owned *)request;
    for (size_t i = 0; owned->joined != NULL && i < request->turn.message_count; i++) {
        free(owned->joined[i]);
    }
    free(owned->joined);
    free(owned->messages);
    free(owned->stops);
    free(owned->stop_lens);
    free(owned->biases);
    json_decref(owned->document);
    free(owned);
}
