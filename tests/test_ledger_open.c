/* What a ledger refuses to open or to read: other formats and secrets, damage; and its readers. */
#include "tests/ledger_fixture.h"

#include "ledger/ledger_table.h"

#include <signal.h>
#include <sys/wait.h>

static void test_ledger_open_refuses_another_secret_and_format(void **state) {
    (void)state;
    struct ledger_fixture fixture;
    struct secret other = {{9}};
    ledger_fixture_init(&fixture);
    ledger_fixture_open(&fixture);
    assert_int_equal(ledger_fixture_append(&fixture, 1, 1), ERR_OK);
    ledger_close(fixture.ledger);
    fixture.ledger = NULL;
    fixture.config.secret = &other;
    assert_int_equal(ledger_open(&fixture.config, &fixture.ledger), ERR_CONFLICT);
    fixture.config.secret = NULL;
    assert_int_equal(ledger_open(&fixture.config, &fixture.ledger), ERR_INVALID);
    fixture.config.secret = &fixture.secret;

    for (uint32_t format = 0; format <= 2; format += 2) {
        struct buf mark CLEANUP(buf_done);
        struct ledger_record_mark content = {.format = format};
        buf_init(&mark, 4096);
        assert_int_equal(ledger_record_encode_mark(&content, &mark), ERR_OK);
        assert_int_equal(ledger_record_decode_mark(mark.data, mark.len, &content), ERR_UNSUPPORTED);
        assert_non_null(strstr(err_message(), format == 2 ? "newer" : "older"));
    }
    ledger_fixture_open(&fixture);
    ledger_fixture_check(&fixture, 1, 1);
    ledger_fixture_done(&fixture);
}

static void test_ledger_open_read_only_reads_and_commits_nothing(void **state) {
    (void)state;
    struct ledger_fixture fixture;
    struct ledger_fixture_turn made;
    struct ledger_appended appended;
    ledger_fixture_init(&fixture);
    fixture.config.is_read_only = 1;
    assert_int_equal(ledger_open(&fixture.config, &fixture.ledger), ERR_NOT_FOUND);
    fixture.config.is_read_only = 0;
    ledger_fixture_open(&fixture);
    assert_int_equal(ledger_fixture_append(&fixture, 1, 1), ERR_OK);
    fixture.config.is_read_only = 1;
    ledger_fixture_reopen(&fixture);
    ledger_fixture_check(&fixture, 1, 1);
    ledger_fixture_turn_init(&made, &fixture, 1, 2, 0);
    assert_int_equal(ledger_append(fixture.ledger, &made.request, &appended), ERR_UNSUPPORTED);
    assert_int_equal(ledger_delete(fixture.ledger, &made.request.key, NULL), ERR_UNSUPPORTED);
    struct ledger_stats stats;
    int dead;
    assert_int_equal(ledger_stats_read(fixture.ledger, &stats), ERR_OK);
    assert_int_equal(stats.conversations, 1);
    assert_int_equal(ledger_readers_check(fixture.ledger, &dead), ERR_OK);
    assert_int_equal(dead, 0);
    ledger_fixture_done(&fixture);
}

/* Swaps one byte of the file at a time where the turn lies: found by its own content. */
static void test_ledger_open_notices_damage_in_the_file(void **state) {
    (void)state;
    struct ledger_fixture fixture;
    char file[128];
    ledger_fixture_init(&fixture);
    ledger_fixture_open(&fixture);
    assert_int_equal(ledger_fixture_append(&fixture, 1, 1), ERR_OK);
    struct conversation_key key = ledger_fixture_key(&fixture, 1);
    uint64_t serial = ledger_fixture_serial(&fixture, 1);
    ledger_close(fixture.ledger);
    fixture.ledger = NULL;
    snprintf(file, sizeof file, "%s/data.mdb", fixture.directory);
    FILE *stream = fopen(file, "r+b");
    assert_non_null(stream);
    static uint8_t bytes[1 << 20];
    size_t size = fread(bytes, 1, sizeof bytes, stream);
    size_t changed = 0;
    for (size_t i = 0; i + 14 <= size; i++) {
        if (memcmp(bytes + i, "answer 1 of 1", 14) == 0) {
            assert_int_equal(fseek(stream, (long)i, SEEK_SET), 0);
            assert_int_equal(fputc('A', stream), 'A');
            changed++;
        }
    }
    assert_int_equal(fclose(stream), 0);
    assert_true(changed >= 1);
    ledger_fixture_open(&fixture);
    struct turn_record turn;
    int32_t *ids;
    size_t count;
    assert_int_equal(ledger_turn_read(fixture.ledger, &key, serial, 1, &turn), ERR_CORRUPT);
    assert_int_equal(ledger_ids_read(fixture.ledger, &key, serial, 1, &ids, &count), ERR_CORRUPT);
    assert_int_equal(ledger_delete(fixture.ledger, &key, NULL), ERR_OK);
    ledger_fixture_done(&fixture);
}

