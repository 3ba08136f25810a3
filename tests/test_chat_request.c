#include "server/chat_request.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define USER "\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]"

static struct chat_request *parse(const char *json) {
    struct chat_request *request = NULL;
    struct api_error error;
    if (chat_request_parse(json, strlen(json), &request, &error) != ERR_OK) {
        fail_msg("%s: %s", json, error.message);
    }
    return request;
}

static void check_refusal(const char *json, size_t len, const char *param, const char *code) {
    struct chat_request *request = NULL;
    struct api_error error;
    assert_int_equal(chat_request_parse(json, len, &request, &error), ERR_INVALID);
    assert_null(request);
    assert_int_equal(error.status, 400);
    assert_string_equal(error.param, param);
    assert_string_equal(error.code, code);
    assert_true(error.message[0] != '\0');
}

static void test_chat_request_has_openais_defaults(void **state) {
    (void)state;
    struct chat_request *request = parse("{" USER "}");
    const struct turn_request *turn = &request->turn;
    assert_int_equal(turn->message_count, 1);
    assert_string_equal(turn->messages[0].role, "user");
    assert_int_equal(turn->messages[0].content_len, 2);
    assert_null(turn->conversation_id);
    assert_string_equal(turn->cache_salt, "");
    assert_int_equal(turn->expected_turn, -1);
    assert_int_equal(turn->max_tokens, 0);
    assert_true(turn->sampler.temperature == 1.0f && turn->sampler.top_p == 1.0f);
    assert_int_equal(turn->stop_count, 0);
    assert_false(request->is_stream || request->includes_usage || turn->requires_cache);
    assert_false(turn->waits_for_state || turn->ignores_end || turn->wants_logits_digest);
    chat_request_destroy(request);
}

static void test_chat_request_keeps_nul_in_content_only(void **state) {
    (void)state;
    struct chat_request *request = parse(
        "{\"messages\":[{\"role\":\"user\",\"content\":\"a\\u0000b\"}],\"stop\":\"\\u0000\"}");
    assert_int_equal(request->turn.messages[0].content_len, 3);
    assert_memory_equal(request->turn.messages[0].content, "a\0b", 3);
    assert_int_equal(request->turn.stop_lens[0], 1);
    chat_request_destroy(request);
    static const char id[] = "{" USER ",\"conversation_id\":\"a\\u0000b\"}";
    check_refusal(id, sizeof id - 1, "conversation_id", "invalid_value");
    static const char role[] = "{\"messages\":[{\"role\":\"a\\u0000\",\"content\":\"\"}]}";
    check_refusal(role, sizeof role - 1, "messages[0].role", "invalid_value");
}

static void test_chat_request_joins_text_parts(void **state) {
    (void)state;
    struct chat_request *request =
        parse("{\"messages\":[{\"role\":\"system\",\"content\":[]},{\"role\":\"user\",\"content\":"
              "[{\"type\":\"text\",\"text\":\"ab\"},{\"type\":\"text\",\"text\":\"\\u00fc\"}]}]}");
    assert_int_equal(request->turn.messages[0].content_len, 0);
    assert_int_equal(request->turn.messages[1].content_len, 4);
    assert_string_equal(request->turn.messages[1].content, "ab\xc3\xbc");
    chat_request_destroy(request);
}

static void test_chat_request_seed_is_taken_or_random(void **state) {
    (void)state;
    struct chat_request *first = parse("{" USER ",\"seed\":-3}");
    assert_int_equal(first->turn.sampler.seed, (uint64_t)-3);
    struct chat_request *second = parse("{" USER "}");
    struct chat_request *third = parse("{" USER "}");
    assert_true(second->turn.sampler.seed != third->turn.sampler.seed);
    chat_request_destroy(first);
    chat_request_destroy(second);
    chat_request_destroy(third);
}

static void test_chat_request_refuses_a_misspelt_conversation_field(void **state) {
    (void)state;
    static const char json[] = "{" USER ",\"conversation_idd\":\"x\"}";
    check_refusal(json, sizeof json - 1, "conversation_idd", "unknown_parameter");
    static const char empty[] = "{" USER ",\"conversation_\":null}";
    check_refusal(empty, sizeof empty - 1, "conversation_", "unknown_parameter");
    chat_request_destroy(parse("{" USER ",\"conversationid\":\"x\",\"other\":{\"a\":[1,2]}}"));
}

static void test_chat_request_bounds_values_and_depth(void **state) {
    (void)state;
    size_t count = CHAT_REQUEST_VALUES_MAX + 10;
    char *json = malloc(2 * count + 100);
    assert_non_null(json);
    size_t len = (size_t)sprintf(json, "{" USER ",\"x\":[");
    for (size_t i = 0; i < count; i++) {
        memcpy(json + len, "1,", 2);
        len += 2;
    }
    len += (size_t)sprintf(json + len, "1]}");
    check_refusal(json, len, "", "invalid_json");
    len = (size_t)sprintf(json, "{" USER ",\"x\":");
    memset(json + len, '[', CHAT_REQUEST_DEPTH_MAX);
    memset(json + len + CHAT_REQUEST_DEPTH_MAX, ']', CHAT_REQUEST_DEPTH_MAX);
    len += 2 * CHAT_REQUEST_DEPTH_MAX;
    json[len++] = '}';
    check_refusal(json, len, "", "invalid_json");
    /* Brackets inside strings are text. */
    len = (size_t)sprintf(json, "{" USER ",\"x\":\"\\\"");
    memset(json + len, '[', 1000);
    len += 1000;
    len += (size_t)sprintf(json + len, "\"}");
    json[len] = '\0';
    chat_request_destroy(parse(json));
    free(json);
}

static void test_chat_request_refuses_every_truncation(void **state) {
    (void)state;
    static const char json[] =
        "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"a\"}]}],"
        "\"stop\":[\"x\",\"y\"],\"logit_bias\":{\"1\":2},\"stream\":true,"
        "\"stream_options\":{\"include_usage\":true},\"conversation_id\":\"c\"}";
    for (size_t len = 0; len < sizeof json - 1; len++) {
        check_refusal(json, len, "", "invalid_json");
    }
    struct chat_request *request = parse(json);
    assert_true(request->is_stream && request->includes_usage);
    assert_int_equal(request->turn.stop_count, 2);
    assert_int_equal(request->turn.sampler.bias_count, 1);
    assert_int_equal(request->turn.sampler.biases[0].token, 1);
    chat_request_destroy(request);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_chat_request_has_openais_defaults),
        cmocka_unit_test(test_chat_request_keeps_nul_in_content_only),
        cmocka_unit_test(test_chat_request_joins_text_parts),
        cmocka_unit_test(test_chat_request_seed_is_taken_or_random),
        cmocka_unit_test(test_chat_request_refuses_a_misspelt_conversation_field),
        cmocka_unit_test(test_chat_request_bounds_values_and_depth),
        cmocka_unit_test(test_chat_request_refuses_every_truncation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
