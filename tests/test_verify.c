#include "tests/store_dir_fixture.h"

#include "ledger/ledger_table.h"
#include "store/state_table.h"

/* Conversation 1 with three turns and heads of turns 2 and 3, conversation 2 with one turn. */
static void make_store(struct store_dir_fixture *fixture) {
    store_dir_fixture_init(fixture);
    for (uint32_t turn = 1; turn <= 3; turn++) {
        assert_int_equal(ledger_fixture_append(&fixture->ledger, 1, turn), ERR_OK);
    }
    assert_int_equal(ledger_fixture_append(&fixture->ledger, 2, 1), ERR_OK);
    store_dir_fixture_spill(fixture, 1, 2, 1);
    store_dir_fixture_spill(fixture, 1, 3, 1);
}

/* Runs `tern verify --json`; the caller drops the result. */
static json_t *verify(const struct store_dir_fixture *fixture, const char *options, int code) {
    char arguments[128];
    json_error_t error;
    snprintf(arguments, sizeof arguments, "verify --json %s", options);
    struct store_dir_fixture_ran ran = store_dir_fixture_run(fixture, arguments);
    json_t *root = json_loads(ran.out, 0, &error);
    if (ran.code != code || root == NULL) {
        fail_msg("tern %s: %d: %s%s", arguments, ran.code, ran.error, ran.out);
    }
    free(ran.out);
    free(ran.error);
    return root;
}

static const char *text(const json_t *row, const char *key) {
    const char *value = json_string_value(json_object_get(row, key));
    return value != NULL ? value : "(none)";
}

static json_int_t total(const json_t *root, const char *key) {
    return json_integer_value(json_object_get(json_object_get(root, "summary"), key));
}

/* The one finding. */
static void expect(const struct store_dir_fixture *fixture, const char *environment,
                   const char *record, const char *verdict, const char *conversation, int turn) {
    json_t *root = verify(fixture, "", 1);
    const json_t *findings = json_object_get(root, "findings");
    const json_t *row = json_array_get(findings, 0);
    assert_int_equal(json_array_size(findings), 1);
    assert_string_equal(text(row, "environment"), environment);
    assert_string_equal(text(row, "record"), record);
    assert_string_equal(text(row, "verdict"), verdict);
    assert_string_equal(text(row, "conversation"), conversation);
    assert_int_equal(json_integer_value(json_object_get(row, "turn")), turn);
    assert_int_equal(total(root, "findings"), 1);
    json_decref(root);
}

static void test_verify_counts_a_sound_store(void **state) {
    struct store_dir_fixture fixture;
    (void)state;
    make_store(&fixture);
    for (int is_open = 1; is_open >= 0; is_open--) {
        json_t *root = verify(&fixture, "", 0);
        assert_int_equal(json_array_size(json_object_get(root, "findings")), 0);
        assert_int_equal(total(root, "conversations"), 2);
        assert_int_equal(total(root, "turns"), 4);
        assert_int_equal(total(root, "heads"), 2);
        assert_int_equal(total(root, "lineages"), 1);
        assert_true(total(root, "state_bytes") > (json_int_t)fixture.layout.slot_bytes);
        json_decref(root);
        root = verify(&fixture, "--conversation conversation-2 --tenant acme", 0);
        assert_int_equal(total(root, "conversations"), 1);
        assert_int_equal(total(root, "heads"), 0);
        json_decref(root);
        if (is_open) {
            store_dir_fixture_close(&fixture);
        }
    }
    store_dir_fixture_done(&fixture);
}

static void change_head(struct store_dir_fixture *fixture, uint32_t turn,
                        void (*change)(struct record_head *head)) {
    struct state_txn *txn;
    struct conversation_key key = ledger_fixture_key(&fixture->ledger, 1);
    struct record_head_key name = {.kind = RECORD_TURN_END, .turn = turn};
    struct record_head head;
    state_key_make(&key, ledger_fixture_serial(&fixture->ledger, 1), name.conversation);
    memset(name.state_digest, 0x5a, sizeof name.state_digest);
    assert_int_equal(state_env_begin_write(tier_disk_env(fixture->tier), &txn), ERR_OK);
    assert_int_equal(state_table_get_head(txn, &name, &head), ERR_OK);
    assert_int_equal(state_table_remove_head(txn, &name), ERR_OK);
    change(&head);
    assert_int_equal(state_table_put_head(txn, &head), ERR_OK);
    assert_int_equal(state_env_commit(txn), ERR_OK);
}

static void change_chain(struct record_head *head) {
    head->chain_digest[3] ^= 1;
}

static void test_verify_compares_heads_with_the_ledger(void **state) {
    struct store_dir_fixture fixture;
    (void)state;
    make_store(&fixture);
    change_head(&fixture, 3, change_chain);
    expect(&fixture, "state", "head", "wrong-chain", "conversation-1", 3);
    store_dir_fixture_done(&fixture);
}

