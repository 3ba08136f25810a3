#include "tests/store_dir_fixture.h"

enum { WITH_STATE = 1, WITHOUT_STATE = 2 };

/* Two conversations with three turns and one, heads of the first one's turns 2 and 3. */
static void make_store(struct store_dir_fixture *fixture) {
    store_dir_fixture_init(fixture);
    for (uint32_t turn = 1; turn <= 3; turn++) {
        assert_int_equal(ledger_fixture_append(&fixture->ledger, WITH_STATE, turn), ERR_OK);
    }
    assert_int_equal(ledger_fixture_append(&fixture->ledger, WITHOUT_STATE, 1), ERR_OK);
    store_dir_fixture_spill(fixture, WITH_STATE, 2, 1);
    store_dir_fixture_spill(fixture, WITH_STATE, 3, 1);
}

static json_int_t number(const json_t *object, const char *key) {
    const json_t *value = json_object_get(object, key);
    if (!json_is_integer(value)) {
        fail_msg("no number '%s'", key);
    }
    return json_integer_value(value);
}

static const char *text(const json_t *object, const char *key) {
    const char *value = json_string_value(json_object_get(object, key));
    if (value == NULL) {
        fail_msg("no text '%s'", key);
    }
    return value;
}

/* The rows of a section: COUNT of them. */
static json_t *rows(const json_t *root, const char *section, size_t count) {
    json_t *array = json_object_get(root, section);
    assert_true(json_is_array(array));
    assert_int_equal(json_array_size(array), count);
    return array;
}

/* --- overview ------------------------------------------------------------------------------ */

static void check_overview(const struct store_dir_fixture *fixture) {
    json_t *root = store_dir_fixture_json(fixture, "inspect --json");
    const json_t *list = rows(root, "conversations", 2);
    for (size_t i = 0; i < 2; i++) {
        const json_t *row = json_array_get(list, i);
        int name = strcmp(text(row, "id"), "conversation-1") == 0 ? 1 : 2;
        uint32_t turns = name == 1 ? 3 : 1;
        assert_int_equal(number(row, "turns"), turns);
        assert_int_equal(number(row, "tokens"), ledger_fixture_length(name, turns));
        assert_string_equal(text(row, "tenant"), "acme");
        assert_string_equal(text(row, "salt"), "");
        assert_true(number(row, "created_ms") > 1600000000000);
        assert_true(number(row, "last_turn_ms") >= number(row, "created_ms"));
    }
    const json_t *ledger = json_object_get(root, "ledger");
    assert_int_equal(number(ledger, "conversations"), 2);
    assert_true(number(ledger, "used_bytes") > 4096);
    const json_t *state = json_object_get(root, "state");
    assert_int_equal(number(state, "heads"), 2);
    assert_int_equal(number(state, "lineages"), 1);
    assert_true(number(state, "used_bytes") > (json_int_t)fixture->layout.slot_bytes);
    json_decref(root);
}

static void test_inspect_lists_conversations_beside_a_writer(void **state) {
    (void)state;
    struct store_dir_fixture fixture;
    make_store(&fixture);
    check_overview(&fixture);
    /* The writer goes on: neither environment was left locked. */
    assert_int_equal(ledger_fixture_append(&fixture.ledger, WITHOUT_STATE, 2), ERR_OK);
    store_dir_fixture_spill(&fixture, WITHOUT_STATE, 2, 2);
    store_dir_fixture_done(&fixture);
}

static void test_inspect_lists_conversations_without_a_server(void **state) {
    (void)state;
    struct store_dir_fixture fixture;
    make_store(&fixture);
    store_dir_fixture_close(&fixture);
    check_overview(&fixture);
    store_dir_fixture_done(&fixture);
}

/* --- turns --------------------------------------------------------------------------------- */

static size_t append_ids(const json_t *row, const char *key, int32_t *ids, size_t count) {
    size_t i;
    json_t *id;
    json_array_foreach(json_object_get(row, key), i, id) {
        ids[count++] = (int32_t)json_integer_value(id);
    }
    return count;
}

/* What the listed turns joined amount to, against the ledger's line without what lies behind the
 * last answer. */