/* Leaves a mark of format 2 behind. */
static enum err put_newer_mark(void *context, struct ledger_db_txn *txn) {
    struct ledger_record_mark mark = {.format = 2, .epoch = 7, .next_serial = 9};
    (void)context;
    return ledger_table_mark_put(txn, &mark);
}

static enum err keep_mark(void *context, struct ledger_db_txn *txn) {
    struct ledger_db_bytes *bytes = context;
    static uint8_t copy[512];
    struct ledger_db_bytes found;
    TRY(ledger_db_get(txn, LEDGER_DB_MARK, "mark", 4, &found));
    assert_true(found.len <= sizeof copy);
    memcpy(copy, found.data, found.len);
    *bytes = (struct ledger_db_bytes){copy, found.len};
    return ERR_OK;
}

static void test_ledger_open_of_a_newer_format_is_left_alone(void **state) {
    (void)state;
    struct ledger_fixture fixture;
    struct ledger_db *db;
    struct ledger_db_bytes mark;
    ledger_fixture_init(&fixture);
    assert_int_equal(mkdir(fixture.directory, 0700), 0);
    struct ledger_db_params params = {
        .directory = fixture.directory, .map_bytes = 1 << 20, .first = put_newer_mark};
    assert_int_equal(ledger_db_open(&params, &db), ERR_OK);
    ledger_db_close(db);
    for (int tries = 0; tries < 2; tries++) { /* refusing has not changed it */
        assert_int_equal(ledger_open(&fixture.config, &fixture.ledger), ERR_UNSUPPORTED);
        assert_non_null(strstr(err_message(), "format 2"));
    }
    params.first = keep_mark;
    params.context = &mark;
    assert_int_equal(ledger_db_open(&params, &db), ERR_OK);
    ledger_db_close(db);
    struct ledger_record_mark expected = {.format = 2, .epoch = 7, .next_serial = 9};
    struct buf encoded CLEANUP(buf_done);
    buf_init(&encoded, 512);
    assert_int_equal(ledger_record_encode_mark(&expected, &encoded), ERR_OK);
    assert_int_equal(mark.len, encoded.len);
    assert_memory_equal(mark.data, encoded.data, encoded.len);
    ledger_fixture_done(&fixture);
}

static enum err remove_mark(void *context, struct ledger_db_txn *txn) {
    (void)context;
    return ledger_db_remove(txn, LEDGER_DB_MARK, "mark", 4);
}

static void test_ledger_open_that_lost_its_mark_is_refused(void **state) {
    (void)state;
    struct ledger_fixture fixture;
    struct ledger_db *db;
    ledger_fixture_init(&fixture);
    ledger_fixture_open(&fixture);
    assert_int_equal(ledger_fixture_append(&fixture, 1, 1), ERR_OK);
    ledger_close(fixture.ledger);
    fixture.ledger = NULL;
    struct ledger_db_params params = {
        .directory = fixture.directory, .map_bytes = 1 << 20, .first = remove_mark};
    assert_int_equal(ledger_db_open(&params, &db), ERR_OK);
    ledger_db_close(db);
    assert_int_equal(ledger_open(&fixture.config, &fixture.ledger), ERR_CORRUPT);
    ledger_fixture_done(&fixture);
}