/* As with a back-up of the ledger that is older than the state. */
static void test_verify_names_heads_that_the_ledger_does_not_have(void **state) {
    struct store_dir_fixture fixture;
    char command[256];
    (void)state;
    make_store(&fixture);
    store_dir_fixture_close(&fixture);
    snprintf(command, sizeof command, "cp -r %s/ledger %s/older", fixture.ledger.store,
             fixture.ledger.store);
    assert_int_equal(system(command), 0);
    store_dir_fixture_open(&fixture);
    assert_int_equal(ledger_fixture_append(&fixture.ledger, 1, 4), ERR_OK);
    assert_int_equal(ledger_fixture_append(&fixture.ledger, 5, 1), ERR_OK);
    store_dir_fixture_spill(&fixture, 1, 4, 1);
    store_dir_fixture_spill(&fixture, 5, 1, 2);
    store_dir_fixture_close(&fixture);
    ledger_fixture_remove(fixture.ledger.directory);
    snprintf(command, sizeof command, "mv %s/older %s/ledger", fixture.ledger.store,
             fixture.ledger.store);
    assert_int_equal(system(command), 0);
    json_t *root = verify(&fixture, "", 1);
    const json_t *findings = json_object_get(root, "findings");
    size_t unknown = 0;
    size_t orphans = 0;
    size_t i;
    const json_t *row;
    assert_int_equal(json_array_size(findings), 2);
    json_array_foreach(findings, i, row) {
        unknown += strcmp(text(row, "verdict"), "unknown-turn") == 0 &&
                   strcmp(text(row, "conversation"), "conversation-1") == 0;
        orphans +=
            strcmp(text(row, "verdict"), "orphan") == 0 && strcmp(text(row, "record"), "head") == 0;
    }
    assert_int_equal(unknown, 1);
    assert_int_equal(orphans, 1);
    json_decref(root);
    store_dir_fixture_done(&fixture);
}

static void test_verify_names_the_conversation_of_a_damaged_turn(void **state) {
    struct store_dir_fixture fixture;
    uint8_t key[16] = {0};
    uint8_t value[LEDGER_TABLE_PART_BYTES];
    struct ledger_db_bytes found;
    struct ledger_db_txn txn = {0};
    (void)state;
    make_store(&fixture);
    struct ledger_db *db = ledger_environment(fixture.ledger.ledger);
    key[7] = (uint8_t)ledger_fixture_serial(&fixture.ledger, 1);
    key[11] = 2;
    assert_int_equal(ledger_db_begin(db, 1, &txn), ERR_OK);
    assert_int_equal(ledger_db_get(&txn, LEDGER_DB_TURN, key, sizeof key, &found), ERR_OK);
    size_t len = found.len;
    memcpy(value, found.data, len);
    value[300] ^= 2;
    assert_int_equal(ledger_db_put(&txn, LEDGER_DB_TURN, key, sizeof key, value, len), ERR_OK);
    assert_int_equal(ledger_db_commit(&txn), ERR_OK);
    expect(&fixture, "ledger", "turn", "damaged", "conversation-1", 2);
    json_decref(verify(&fixture, "--conversation conversation-1 --tenant acme", 1));
    json_decref(verify(&fixture, "--conversation conversation-2 --tenant acme", 0));
    struct store_dir_fixture_ran ran = store_dir_fixture_run(&fixture, "verify");
    assert_int_equal(ran.code, 1);
    assert_non_null(strstr(ran.out, "conversation-1"));
    assert_non_null(strstr(ran.out, "damaged"));
    free(ran.out);
    free(ran.error);
    store_dir_fixture_done(&fixture);
}

static void test_verify_refuses_what_cannot_be_opened(void **state) {
    struct store_dir_fixture fixture;
    char path[128];
    (void)state;
    make_store(&fixture);
    store_dir_fixture_refused(&fixture, "verify --salt x", 2, "--conversation");
    store_dir_fixture_refused(&fixture, "verify --colour", 2, "colour");
    store_dir_fixture_close(&fixture);
    snprintf(path, sizeof path, "%s/state", fixture.ledger.store);
    ledger_fixture_remove(path); /* a cache: its absence is no finding */
    json_decref(verify(&fixture, "", 0));
    snprintf(path, sizeof path, "%s/ledger/data.mdb", fixture.ledger.store);
    assert_int_equal(truncate(path, 3 * 4096), 0);
    struct store_dir_fixture_ran ran = store_dir_fixture_run(&fixture, "verify");
    assert_int_equal(ran.code, 1);
    assert_non_null(strstr(ran.error, "tern verify: "));
    free(ran.out);
    free(ran.error);
    snprintf(path, sizeof path, "%s/ledger", fixture.ledger.store);
    ledger_fixture_remove(path);
    store_dir_fixture_refused(&fixture, "verify", 1, "is no store");
    store_dir_fixture_done(&fixture);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_verify_counts_a_sound_store),
        cmocka_unit_test(test_verify_compares_heads_with_the_ledger),
        cmocka_unit_test(test_verify_names_heads_that_the_ledger_does_not_have),
        cmocka_unit_test(test_verify_names_the_conversation_of_a_damaged_turn),
        cmocka_unit_test(test_verify_refuses_what_cannot_be_opened),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
