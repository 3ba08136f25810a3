/* What a walk over a ledger says of sound records and of each kind of damage. */
#include "tests/ledger_fixture.h"

#include "ledger/ledger_table.h"
#include "ledger/ledger_walk.h"

enum { FINDINGS_MAX = 16, VALUE_BYTES_MAX = 8192 };

struct seen {
    struct ledger_walk_finding findings[FINDINGS_MAX];
    char ids[FINDINGS_MAX][32];
    size_t count;
    struct ledger_walk_report report;
};

static enum err note(void *context, const struct ledger_walk_finding *finding) {
    struct seen *seen = context;
    if (seen->count < FINDINGS_MAX) {
        seen->findings[seen->count] = *finding;
        if (finding->identity != NULL) {
            snprintf(seen->ids[seen->count], sizeof seen->ids[0], "%.*s",
                     (int)finding->identity->id_bytes, finding->identity->id);
        }
    }
    seen->count++;
    return ERR_OK;
}

static struct seen walk(struct ledger_fixture *fixture) {
    struct seen seen = {.count = 0};
    const struct ledger_walk_options options = {.found = note, .context = &seen};
    enum err code = ledger_walk(fixture->ledger, &options, &seen.report);
    if (code != ERR_OK) {
        fail_msg("ledger_walk: %s", err_message());
    }
    return seen;
}

/* The only finding is this one. ID may be NULL: unnamed. */
static void expect(struct ledger_fixture *fixture, const char *record, const char *verdict,
                   const char *id, uint32_t turn) {
    struct seen seen = walk(fixture);
    if (seen.count != 1) {
        fail_msg("%zu findings, expected %s %s; the first: %s %s %s", seen.count, record, verdict,
                 seen.findings[0].record, seen.findings[0].verdict, seen.findings[0].detail);
    }
    assert_string_equal(seen.findings[0].record, record);
    assert_string_equal(seen.findings[0].verdict, verdict);
    assert_string_equal(seen.ids[0], id != NULL ? id : "");
    assert_int_equal(seen.findings[0].turn, turn);
}

/* Conversation 1 with three turns, 2 with two, the second one under an Idempotency-Key; 3 was
 * deleted and left its tombstone. */
static void make(struct ledger_fixture *fixture) {
    struct ledger_fixture_turn *made = malloc(sizeof *made);
    struct ledger_appended appended;
    struct conversation_key key;
    assert_non_null(made);
    ledger_fixture_init(fixture);
    ledger_fixture_open(fixture);
    for (uint32_t turn = 1; turn <= 3; turn++) {
        assert_int_equal(ledger_fixture_append(fixture, 1, turn), ERR_OK);
    }
    assert_int_equal(ledger_fixture_append(fixture, 2, 1), ERR_OK);
    assert_int_equal(ledger_fixture_append(fixture, 3, 1), ERR_OK);
    ledger_fixture_turn_init(made, fixture, 2, 2, 0);
    memset(made->turn.idempotency_hash, 7, sizeof made->turn.idempotency_hash);
    made->request.idempotency_expires_ms = UINT64_C(1) << 50;
    assert_int_equal(ledger_fixture_append_made(fixture, made, &appended), ERR_OK);
    key = ledger_fixture_key(fixture, 3);
    assert_int_equal(ledger_delete(fixture->ledger, &key, NULL), ERR_OK);
    ledger_fixture_wait_for_purge(fixture);
    free(made);
}

/* --- changes behind the ledger's back --------------------------------------------------------- */

struct entry {
    uint8_t key[64];
    size_t key_len;
    uint8_t value[VALUE_BYTES_MAX];
    size_t value_len;
};

/* Entry INDEX of a table in the order of keys. */
static struct entry get(struct ledger_fixture *fixture, enum ledger_db_table table, size_t index) {
    struct ledger_db_txn txn CLEANUP(ledger_db_abort) = {0};
    struct entry entry = {.key_len = 0};
    assert_int_equal(ledger_db_begin(ledger_environment(fixture->ledger), 0, &txn), ERR_OK);
    for (size_t i = 0; i <= index; i++) {
        struct ledger_db_bytes key;
        struct ledger_db_bytes value;
        uint8_t from[sizeof entry.key + 1] = {0};
        memcpy(from, entry.key, entry.key_len);
        assert_int_equal(
            ledger_db_seek(&txn, table, from, i > 0 ? entry.key_len + 1 : 0, &key, &value), ERR_OK);
        assert_true(key.len <= sizeof entry.key && value.len <= sizeof entry.value);
        memcpy(entry.key, key.data, key.len);
        memcpy(entry.value, value.data, value.len);
        entry.key_len = key.len;
        entry.value_len = value.len;
    }
    return entry;
}

