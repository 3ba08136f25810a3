/* What an audit of a state environment says of sound records and of each kind of damage. */
#include "tests/tier_disk_fixture.h"

#include "store/state_audit.h"

enum { FINDINGS_MAX = 32, TOKENS = 3 * BLOCK_SIZE + 5 };

struct seen {
    struct state_audit_finding findings[FINDINGS_MAX];
    size_t count;
    uint64_t heads;
    uint64_t quarantined;
    struct state_audit_report report;
};

static enum err note(void *context, const struct state_audit_finding *finding) {
    struct seen *seen = context;
    if (seen->count < FINDINGS_MAX) {
        seen->findings[seen->count] = *finding;
    }
    seen->count++;
    return ERR_OK;
}

static enum err note_head(void *context, const struct record_head *head) {
    struct seen *seen = context;
    seen->heads += head->length > 0;
    return ERR_OK;
}

static enum err note_quarantined(void *context, const struct record_head_key *key,
                                 const struct record_quarantine *quarantine) {
    struct seen *seen = context;
    seen->quarantined += key->turn > 0 && quarantine->object.lineage > 0;
    return ERR_OK;
}

static struct seen audit(struct fixture *fixture, const uint8_t *only) {
    struct seen seen = {.count = 0};
    const struct state_audit_options options = {.only = only,
                                                .found = note,
                                                .head = note_head,
                                                .quarantined = note_quarantined,
                                                .context = &seen};
    enum err code = state_audit(tier_disk_env(fixture->tier), &options, &seen.report);
    if (code != ERR_OK) {
        fail_msg("state_audit: %s", err_message());
    }
    return seen;
}

static void expect_nothing(const struct seen *seen) {
    if (seen->count > 0) {
        fail_msg("%zu findings; %s %s: %s", seen->count, seen->findings[0].record,
                 seen->findings[0].verdict, seen->findings[0].detail);
    }
}

/* How many findings are of this kind. */
static size_t count_of(const struct seen *seen, const char *record, const char *verdict) {
    size_t count = 0;
    assert_true(seen->count <= FINDINGS_MAX);
    for (size_t i = 0; i < seen->count; i++) {
        count += strcmp(seen->findings[i].record, record) == 0 &&
                 strcmp(seen->findings[i].verdict, verdict) == 0;
    }
    return count;
}

/* COUNT findings of this kind and no other. */
static void expect(struct fixture *fixture, size_t count, const char *record, const char *verdict) {
    struct seen seen = audit(fixture, NULL);
    if (seen.count != count || count_of(&seen, record, verdict) != count) {
        for (size_t i = 0; i < seen.count && i < FINDINGS_MAX; i++) {
            print_error("%s %s: %s\n", seen.findings[i].record, seen.findings[i].verdict,
                        seen.findings[i].detail);
        }
        fail_msg("expected %zu of %s %s", count, record, verdict);
    }
}

/* Conversation 1 with two heads in lineage 1; conversation 2 in lineage 2, forked off lineage 1 at
 * block 2. */
static void make(struct fixture *fixture) {
    struct spill_case spill;
    fixture_open(fixture);
    assert_int_equal(spill_simple(fixture, 1, 1, 1, TOKENS), SPILL_DURABLE);
    assert_int_equal(spill_simple(fixture, 1, 1, 2, TOKENS + BLOCK_SIZE), SPILL_DURABLE);
    case_init(&spill, 2, 2, 1, TOKENS);
    case_add_parent(&spill, 1, 1, 2);
    assert_int_equal(spill_now(fixture, &spill), SPILL_DURABLE);
    case_free(&spill);
}

/* --- changes behind the tier's back -------------------------------------------------------------
 */

struct entry {
    uint8_t key[RECORD_KEY_BYTES_MAX];
    size_t key_len;
    uint8_t value[OBJECT_RUN_LARGE_BYTES];
    size_t value_len;
};

static struct state_bytes bytes(const void *data, size_t len) {
    return (struct state_bytes){.data = data, .len = len};
}

static void put(struct fixture *fixture, enum state_db db, const struct entry *entry) {
    struct state_txn *txn;
    assert_int_equal(state_env_begin_write(tier_disk_env(fixture->tier), &txn), ERR_OK);
    assert_int_equal(state_env_put(txn, db, bytes(entry->key, entry->key_len),
                                   bytes(entry->value, entry->value_len)),
                     ERR_OK);
    assert_int_equal(state_env_commit(txn), ERR_OK);
}