/* Puts a record of the same turn with other ids in the place of turn 1: well-formed, and wrong. */
static enum err replace_turn(void *context, struct ledger_db_txn *txn) {
    const struct turn_record_place *place = context;
    struct turn_record turn CLEANUP(turn_record_done) = {.storage = NULL};
    struct buf record CLEANUP(buf_done);
    buf_init(&record, TURN_RECORD_BYTES_MAX);
    TRY(ledger_table_turn_get(txn, *place, &turn));
    int32_t ids[64];
    memcpy(ids, turn.prompt_ids, 4 * turn.prompt_count);
    ids[1]++;
    turn.prompt_ids = ids;
    TRY(turn_record_encode(&turn, place->serial, &record));
    TRY(ledger_table_parts_remove(txn, *place));
    return ledger_table_parts_put(txn, *place, &record);
}

static void test_ledger_open_line_must_have_its_digest(void **state) {
    (void)state;
    struct ledger_fixture fixture;
    struct ledger_db *db;
    ledger_fixture_init(&fixture);
    ledger_fixture_open(&fixture);
    for (uint32_t turn = 1; turn <= 3; turn++) {
        assert_int_equal(ledger_fixture_append(&fixture, 1, turn), ERR_OK);
    }
    struct conversation_key key = ledger_fixture_key(&fixture, 1);
    struct turn_record_place place = {ledger_fixture_serial(&fixture, 1), 1};
    ledger_close(fixture.ledger);
    fixture.ledger = NULL;
    struct ledger_db_params params = {.directory = fixture.directory,
                                      .map_bytes = LEDGER_FIXTURE_MAP_BYTES,
                                      .first = replace_turn,
                                      .context = &place};
    assert_int_equal(ledger_db_open(&params, &db), ERR_OK);
    ledger_db_close(db);
    ledger_fixture_open(&fixture);
    int32_t *ids;
    size_t count;
    for (uint32_t turn = 1; turn <= 3; turn++) {
        assert_int_equal(ledger_ids_read(fixture.ledger, &key, place.serial, turn, &ids, &count),
                         ERR_CORRUPT);
    }
    ledger_fixture_done(&fixture);
}

static enum err check_nothing(void *context, struct ledger_db_txn *txn) {
    (void)context;
    (void)txn;
    return ERR_OK;
}

/* A reader that dies inside its transaction pins pages until its slot is cleared. */
static void test_ledger_open_clears_dead_readers(void **state) {
    (void)state;
    struct ledger_fixture fixture;
    int status;
    int dead;
    ledger_fixture_init(&fixture);
    ledger_fixture_open(&fixture);
    assert_int_equal(ledger_fixture_append(&fixture, 1, 1), ERR_OK);
    ledger_close(fixture.ledger);
    fixture.ledger = NULL;
    int ready[2];
    int go[2];
    assert_int_equal(pipe(ready), 0);
    assert_int_equal(pipe(go), 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        struct ledger_db *db;
        struct ledger_db_txn txn;
        char byte;
        struct ledger_db_params params = {
            .directory = fixture.directory, .is_read_only = 1, .first = check_nothing};
        if (ledger_db_open(&params, &db) == ERR_OK && ledger_db_begin(db, 0, &txn) == ERR_OK &&
            write(ready[1], "r", 1) == 1 && read(go[0], &byte, 1) == 1) {
            kill(getpid(), SIGKILL);
        }
        _exit(1);
    }
    char byte;
    assert_int_equal(read(ready[0], &byte, 1), 1);
    ledger_fixture_open(&fixture);
    assert_int_equal(ledger_readers_check(fixture.ledger, &dead), ERR_OK);
    assert_int_equal(dead, 0); /* it lives */
    assert_int_equal(write(go[1], "g", 1), 1);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status));
    assert_int_equal(ledger_readers_check(fixture.ledger, &dead), ERR_OK);
    assert_int_equal(dead, 1);
    assert_int_equal(ledger_readers_check(fixture.ledger, NULL), ERR_OK);
    close(ready[0]);
    close(ready[1]);
    close(go[0]);
    close(go[1]);
    ledger_fixture_done(&fixture);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ledger_open_refuses_another_secret_and_format),
        cmocka_unit_test(test_ledger_open_read_only_reads_and_commits_nothing),
        cmocka_unit_test(test_ledger_open_notices_damage_in_the_file),
        cmocka_unit_test(test_ledger_open_of_a_newer_format_is_left_alone),
        cmocka_unit_test(test_ledger_open_that_lost_its_mark_is_refused),
        cmocka_unit_test(test_ledger_open_line_must_have_its_digest),
        cmocka_unit_test(test_ledger_open_clears_dead_readers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
