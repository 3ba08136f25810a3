/* The ledger at its limits: full maps, booked room, long turns, a cap that was lowered. */
#include "tests/ledger_fixture.h"

static void test_ledger_room_full_refuses_turns_and_still_deletes(void **state) {
    (void)state;
    struct ledger_fixture fixture;
    struct ledger_stats stats;
    ledger_fixture_init(&fixture);
    fixture.config.map_bytes = 1 << 20;
    fixture.config.reserve_bytes = 1 << 20;
    ledger_fixture_open(&fixture);
    uint32_t turns = 0;
    enum err code = ERR_OK;
    while (turns < 1000 && (code = ledger_fixture_append(&fixture, 1, turns + 1)) == ERR_OK) {
        turns++;
    }
    assert_int_equal(code, ERR_FULL);
    assert_true(turns > 20);
    assert_int_equal(ledger_room_take(fixture.ledger, 100000), ERR_FULL);
    assert_int_equal(ledger_fixture_append(&fixture, 2, 1), ERR_FULL);
    ledger_fixture_check(&fixture, 1, turns);
    ledger_fixture_reopen(&fixture); /* a full ledger opens, reads and deletes */
    ledger_fixture_check(&fixture, 1, turns);
    uint32_t more = 0; /* the opening has made a page or two reusable */
    while (more < 10 && (code = ledger_fixture_append(&fixture, 2, more + 1)) == ERR_OK) {
        more++;
    }
    assert_int_equal(code, ERR_FULL);
    struct conversation_key key = ledger_fixture_key(&fixture, 1);
    uint64_t serial;
    assert_int_equal(ledger_delete(fixture.ledger, &key, &serial), ERR_OK);
    ledger_fixture_wait_for_purge(&fixture);
    assert_int_equal(ledger_tombstone_remove(fixture.ledger, serial), ERR_OK);
    /* All the room is there again, over and over, and the file has not grown. */
    for (int round = 3; round < 6; round++) {
        for (uint32_t turn = 1; turn <= turns / 2; turn++) {
            assert_int_equal(ledger_fixture_append(&fixture, round, turn), ERR_OK);
        }
        ledger_fixture_check(&fixture, round, turns / 2);
        key = ledger_fixture_key(&fixture, round);
        assert_int_equal(ledger_delete(fixture.ledger, &key, NULL), ERR_OK);
        ledger_fixture_wait_for_purge(&fixture);
    }
    assert_int_equal(ledger_stats_read(fixture.ledger, &stats), ERR_OK);
    assert_true(stats.used_bytes <= 1 << 20);
    char file[128];
    struct stat status;
    snprintf(file, sizeof file, "%s/data.mdb", fixture.directory);
    assert_int_equal(stat(file, &status), 0);
    assert_true(status.st_size <= 1 << 20);
    assert_int_equal(status.st_mode & 0777, 0600);
    assert_int_equal(stat(fixture.directory, &status), 0);
    assert_int_equal(status.st_mode & 0777, 0700);
    ledger_fixture_done(&fixture);
}

static void test_ledger_room_is_booked(void **state) {
    (void)state;
    struct ledger_fixture fixture;
    struct ledger_stats stats;
    ledger_fixture_init(&fixture);
    ledger_fixture_open(&fixture);
    assert_int_equal(ledger_stats_read(fixture.ledger, &stats), ERR_OK);
    uint64_t share = stats.room_bytes / 2;
    assert_int_equal(ledger_room_take(fixture.ledger, share), ERR_OK);
    assert_int_equal(ledger_room_take(fixture.ledger, share), ERR_FULL);
    ledger_room_release(fixture.ledger, share);
    assert_int_equal(ledger_room_take(fixture.ledger, share), ERR_OK);
    ledger_room_release(fixture.ledger, share);
    ledger_fixture_done(&fixture);
}