static void put(struct ledger_fixture *fixture, enum ledger_db_table table,
                const struct entry *entry) {
    struct ledger_db_txn txn CLEANUP(ledger_db_abort) = {0};
    assert_int_equal(ledger_db_begin(ledger_environment(fixture->ledger), 1, &txn), ERR_OK);
    assert_int_equal(
        ledger_db_put(&txn, table, entry->key, entry->key_len, entry->value, entry->value_len),
        ERR_OK);
    assert_int_equal(ledger_db_commit(&txn), ERR_OK);
}

static void drop(struct ledger_fixture *fixture, enum ledger_db_table table,
                 const struct entry *entry) {
    struct ledger_db_txn txn CLEANUP(ledger_db_abort) = {0};
    assert_int_equal(ledger_db_begin(ledger_environment(fixture->ledger), 1, &txn), ERR_OK);
    assert_int_equal(ledger_db_remove(&txn, table, entry->key, entry->key_len), ERR_OK);
    assert_int_equal(ledger_db_commit(&txn), ERR_OK);
}

/* The entry of a turn's first part; turn 0 is the dialect. */
static struct entry get_turn(struct ledger_fixture *fixture, int name, uint32_t turn) {
    uint64_t serial = ledger_fixture_serial(fixture, name);
    for (size_t i = 0;; i++) {
        struct entry entry = get(fixture, LEDGER_DB_TURN, i);
        if (entry.key[7] == serial && entry.key[11] == turn && entry.key[15] == 0) {
            return entry;
        }
    }
}

/* --- the tests -----------------------------------------------------------------------------------
 */

static void test_ledger_walk_finds_nothing_in_a_sound_ledger(void **state) {
    struct ledger_fixture fixture;
    (void)state;
    make(&fixture);
    struct seen seen = walk(&fixture);
    if (seen.count > 0) {
        fail_msg("%s %s: %s", seen.findings[0].record, seen.findings[0].verdict,
                 seen.findings[0].detail);
    }
    assert_int_equal(seen.report.conversations, 2);
    assert_int_equal(seen.report.turns, 5);
    assert_int_equal(seen.report.dialects, 2);
    assert_int_equal(seen.report.idempotency_entries, 1);
    assert_int_equal(seen.report.tombstones, 1);
    assert_int_equal(seen.report.turns_unchained, 0);
    ledger_fixture_done(&fixture);
}

/* Flips bits all over a record; each time that is the one finding. */
static void flip_everywhere(struct ledger_fixture *fixture, enum ledger_db_table table,
                            const struct entry *sound, const char *record, const char *id,
                            uint32_t turn) {
    for (size_t at = 0; at < sound->value_len; at += 1 + at % 5 + sound->value_len / 64) {
        struct entry bad = *sound;
        int is_version = at == 4 || at == 5;
        bad.value[at] ^= (uint8_t)(1 << at % 8);
        put(fixture, table, &bad);
        expect(fixture, record, is_version ? "newer" : "damaged", id, turn);
    }
    put(fixture, table, sound);
    assert_int_equal(walk(fixture).count, 0);
}

static void test_ledger_walk_names_every_damaged_record(void **state) {
    struct ledger_fixture fixture;
    (void)state;
    make(&fixture);
    struct entry sound = get_turn(&fixture, 1, 2);
    flip_everywhere(&fixture, LEDGER_DB_TURN, &sound, "turn", "conversation-1", 2);
    sound = get_turn(&fixture, 2, 0);
    flip_everywhere(&fixture, LEDGER_DB_TURN, &sound, "dialect", "conversation-2", 0);
    sound = get(&fixture, LEDGER_DB_IDEMPOTENCY, 0);
    flip_everywhere(&fixture, LEDGER_DB_IDEMPOTENCY, &sound, "idempotency", NULL, 0);
    sound = get(&fixture, LEDGER_DB_TOMBSTONE, 0);
    flip_everywhere(&fixture, LEDGER_DB_TOMBSTONE, &sound, "tombstone", NULL, 0);
    /* Of a conversation, past the serial: its turns must not be taken for orphans. */
    sound = get(&fixture, LEDGER_DB_CONVERSATION, 0);
    for (size_t at = 48; at < sound.value_len; at += 17) {
        struct entry bad = sound;
        bad.value[at] ^= 16;
        put(&fixture, LEDGER_DB_CONVERSATION, &bad);
        expect(&fixture, "conversation", "damaged", NULL, 0);
    }
    ledger_fixture_done(&fixture);
}