static void drop(struct fixture *fixture, enum state_db db, const struct entry *entry) {
    struct state_txn *txn;
    assert_int_equal(state_env_begin_write(tier_disk_env(fixture->tier), &txn), ERR_OK);
    assert_int_equal(state_env_remove(txn, db, bytes(entry->key, entry->key_len)), ERR_OK);
    assert_int_equal(state_env_commit(txn), ERR_OK);
}

static void load(struct fixture *fixture, enum state_db db, struct entry *entry) {
    struct state_txn *txn;
    struct state_bytes value;
    assert_int_equal(state_env_begin_read(tier_disk_env(fixture->tier), &txn), ERR_OK);
    assert_int_equal(state_env_get(txn, db, bytes(entry->key, entry->key_len), &value), ERR_OK);
    assert_true(value.len <= sizeof entry->value);
    memcpy(entry->value, value.data, value.len);
    entry->value_len = value.len;
    state_env_abort(txn);
}

static void get_head(struct fixture *fixture, int conversation, uint64_t turn,
                     struct entry *entry) {
    struct record_head_key key = head_key(conversation, 1, turn);
    record_head_key_encode(&key, entry->key);
    entry->key_len = RECORD_HEAD_KEY_BYTES;
    load(fixture, STATE_HEADS, entry);
}

static void get_lineage(struct fixture *fixture, uint64_t lineage, struct entry *entry) {
    record_lineage_key_encode(lineage, entry->key);
    entry->key_len = RECORD_LINEAGE_KEY_BYTES;
    load(fixture, STATE_LINEAGES, entry);
}

static void get_run(struct fixture *fixture, enum record_part part, uint64_t index, uint32_t run,
                    struct entry *entry) {
    struct record_object_key key = {.part = part, .lineage = 1, .index = index};
    record_run_key_encode(&key, run, entry->key);
    entry->key_len = RECORD_RUN_KEY_BYTES;
    load(fixture, STATE_OBJECTS, entry);
}

/* --- the tests
 * ------------------------------------------------------------------------------------- */

static void test_state_audit_finds_nothing_in_a_sound_state(void **state) {
    struct fixture *fixture = *state;
    uint8_t only[RECORD_CONVERSATION_BYTES];
    make(fixture);
    struct seen seen = audit(fixture, NULL);
    expect_nothing(&seen);
    assert_int_equal(seen.report.heads, 3);
    assert_int_equal(seen.heads, 3);
    assert_int_equal(seen.report.lineages, 2);
    assert_int_equal(seen.report.links, 3);
    assert_int_equal(seen.report.objects, 4 + 2 * 2 + 1 + 2);
    name_conversation(only, 2);
    seen = audit(fixture, only); /* with what it needs of the other's */
    expect_nothing(&seen);
    assert_int_equal(seen.report.heads, 1);
    assert_int_equal(seen.report.lineages, 2);
    /* Dropped heads leave garbage, which is no finding. */
    struct state_txn *txn;
    uint8_t key[RECORD_GARBAGE_KEY_BYTES];
    uint8_t record[RECORD_GARBAGE_BYTES];
    struct record_garbage garbage = {
        .part = RECORD_BLOCK, .lineage = 9, .first = 0, .end = UINT64_MAX};
    struct entry run;
    get_run(fixture, RECORD_BLOCK, 0, 0, &run);
    run.key[13] = 9;
    put(fixture, STATE_OBJECTS, &run);
    expect(fixture, 1, "object", "orphan");
    record_garbage_key_encode(&garbage, key);
    record_garbage_encode(&garbage, record);
    assert_int_equal(state_env_begin_write(tier_disk_env(fixture->tier), &txn), ERR_OK);
    assert_int_equal(
        state_env_put(txn, STATE_GARBAGE, bytes(key, sizeof key), bytes(record, sizeof record)),
        ERR_OK);
    assert_int_equal(state_env_commit(txn), ERR_OK);
    seen = audit(fixture, NULL);
    expect_nothing(&seen);
    assert_int_equal(seen.report.objects_unowned, 1);
}

/* Flips bits all over a small record. */
static void flip_everywhere(struct fixture *fixture, enum state_db db, const struct entry *sound,
                            const char *record) {
    for (size_t at = 0; at < sound->value_len; at += 3) {
        struct entry bad = *sound;
        bad.value[at] ^= (uint8_t)(1 << at % 8);
        put(fixture, db, &bad);
        struct seen seen = audit(fixture, NULL);
        if (count_of(&seen, record, "damaged") + count_of(&seen, record, "newer") != 1) {
            fail_msg("%s with byte %zu changed: %zu findings", record, at, seen.count);
        }
    }
    put(fixture, db, sound);
    struct seen seen = audit(fixture, NULL);
    expect_nothing(&seen);
}