static void check_joined(const struct store_dir_fixture *fixture, const json_t *list, int name,
                         uint32_t turn, size_t closing) {
    int32_t joined[4096];
    int32_t *line;
    size_t line_count;
    size_t count = 0;
    size_t i;
    json_t *row;
    struct conversation_key key = ledger_fixture_key(&fixture->ledger, name);
    uint64_t serial = ledger_fixture_serial((struct ledger_fixture *)&fixture->ledger, name);
    json_array_foreach(list, i, row) {
        assert_int_equal(json_object_size(row), 4);
        count = append_ids(row, "prompt_ids", joined, count);
        count = append_ids(row, "generated_ids", joined, count);
    }
    assert_int_equal(
        ledger_ids_read(fixture->ledger.ledger, &key, serial, turn, &line, &line_count), ERR_OK);
    assert_int_equal(count, line_count - closing);
    assert_memory_equal(joined, line, count * sizeof *line);
    free(line);
}

static void test_inspect_turns_join_to_the_line(void **state) {
    (void)state;
    struct store_dir_fixture fixture;
    make_store(&fixture);
    json_t *root = store_dir_fixture_json(
        &fixture, "inspect --conversation conversation-1 --tenant acme --salt '' --turns --json");
    assert_int_equal(json_object_size(root), 1);
    const json_t *list = rows(root, "turns", 3);
    check_joined(&fixture, list, 1, 3, 2);
    for (uint32_t turn = 1; turn <= 3; turn++) {
        const json_t *row = json_array_get(list, turn - 1);
        size_t closing = turn > 1 ? 2 : 0; /* of the turn before */
        assert_int_equal(number(row, "turn"), turn);
        assert_int_equal(json_array_size(json_object_get(row, "prompt_ids")),
                         ledger_fixture_prompt_count(1, turn) + closing);
        assert_int_equal(json_array_size(json_object_get(row, "generated_ids")), 16);
    }
    json_decref(root);
    store_dir_fixture_done(&fixture);
}

static void test_inspect_turns_hold_the_messages(void **state) {
    (void)state;
    static const char messages[] = "[{\"role\":\"user\",\"content\":\"a\\u0000b \\u001b[2J\"},"
                                   "{\"role\":\"assistant\",\"content\":\"fine\\nthanks\"}]";
    struct store_dir_fixture fixture;
    struct ledger_fixture_turn made;
    struct ledger_appended appended;
    make_store(&fixture);
    ledger_fixture_turn_init(&made, &fixture.ledger, WITHOUT_STATE, 2, 0);
    made.turn.messages = (const uint8_t *)messages;
    made.turn.messages_bytes = strlen(messages);
    assert_int_equal(ledger_fixture_append_made(&fixture.ledger, &made, &appended), ERR_OK);
    json_t *root = store_dir_fixture_json(
        &fixture, "inspect --conversation conversation-2 --tenant acme --turns --json");
    const json_t *said = json_object_get(json_array_get(rows(root, "turns", 2), 1), "messages");
    assert_int_equal(json_array_size(said), 2);
    const json_t *content = json_object_get(json_array_get(said, 0), "content");
    assert_int_equal(json_string_length(content), 8);
    assert_memory_equal(json_string_value(content), "a\0b \x1b[2J", 8);
    json_decref(root);
    /* On a terminal, a client's text must not control it. */
    struct store_dir_fixture_ran ran = store_dir_fixture_run(
        &fixture, "inspect --conversation conversation-2 --tenant acme --turns");
    assert_int_equal(ran.code, 0);
    assert_non_null(strstr(ran.out, "user: a\\x00b \\x1b[2J\n"));
    assert_non_null(strstr(ran.out, "assistant: fine\n      thanks\n"));
    assert_null(strchr(ran.out, '\x1b'));
    free(ran.out);
    free(ran.error);
    store_dir_fixture_done(&fixture);
}