static void test_ledger_walk_names_what_is_missing(void **state) {
    struct ledger_fixture fixture;
    (void)state;
    make(&fixture);
    struct entry entry = get_turn(&fixture, 1, 2);
    drop(&fixture, LEDGER_DB_TURN, &entry);
    expect(&fixture, "turn", "missing", "conversation-1", 2);
    assert_int_equal(walk(&fixture).report.turns_unchained, 1);
    put(&fixture, LEDGER_DB_TURN, &entry);

    entry = get_turn(&fixture, 1, 3);
    entry.key[15] = 1; /* its second part */
    drop(&fixture, LEDGER_DB_TURN, &entry);
    expect(&fixture, "turn", "damaged", "conversation-1", 3);
    ledger_fixture_done(&fixture);

    make(&fixture);
    entry = get_turn(&fixture, 2, 0);
    drop(&fixture, LEDGER_DB_TURN, &entry);
    expect(&fixture, "dialect", "missing", "conversation-2", 0);
    put(&fixture, LEDGER_DB_TURN, &entry);
    entry = get(&fixture, LEDGER_DB_EXPIRY, 0);
    drop(&fixture, LEDGER_DB_EXPIRY, &entry);
    expect(&fixture, "expiry", "missing", NULL, 2);
    put(&fixture, LEDGER_DB_EXPIRY, &entry);
    entry = get(&fixture, LEDGER_DB_IDEMPOTENCY, 0);
    drop(&fixture, LEDGER_DB_IDEMPOTENCY, &entry);
    expect(&fixture, "expiry", "orphan", NULL, 0);
    ledger_fixture_done(&fixture);
}

static void test_ledger_walk_names_orphans(void **state) {
    struct ledger_fixture fixture;
    struct conversation_key key;
    struct entry entry = {.key_len = 0};
    (void)state;
    make(&fixture);
    uint64_t serial = ledger_fixture_serial(&fixture, 1);
    key = ledger_fixture_key(&fixture, 1);
    memcpy(entry.key, key.bytes, sizeof key.bytes);
    entry.key_len = sizeof key.bytes;
    drop(&fixture, LEDGER_DB_CONVERSATION, &entry);
    expect(&fixture, "turn", "orphan", NULL, 0);
    assert_int_equal(walk(&fixture).findings[0].serial, serial);
    ledger_fixture_done(&fixture);

    make(&fixture);
    entry = get_turn(&fixture, 2, 2);
    entry.key[11] = 3; /* behind the last */
    put(&fixture, LEDGER_DB_TURN, &entry);
    expect(&fixture, "turn", "orphan", "conversation-2", 3);
    ledger_fixture_done(&fixture);
}

static void test_ledger_walk_names_records_in_each_others_place(void **state) {
    struct ledger_fixture fixture;
    (void)state;
    make(&fixture);
    struct entry one = get_turn(&fixture, 1, 1);
    struct entry other = get_turn(&fixture, 2, 1);
    struct entry swapped = one;
    memcpy(swapped.value, other.value, other.value_len);
    swapped.value_len = other.value_len;
    put(&fixture, LEDGER_DB_TURN, &swapped);
    swapped = other;
    memcpy(swapped.value, one.value, one.value_len);
    swapped.value_len = one.value_len;
    put(&fixture, LEDGER_DB_TURN, &swapped);
    struct seen seen = walk(&fixture);
    assert_int_equal(seen.count, 2);
    for (size_t i = 0; i < 2; i++) {
        assert_string_equal(seen.findings[i].record, "turn");
        assert_string_equal(seen.findings[i].verdict, "damaged");
        assert_int_equal(seen.findings[i].turn, 1);
    }
    assert_string_not_equal(seen.ids[0], seen.ids[1]);
    ledger_fixture_done(&fixture);
}

/* Writes turn TURN of conversation 1 again with a sound frame, changed by CHANGE. */
static void rewrite_turn(struct ledger_fixture *fixture, uint32_t turn,
                         void (*change)(struct turn_record *turn)) {
    struct ledger_db_txn txn CLEANUP(ledger_db_abort) = {0};
    struct turn_record record CLEANUP(turn_record_done) = {0};
    struct buf encoded CLEANUP(buf_done);
    struct turn_record_place place = {ledger_fixture_serial(fixture, 1), turn};
    buf_init(&encoded, TURN_RECORD_BYTES_MAX);
    assert_int_equal(ledger_db_begin(ledger_environment(fixture->ledger), 1, &txn), ERR_OK);
    assert_int_equal(ledger_table_turn_get(&txn, place, &record), ERR_OK);
    change(&record);
    assert_int_equal(turn_record_encode(&record, place.serial, &encoded), ERR_OK);
    assert_int_equal(ledger_table_parts_remove(&txn, place), ERR_OK);
    assert_int_equal(ledger_table_parts_put(&txn, place, &encoded), ERR_OK);
    assert_int_equal(ledger_db_commit(&txn), ERR_OK);
}