static void test_state_audit_names_every_damaged_record(void **state) {
    struct fixture *fixture = *state;
    struct entry entry;
    struct record_garbage garbage = {.part = RECORD_BLOCK, .lineage = 9, .first = 1, .end = 2};
    struct record_quarantine quarantine = {
        .wall_ms = 5, .verdict = OBJECT_DAMAGED, .object = {.part = RECORD_TAIL, .lineage = 4}};
    make(fixture);
    record_garbage_key_encode(&garbage, entry.key);
    record_garbage_encode(&garbage, entry.value);
    entry.key_len = RECORD_GARBAGE_KEY_BYTES;
    entry.value_len = RECORD_GARBAGE_BYTES;
    flip_everywhere(fixture, STATE_GARBAGE, &entry, "garbage");
    struct record_head_key key = head_key(5, 1, 3);
    record_head_key_encode(&key, entry.key);
    record_quarantine_encode(entry.key, &quarantine, entry.value);
    entry.key_len = RECORD_HEAD_KEY_BYTES;
    entry.value_len = RECORD_QUARANTINE_BYTES;
    flip_everywhere(fixture, STATE_QUARANTINE, &entry, "quarantine");
    assert_int_equal(audit(fixture, NULL).quarantined, 1);
    get_head(fixture, 1, 2, &entry);
    flip_everywhere(fixture, STATE_HEADS, &entry, "head");
    get_lineage(fixture, 1, &entry);
    flip_everywhere(fixture, STATE_LINEAGES, &entry, "lineage");
    memcpy(entry.key, RECORD_FORMAT_KEY, strlen(RECORD_FORMAT_KEY));
    entry.key_len = strlen(RECORD_FORMAT_KEY);
    load(fixture, STATE_META, &entry);
    flip_everywhere(fixture, STATE_META, &entry, "format");
}

/* A damaged head's conversation and turn come from its key, and what it may need is no orphan. */
static void test_state_audit_names_the_conversation(void **state) {
    struct fixture *fixture = *state;
    struct entry entry;
    uint8_t conversation[RECORD_CONVERSATION_BYTES];
    make(fixture);
    name_conversation(conversation, 1);
    get_head(fixture, 1, 2, &entry);
    entry.value[130] ^= 1;
    put(fixture, STATE_HEADS, &entry);
    struct seen seen = audit(fixture, NULL);
    assert_int_equal(seen.count, 1);
    assert_true(seen.findings[0].has_conversation);
    assert_memory_equal(seen.findings[0].conversation, conversation, sizeof conversation);
    assert_int_equal(seen.findings[0].turn, 2);
}

static void test_state_audit_decodes_every_object(void **state) {
    static const enum record_part parts[] = {RECORD_BLOCK, RECORD_TAIL, RECORD_STATE};
    static const size_t places[] = {0, 4, 9, 30, 50, 64, 200, 1000, 4000};
    struct fixture *fixture = *state;
    make(fixture);
    for (size_t i = 0; i < ARRAY_LEN(parts); i++) {
        struct entry sound;
        get_run(fixture, parts[i], parts[i] == RECORD_BLOCK ? 0 : 1, 0, &sound);
        for (size_t j = 0; j < ARRAY_LEN(places); j++) {
            struct entry bad = sound;
            bad.value[places[j]] ^= 8;
            put(fixture, STATE_OBJECTS, &bad);
            struct seen seen = audit(fixture, NULL);
            if (seen.count == 0 || strcmp(seen.findings[0].record, "object") != 0) {
                fail_msg("part %zu with byte %zu changed: %zu findings", i, places[j], seen.count);
            }
            for (size_t k = 0; k < seen.count; k++) {
                assert_int_equal(seen.findings[k].object.part, parts[i]);
                assert_int_equal(seen.findings[k].object.lineage, 1);
                assert_true(seen.findings[k].has_conversation);
            }
        }
        put(fixture, STATE_OBJECTS, &sound);
    }
    expect_nothing(&(struct seen){.count = audit(fixture, NULL).count});
}