/* Turn 4 replaces the line from inside turn 3's answer on, turn 5 from inside turn 2's prompt. */
static void test_inspect_turns_leave_out_what_was_replaced(void **state) {
    (void)state;
    struct store_dir_fixture fixture;
    struct ledger_fixture_turn made;
    struct ledger_appended appended;
    make_store(&fixture);
    const char *command = "inspect --conversation conversation-1 --tenant acme --turns --json";
    ledger_fixture_turn_init(&made, &fixture.ledger, 1, 4, 0);
    uint64_t kept = ledger_fixture_prompt_count(1, 3) + 5;
    made.turn.base_tokens = ledger_fixture_length(1, 2) + kept;
    made.turn.prompt_end_tokens = 0;
    made.turn.parent_turn = 2;
    assert_int_equal(ledger_fixture_append_made(&fixture.ledger, &made, &appended), ERR_OK);
    json_t *root = store_dir_fixture_json(&fixture, command);
    const json_t *list = rows(root, "turns", 4);
    check_joined(&fixture, list, 1, 4, 2);
    const json_t *cut = json_array_get(list, 2);
    assert_int_equal(json_array_size(json_object_get(cut, "generated_ids")), 5);
    json_decref(root);

    ledger_fixture_turn_init(&made, &fixture.ledger, 1, 5, 0);
    made.turn.base_tokens = ledger_fixture_length(1, 1) + 4;
    made.turn.prompt_end_tokens = 0;
    made.turn.parent_turn = 1;
    assert_int_equal(ledger_fixture_append_made(&fixture.ledger, &made, &appended), ERR_OK);
    root = store_dir_fixture_json(&fixture, command);
    list = rows(root, "turns", 3);
    check_joined(&fixture, list, 1, 5, 2);
    assert_int_equal(number(json_array_get(list, 1), "turn"), 2);
    assert_int_equal(number(json_array_get(list, 2), "turn"), 5);
    assert_int_equal(json_array_size(json_object_get(json_array_get(list, 1), "generated_ids")), 0);
    json_decref(root);
    store_dir_fixture_done(&fixture);
}

/* --- state --------------------------------------------------------------------------------- */

static void test_inspect_heads_say_what_is_on_disk(void **state) {
    (void)state;
    struct store_dir_fixture fixture;
    make_store(&fixture);
    json_t *all = store_dir_fixture_json(&fixture, "inspect --heads --json");
    json_t *of_one = store_dir_fixture_json(
        &fixture, "inspect --heads --conversation conversation-1 --tenant acme --json");
    assert_true(json_equal(all, of_one));
    const json_t *row = json_array_get(rows(all, "heads", 2), 1);
    uint64_t length = ledger_fixture_length(1, 3) - 3;
    uint64_t objects = length / 32 + (length % 32 != 0) + 1;
    assert_int_equal(number(row, "turn"), 3);
    assert_int_equal(number(row, "length"), length);
    assert_int_equal(number(row, "blocks"), length / 32);
    assert_string_equal(text(row, "conversation"), "conversation-1");
    assert_string_equal(text(row, "kind"), "turn-end");
    assert_string_equal(text(row, "tier"), "disk");
    assert_string_equal(text(row, "numerics_class"), "host-1");
    assert_int_equal(strlen(text(row, "state_digest")), 64);
    assert_int_equal(strncmp(text(row, "state_digest"), "5a5a", 4), 0);
    assert_true(json_is_true(json_object_get(row, "is_complete")));
    assert_int_equal(number(row, "objects"), objects);
    assert_int_equal(number(row, "raw_bytes"),
                     (objects - 1) * fixture.layout.block_bytes + fixture.layout.slot_bytes);
    assert_true(number(row, "coded_bytes") < number(row, "stored_bytes"));
    json_decref(all);
    json_decref(of_one);
    all = store_dir_fixture_json(
        &fixture, "inspect --heads --conversation conversation-2 --tenant acme --json");
    rows(all, "heads", 0);
    json_decref(all);
    store_dir_fixture_done(&fixture);
}

static uint64_t head_length(int name, uint32_t turn) {
    return ledger_fixture_length(name, turn) - 3;
}

/* A tail, where the length leaves one, and a terminal state. */
static uint64_t own_objects(int name, uint32_t turn) {
    return (head_length(name, turn) % 32 != 0) + 1;
}