static void change_id(struct turn_record *turn) {
    ((int32_t *)(uintptr_t)turn->prompt_ids)[3]++;
}

static void change_head_digest(struct turn_record *turn) {
    turn->head_digest[5] ^= 1;
}

static void change_prompt_end_digest(struct turn_record *turn) {
    turn->prompt_end_digest[5] ^= 1;
}

static void change_base(struct turn_record *turn) {
    turn->base_tokens += 5;
    turn->prompt_end_tokens += 5;
    turn->end_tokens += 5;
}

static void change_parent(struct turn_record *turn) {
    turn->parent_turn = 0;
}

static void test_ledger_walk_recomputes_places_and_chains(void **state) {
    static const struct {
        void (*change)(struct turn_record *turn);
        const char *verdict;
    } cases[] = {
        {change_id, "wrong-chain"},     {change_head_digest, "wrong-chain"},
        {change_base, "wrong-place"},   {change_prompt_end_digest, "wrong-chain"},
        {change_parent, "wrong-place"},
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct ledger_fixture fixture;
        make(&fixture);
        rewrite_turn(&fixture, 3, cases[i].change);
        struct seen seen = walk(&fixture);
        assert_true(seen.count >= 1);
        assert_string_equal(seen.findings[0].record, "turn");
        assert_string_equal(seen.findings[0].verdict, cases[i].verdict);
        assert_int_equal(seen.findings[0].turn, 3);
        assert_string_equal(seen.ids[0], "conversation-1");
        ledger_fixture_done(&fixture);
    }
}

/* Replaced lines are walked as well: turn 4 cuts into turn 2, turn 5 begins anew. */
static void test_ledger_walk_follows_lines_that_were_cut(void **state) {
    struct ledger_fixture fixture;
    struct ledger_fixture_turn *made = malloc(sizeof *made);
    struct ledger_appended appended;
    (void)state;
    assert_non_null(made);
    make(&fixture);
    for (uint32_t turn = 4; turn <= 5; turn++) {
        ledger_fixture_turn_init(made, &fixture, 1, turn, 0);
        made->turn.base_tokens = turn == 4 ? ledger_fixture_length(1, 1) + 7 : 0;
        made->turn.prompt_end_tokens = 0;
        made->turn.parent_turn = turn == 4 ? 1 : 0;
        enum err code = ledger_fixture_append_made(&fixture, made, &appended);
        if (code != ERR_OK) {
            fail_msg("%s", err_message());
        }
        assert_int_equal(walk(&fixture).count, 0);
    }
    /* With turn 2 gone turn 4 can't be followed, turn 5 can. */
    struct entry entry = get_turn(&fixture, 1, 2);
    drop(&fixture, LEDGER_DB_TURN, &entry);
    expect(&fixture, "turn", "missing", "conversation-1", 2);
    assert_int_equal(walk(&fixture).report.turns_unchained, 2);
    free(made);
    ledger_fixture_done(&fixture);
}

static void test_ledger_walk_of_one_conversation_sees_no_other(void **state) {
    struct ledger_fixture fixture;
    struct conversation_key key;
    (void)state;
    make(&fixture);
    struct entry bad = get_turn(&fixture, 1, 2);
    bad.value[100] ^= 1;
    put(&fixture, LEDGER_DB_TURN, &bad);
    for (int name = 1; name <= 2; name++) {
        struct seen seen = {.count = 0};
        key = ledger_fixture_key(&fixture, name);
        const struct ledger_walk_options options = {.only = &key, .found = note, .context = &seen};
        assert_int_equal(ledger_walk(fixture.ledger, &options, &seen.report), ERR_OK);
        assert_int_equal(seen.report.conversations, 1);
        assert_int_equal(seen.count, name == 1 ? 1 : 0);
    }
    ledger_fixture_done(&fixture);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ledger_walk_finds_nothing_in_a_sound_ledger),
        cmocka_unit_test(test_ledger_walk_names_every_damaged_record),
        cmocka_unit_test(test_ledger_walk_names_what_is_missing),
        cmocka_unit_test(test_ledger_walk_names_orphans),
        cmocka_unit_test(test_ledger_walk_names_records_in_each_others_place),
        cmocka_unit_test(test_ledger_walk_recomputes_places_and_chains),
        cmocka_unit_test(test_ledger_walk_follows_lines_that_were_cut),
        cmocka_unit_test(test_ledger_walk_of_one_conversation_sees_no_other),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