static void test_state_audit_names_missing_runs_and_objects(void **state) {
    struct fixture *fixture = *state;
    struct entry entry;
    make(fixture);
    for (uint32_t run = 1; run <= 2; run++) { /* not the first */
        get_run(fixture, RECORD_STATE, 2, run, &entry);
        drop(fixture, STATE_OBJECTS, &entry);
        expect(fixture, 1, "object", "truncated");
        put(fixture, STATE_OBJECTS, &entry);
    }
    struct entry runs[8];
    uint32_t count = 0;
    get_run(fixture, RECORD_BLOCK, 1, 0, &runs[0]);
    struct object_info info;
    assert_int_equal(coded_object_inspect(runs[0].value, runs[0].value_len, &info), OBJECT_SOUND);
    count = coded_object_extent(info.coded_bytes).runs;
    for (uint32_t run = 0; run < count; run++) {
        get_run(fixture, RECORD_BLOCK, 1, run, &runs[run]);
        drop(fixture, STATE_OBJECTS, &runs[run]);
    }
    expect(fixture, 3, "object", "missing"); /* three heads need it */
}

static void test_state_audit_tells_swapped_objects(void **state) {
    struct fixture *fixture = *state;
    struct entry one;
    struct entry other;
    struct object_info info;
    make(fixture);
    get_run(fixture, RECORD_BLOCK, 0, 0, &one);
    get_run(fixture, RECORD_BLOCK, 1, 0, &other);
    assert_int_equal(coded_object_inspect(one.value, one.value_len, &info), OBJECT_SOUND);
    uint32_t count = coded_object_extent(info.coded_bytes).runs;
    assert_int_equal(coded_object_inspect(other.value, other.value_len, &info), OBJECT_SOUND);
    assert_int_equal(coded_object_extent(info.coded_bytes).runs, count);
    for (uint32_t run = 0; run < count; run++) {
        get_run(fixture, RECORD_BLOCK, 0, run, &one);
        get_run(fixture, RECORD_BLOCK, 1, run, &other);
        struct entry swapped = one;
        assert_int_equal(one.value_len, other.value_len);
        memcpy(swapped.value, other.value, other.value_len);
        put(fixture, STATE_OBJECTS, &swapped);
        memcpy(other.value, one.value, one.value_len);
        put(fixture, STATE_OBJECTS, &other);
    }
    expect(fixture, 2, "object", "wrong-identity");
}

static void test_state_audit_names_what_lost_its_lineage_or_head(void **state) {
    struct fixture *fixture = *state;
    struct entry entry;
    make(fixture);
    get_lineage(fixture, 2, &entry);
    drop(fixture, STATE_LINEAGES, &entry);
    struct seen seen = audit(fixture, NULL);
    assert_int_equal(count_of(&seen, "head", "uncovered"), 1);
    assert_int_equal(count_of(&seen, "link", "orphan"), 2);
    assert_int_equal(count_of(&seen, "object", "orphan"), 3); /* a block, tail, state */
    assert_int_equal(seen.count, 6);
    put(fixture, STATE_LINEAGES, &entry);
    get_head(fixture, 2, 1, &entry);
    drop(fixture, STATE_HEADS, &entry);
    seen = audit(fixture, NULL);
    assert_int_equal(count_of(&seen, "lineage", "orphan"), 1);
    assert_int_equal(count_of(&seen, "object", "orphan"), 3);
    assert_int_equal(seen.count, 4);
    put(fixture, STATE_HEADS, &entry);
    struct record_child_key child = {.parent = 1, .child = 2};
    record_child_key_encode(&child, entry.key);
    entry.key_len = RECORD_CHILD_KEY_BYTES;
    drop(fixture, STATE_LINKS, &entry);
    expect(fixture, 1, "link", "missing");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_state_audit_finds_nothing_in_a_sound_state,
                                        fixture_setup, fixture_teardown),
        cmocka_unit_test_setup_teardown(test_state_audit_names_every_damaged_record, fixture_setup,
                                        fixture_teardown),
        cmocka_unit_test_setup_teardown(test_state_audit_names_the_conversation, fixture_setup,
                                        fixture_teardown),
        cmocka_unit_test_setup_teardown(test_state_audit_decodes_every_object, fixture_setup,
                                        fixture_teardown),
        cmocka_unit_test_setup_teardown(test_state_audit_names_missing_runs_and_objects,
                                        fixture_setup, fixture_teardown),
        cmocka_unit_test_setup_teardown(test_state_audit_tells_swapped_objects, fixture_setup,
                                        fixture_teardown),
        cmocka_unit_test_setup_teardown(test_state_audit_names_what_lost_its_lineage_or_head,
                                        fixture_setup, fixture_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