static void test_inspect_objects_are_those_of_the_heads(void **state) {
    (void)state;
    struct store_dir_fixture fixture;
    make_store(&fixture);
    assert_int_equal(ledger_fixture_append(&fixture.ledger, WITHOUT_STATE, 2), ERR_OK);
    store_dir_fixture_spill(&fixture, WITHOUT_STATE, 2, 2);
    uint64_t long_blocks = head_length(WITH_STATE, 3) / 32;
    uint64_t of_long = long_blocks + own_objects(WITH_STATE, 2) + own_objects(WITH_STATE, 3);
    uint64_t of_short = head_length(WITHOUT_STATE, 2) / 32 + own_objects(WITHOUT_STATE, 2);
    json_t *root = store_dir_fixture_json(
        &fixture, "inspect --objects --conversation conversation-1 --tenant acme --json");
    const json_t *list = rows(root, "objects", of_long);
    uint64_t blocks = 0;
    size_t i;
    json_t *row;
    json_array_foreach(list, i, row) {
        int is_block = strcmp(text(row, "part"), "block") == 0;
        int is_state = strcmp(text(row, "part"), "state") == 0;
        blocks += (uint64_t)is_block;
        assert_int_equal(number(row, "lineage"), 1);
        assert_int_equal(number(row, "raw_bytes"),
                         is_state ? fixture.layout.slot_bytes : fixture.layout.block_bytes);
        assert_string_equal(text(row, "element"), is_state ? "f32" : "f16");
        assert_string_equal(text(row, "verdict"), "sound");
        assert_true(number(row, "runs") >= 1);
        assert_true(number(row, "stored_bytes") >= number(row, "coded_bytes"));
    }
    assert_int_equal(blocks, long_blocks);
    json_decref(root);
    root = store_dir_fixture_json(&fixture, "inspect --objects --json");
    rows(root, "objects", of_long + of_short);
    json_decref(root);
    root = store_dir_fixture_json(&fixture, "inspect --objects --heads --limit 2 --json");
    rows(root, "objects", 2);
    rows(root, "heads", 2);
    json_decref(root);
    store_dir_fixture_done(&fixture);
}

/* --- refusals ------------------------------------------------------------------------------ */

static void test_inspect_refuses_what_is_not_there(void **state) {
    (void)state;
    struct store_dir_fixture fixture;
    make_store(&fixture);
    store_dir_fixture_refused(&fixture, "inspect --conversation nobody --turns --json", 1,
                              "no conversation 'nobody'");
    store_dir_fixture_refused(&fixture, "inspect --conversation conversation-1 --turns --json", 1,
                              "no conversation 'conversation-1'"); /* of another tenant */
    store_dir_fixture_refused(&fixture,
                              "inspect --conversation conversation-1 --tenant acme --salt x --json",
                              1, "the salt 'x'");
    store_dir_fixture_refused(&fixture, "inspect --turns", 2, "--conversation");
    store_dir_fixture_done(&fixture);
}

static void test_inspect_works_without_state(void **state) {
    (void)state;
    struct store_dir_fixture fixture;
    char path[128];
    make_store(&fixture);
    store_dir_fixture_close(&fixture);
    snprintf(path, sizeof path, "%s/state", fixture.ledger.store);
    ledger_fixture_remove(path);
    json_t *root = store_dir_fixture_json(&fixture, "inspect --heads --objects --json");
    rows(root, "heads", 0);
    rows(root, "objects", 0);
    json_decref(root);
    root = store_dir_fixture_json(&fixture, "inspect --json");
    rows(root, "conversations", 2);
    json_decref(root);
    snprintf(path, sizeof path, "%s/ledger", fixture.ledger.store);
    ledger_fixture_remove(path);
    store_dir_fixture_refused(&fixture, "inspect", 1, "is no store");
    store_dir_fixture_done(&fixture);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_inspect_lists_conversations_beside_a_writer),
        cmocka_unit_test(test_inspect_lists_conversations_without_a_server),
        cmocka_unit_test(test_inspect_turns_join_to_the_line),
        cmocka_unit_test(test_inspect_turns_hold_the_messages),
        cmocka_unit_test(test_inspect_turns_leave_out_what_was_replaced),
        cmocka_unit_test(test_inspect_heads_say_what_is_on_disk),
        cmocka_unit_test(test_inspect_objects_are_those_of_the_heads),
        cmocka_unit_test(test_inspect_refuses_what_is_not_there),
        cmocka_unit_test(test_inspect_works_without_state),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