static void test_ledger_room_holds_a_turn_of_many_parts(void **state) {
    (void)state;
    struct ledger_fixture fixture;
    struct ledger_fixture_turn made;
    struct ledger_appended appended;
    size_t bytes = 6 << 20;
    uint8_t *text = malloc(bytes);
    assert_non_null(text);
    for (size_t i = 0; i < bytes; i++) {
        text[i] = (uint8_t)(i * 2654435761u >> 13);
    }
    ledger_fixture_init(&fixture);
    ledger_fixture_open(&fixture);
    ledger_fixture_turn_init(&made, &fixture, 1, 1, 0);
    made.turn.messages = text;
    made.turn.messages_bytes = bytes;
    assert_int_equal(ledger_fixture_append_made(&fixture, &made, &appended), ERR_OK);
    ledger_fixture_reopen(&fixture);
    struct turn_record turn;
    assert_int_equal(ledger_turn_read(fixture.ledger, &made.request.key, appended.serial, 1, &turn),
                     ERR_OK);
    assert_int_equal(turn.messages_bytes, bytes);
    assert_memory_equal(turn.messages, text, bytes);
    turn_record_done(&turn);
    ledger_fixture_turn_init(&made, &fixture, 1, 2, 0);
    made.turn.messages = text;
    made.turn.messages_bytes = bytes;
    assert_int_equal(ledger_fixture_append_made(&fixture, &made, &appended), ERR_OK);
    ledger_fixture_turn_init(&made, &fixture, 1, 3, 0);
    made.turn.messages = text;
    made.turn.messages_bytes = bytes;
    assert_int_equal(ledger_fixture_append_made(&fixture, &made, &appended), ERR_FULL);
    assert_int_equal(ledger_delete(fixture.ledger, &made.request.key, NULL), ERR_OK);
    ledger_fixture_wait_for_purge(&fixture);
    ledger_fixture_turn_init(&made, &fixture, 1, 1, 0);
    made.turn.messages = text;
    made.turn.messages_bytes = bytes;
    assert_int_equal(ledger_fixture_append_made(&fixture, &made, &appended), ERR_OK);
    free(text);
    ledger_fixture_done(&fixture);
}

static void test_ledger_room_smaller_cap_keeps_what_is_there(void **state) {
    (void)state;
    struct ledger_fixture fixture;
    struct ledger_fixture_turn made;
    struct ledger_appended appended;
    size_t bytes =
        3 << 20; /* takes every page that was free, so that none is left to delete with */
    uint8_t *text = calloc(1, bytes);
    assert_non_null(text);
    ledger_fixture_init(&fixture);
    ledger_fixture_open(&fixture);
    for (uint32_t turn = 1; turn <= 30; turn++) {
        assert_int_equal(ledger_fixture_append(&fixture, 1, turn), ERR_OK);
    }
    ledger_fixture_turn_init(&made, &fixture, 2, 1, 0);
    made.turn.messages = text;
    made.turn.messages_bytes = bytes;
    assert_int_equal(ledger_fixture_append_made(&fixture, &made, &appended), ERR_OK);
    free(text);
    fixture.config.map_bytes = 1 << 20; /* less than lies there */
    ledger_fixture_reopen(&fixture);
    ledger_fixture_check(&fixture, 1, 30);
    assert_int_equal(ledger_fixture_append(&fixture, 1, 31), ERR_FULL);
    assert_int_equal(ledger_room_take(fixture.ledger, 1), ERR_FULL);
    assert_int_equal(ledger_delete(fixture.ledger, &made.request.key, NULL), ERR_OK);
    ledger_fixture_wait_for_purge(&fixture);
    assert_int_equal(ledger_fixture_append(&fixture, 1, 31),
                     ERR_OK); /* into pages that were freed */
    ledger_fixture_check(&fixture, 1, 31);
    ledger_fixture_done(&fixture);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ledger_room_full_refuses_turns_and_still_deletes),
        cmocka_unit_test(test_ledger_room_is_booked),
        cmocka_unit_test(test_ledger_room_holds_a_turn_of_many_parts),
        cmocka_unit_test(test_ledger_room_smaller_cap_keeps_what_is_there),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
