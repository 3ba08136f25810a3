/*
 * Each failable call fails once, each kill point kills once; what was acknowledged must be there,
 * and what was not must be there wholly or not at all. Needs the CMake option TERN_FAULTS.
 */
#include "tests/ledger_fixture.h"

#include "base/fault.h"

#include <pthread.h>
#include <signal.h>
#include <sys/wait.h>

enum { CALLS_MAX = 500 };

static void skip_without_faults(void) {
    if (!fault_is_built()) {
        skip();
    }
}

static void arm(const char *format, int nth) {
    char rule[96];
    snprintf(rule, sizeof rule, format, nth);
    assert_int_equal(fault_arm(rule), ERR_OK);
}

/* Waits until the writer thread has nothing left to do, so that a rule meets no call but ours. */
static void settle(struct ledger_fixture *fixture) {
    size_t removed;
    for (int i = 0; i < 2; i++) { /* the second is taken up after the first look for tombstones */
        assert_int_equal(ledger_idempotency_expire(fixture->ledger, 0, &removed), ERR_OK);
    }
}

/* Opens, whatever an armed rule says, once the rule is gone. */
static void reopen_unarmed(struct ledger_fixture *fixture) {
    fault_disarm();
    ledger_fixture_reopen(fixture);
    settle(fixture);
}

/* As ledger_fixture_append, with an idempotency key of the turn's own. */
static enum err append_keyed(struct ledger_fixture *fixture, int name, uint32_t turn) {
    struct ledger_fixture_turn made;
    struct ledger_appended appended;
    uint64_t generation;
    struct conversation_key key = ledger_fixture_key(fixture, name);
    TRY(lease_take(ledger_leases(fixture->ledger), &key, &generation));
    ledger_fixture_turn_init(&made, fixture, name, turn, generation);
    memset(made.turn.idempotency_hash, (int)turn, sizeof made.turn.idempotency_hash);
    made.request.idempotency_expires_ms = UINT64_MAX;
    enum err code = ledger_append(fixture->ledger, &made.request, &appended);
    lease_release(ledger_leases(fixture->ledger), &key, generation);
    return code;
}

/* True if the turn's idempotency key is remembered, and for that turn. */
static int is_key_known(struct ledger_fixture *fixture, uint32_t turn) {
    struct conversation_key hash;
    struct ledger_record_idempotency entry;
    memset(hash.bytes, (int)turn, sizeof hash.bytes);
    enum err code = ledger_idempotency_find(fixture->ledger, &hash, 1, &entry);
    assert_true(code == ERR_NOT_FOUND || (code == ERR_OK && entry.turn == turn));
    return code == ERR_OK;
}

static void test_ledger_faults_append_is_whole_or_absent(void **state) {
    (void)state;
    skip_without_faults();
    struct ledger_fixture fixture;
    ledger_fixture_init(&fixture);
    ledger_fixture_open(&fixture);
    settle(&fixture);
    assert_int_equal(ledger_fixture_append(&fixture, 1, 1), ERR_OK);
    uint32_t turns = 1;
    int nth = 1;
    int failures = 0;
    int final_failures = 0;
    for (; nth < CALLS_MAX; nth++) {
        arm("fail:*:%d", nth);
        enum err code = append_keyed(&fixture, 1, turns + 1);
        int has_fired = fault_fired() > 0;
        fault_disarm();
        int is_failed = ledger_is_failed(fixture.ledger);
        if (is_failed) {
            final_failures++;
            assert_int_equal(code, ERR_IO);
            assert_int_equal(append_keyed(&fixture, 1, turns + 1), ERR_IO);
            assert_int_equal(ledger_room_take(fixture.ledger, 1), ERR_IO);
            ledger_fixture_check(&fixture, 1, ledger_fixture_turns(&fixture, 1)); /* reads go on */
            reopen_unarmed(&fixture);
        }
        uint32_t found = ledger_fixture_turns(&fixture, 1);
        assert_true(found == turns + 1 || (code != ERR_OK && found == turns));
        ledger_fixture_check(&fixture, 1, found);
        assert_int_equal(is_key_known(&fixture, turns + 1), found == turns + 1);
        failures += code != ERR_OK;
        turns = found;
        if (!has_fired) {
            break;
        }
    }
    assert_true(nth < CALLS_MAX);
    assert_true(failures > 12);
    assert_true(final_failures >= 2); /* a commit that failed, and one that failed late */
    ledger_fixture_reopen(&fixture);
    ledger_fixture_check(&fixture, 1, turns);
    ledger_fixture_done(&fixture);
}

static void test_ledger_faults_creation_is_whole_or_absent(void **state) {
    (void)state;
    skip_without_faults();
    struct ledger_fixture fixture;
    ledger_fixture_init(&fixture);
    ledger_fixture_open(&fixture);
    settle(&fixture);
    int nth = 1;
    for (int has_fired = 1; has_fired && nth < CALLS_MAX; nth++) {
        arm("fail:*:%d", nth);
        enum err code = ledger_fixture_append(&fixture, nth, 1);
        has_fired = fault_fired() > 0;
        reopen_unarmed(&fixture);
        uint32_t found = ledger_fixture_turns(&fixture, nth);
        assert_true(code != ERR_OK || found == 1);
        if (found == 0) {
            assert_int_equal(ledger_fixture_append(&fixture, nth, 1), ERR_OK);
        }
    }
    assert_true(nth < CALLS_MAX);
    for (int name = 1; name < nth; name++) { /* each has a serial, and turns, of its own */
        ledger_fixture_check(&fixture, name, 1);
    }
    ledger_fixture_done(&fixture);
}

static void test_ledger_faults_fork_is_whole_or_absent(void **state) {
    (void)state;
    skip_without_faults();
    struct ledger_fixture fixture;
    ledger_fixture_init(&fixture);
    ledger_fixture_open(&fixture);
    settle(&fixture);
    for (uint32_t turn = 1; turn <= 2; turn++) {
        assert_int_equal(ledger_fixture_append(&fixture, 1, turn), ERR_OK);
    }
    int nth = 1;
    for (int has_fired = 1; has_fired && nth < CALLS_MAX; nth++) {
        struct ledger_appended appended;
        struct ledger_fork request = {
            .source = ledger_fixture_key(&fixture, 1),
            .source_serial = ledger_fixture_serial(&fixture, 1),
            .source_turn = 2,
            .key = ledger_fixture_key(&fixture, nth + 1),
            .identity = {.id = "fork", .id_bytes = 4},
        };
        assert_int_equal(
            lease_take(ledger_leases(fixture.ledger), &request.key, &request.generation), ERR_OK);
        arm("fail:*:%d", nth);
        enum err code = ledger_fork(fixture.ledger, &request, &appended);
        has_fired = fault_fired() > 0;
        reopen_unarmed(&fixture);
        uint32_t found = ledger_fixture_turns(&fixture, nth + 1);
        assert_true(found == 2 || (code != ERR_OK && found == 0));
        int32_t *ids;
        size_t count;
        if (found == 2) {
            assert_int_equal(ledger_ids_read(fixture.ledger, &request.key,
                                             ledger_fixture_serial(&fixture, nth + 1), 2, &ids,
                                             &count),
                             ERR_OK);
            assert_int_equal(count, ledger_fixture_length(1, 2));
            free(ids);
        }
    }
    assert_true(nth > 20 && nth < CALLS_MAX);
    ledger_fixture_check(&fixture, 1, 2);
    ledger_fixture_done(&fixture);
}

static void remove_tombstone(struct ledger_fixture *fixture, uint64_t serial) {
    enum err code = ERR_BUSY;
    for (int tries = 0; tries < 5000 && code == ERR_BUSY; tries++) {
        code = ledger_tombstone_remove(fixture->ledger, serial);
        if (code == ERR_BUSY) {
            usleep(1000);
        }
    }
    assert_int_equal(code, ERR_OK);
}

static void test_ledger_faults_delete_is_whole_or_absent(void **state) {
    (void)state;
    skip_without_faults();
    struct ledger_fixture fixture;
    ledger_fixture_init(&fixture);
    ledger_fixture_open(&fixture);
    settle(&fixture);
    int nth = 1;
    for (int has_fired = 1; has_fired && nth < CALLS_MAX; nth++) {
        struct conversation_key key = ledger_fixture_key(&fixture, nth);
        assert_int_equal(ledger_fixture_append(&fixture, nth, 1), ERR_OK);
        assert_int_equal(ledger_fixture_append(&fixture, nth, 2), ERR_OK);
        uint64_t serial;
        arm("fail:*:%d", nth);
        enum err code = ledger_delete(fixture.ledger, &key, &serial);
        /* The purge runs on while the rule is armed; closing waits for the thread. */
        ledger_close(fixture.ledger);
        fixture.ledger = NULL;
        has_fired = fault_fired() > 0;
        fault_disarm();
        ledger_fixture_open(&fixture);
        settle(&fixture);
        uint32_t found = ledger_fixture_turns(&fixture, nth);
        assert_true(found == 0 || (code != ERR_OK && found == 2));
        if (found > 0) {
            ledger_fixture_check(&fixture, nth, 2);
            assert_int_equal(ledger_delete(fixture.ledger, &key, &serial), ERR_OK);
        }
        struct ledger_record_tombstone tombstone;
        size_t count;
        assert_int_equal(ledger_tombstones_list(fixture.ledger, 0, 1, &tombstone, &count), ERR_OK);
        assert_int_equal(count, 1);
        assert_memory_equal(tombstone.key.bytes, key.bytes, sizeof key.bytes);
        remove_tombstone(&fixture, tombstone.serial);
    }
    assert_true(nth > 10 && nth < CALLS_MAX);
    ledger_fixture_done(&fixture);
}

static void test_ledger_faults_open_leaves_the_ledger_usable(void **state) {
    (void)state;
    skip_without_faults();
    for (int is_existing = 0; is_existing <= 1; is_existing++) {
        struct ledger_fixture fixture;
        ledger_fixture_init(&fixture);
        if (is_existing) {
            ledger_fixture_open(&fixture);
            assert_int_equal(ledger_fixture_append(&fixture, 1, 1), ERR_OK);
            ledger_close(fixture.ledger);
            fixture.ledger = NULL;
        }
        int nth = 1;
        enum err code = ERR_IO;
        for (; code != ERR_OK && nth < CALLS_MAX; nth++) {
            arm("fail:*:%d", nth);
            code = ledger_open(&fixture.config, &fixture.ledger);
            assert_true(code == ERR_OK || fault_fired() > 0);
            assert_true(code == ERR_OK || err_message()[0] != '\0');
            fault_disarm();
        }
        assert_true(nth > 10 && nth < CALLS_MAX);
        ledger_fixture_reopen(&fixture);
        assert_int_equal(ledger_fixture_append(&fixture, 1, 1 + (uint32_t)is_existing), ERR_OK);
        ledger_fixture_check(&fixture, 1, 1 + (uint32_t)is_existing);
        ledger_fixture_done(&fixture);
    }
}

static void test_ledger_faults_secret_is_whole_or_absent(void **state) {
    (void)state;
    skip_without_faults();
    for (int nth = 1;; nth++) {
        char path[64];
        struct secret first;
        struct secret second;
        ledger_fixture_make_store(path);
        arm("fail:secret.*:%d", nth);
        enum err code = secret_load(path, 1, &first);
        int has_fired = fault_fired() > 0;
        fault_disarm();
        assert_true(code == ERR_OK || has_fired);
        assert_int_equal(secret_load(path, 1, &second), ERR_OK);
        assert_true(code != ERR_OK || memcmp(&first, &second, sizeof first) == 0);
        assert_int_equal(secret_load(path, 0, &first), ERR_OK);
        assert_memory_equal(&first, &second, sizeof first);
        ledger_fixture_remove(path);
        if (!has_fired) {
            assert_true(nth > 5);
            break;
        }
    }
}

/* Group retry: the first transaction is held up so that several members share the second. */

struct gate {
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    int is_closed;
    size_t answered;
    size_t committed;
    enum err worst;
};

static void pass_gate(void *context, enum err code, const char *message,
                      const struct ledger_appended *result) {
    struct gate *gate = context;
    (void)message;
    pthread_mutex_lock(&gate->mutex);
    gate->answered++;
    gate->committed += result != NULL;
    gate->worst = code != ERR_OK ? code : gate->worst;
    pthread_cond_broadcast(&gate->changed);
    while (gate->is_closed) {
        pthread_cond_wait(&gate->changed, &gate->mutex);
    }
    pthread_mutex_unlock(&gate->mutex);
}

static void wait_for_gate(struct gate *gate, size_t answered) {
    pthread_mutex_lock(&gate->mutex);
    while (gate->answered < answered) {
        pthread_cond_wait(&gate->changed, &gate->mutex);
    }
    pthread_mutex_unlock(&gate->mutex);
}

enum { GROUP = 6 };

/* Commits one turn, then a group of the other five under RULE. */
static struct gate run_group(struct ledger_fixture *fixture, const char *rule) {
    struct gate gate = {
        .mutex = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER, .is_closed = 1};
    struct ledger_fixture_turn *made = calloc(GROUP, sizeof *made);
    assert_non_null(made);
    for (int i = 0; i < GROUP; i++) {
        struct conversation_key key = ledger_fixture_key(fixture, i + 1);
        uint64_t generation;
        assert_int_equal(lease_take(ledger_leases(fixture->ledger), &key, &generation), ERR_OK);
        ledger_fixture_turn_init(&made[i], fixture, i + 1, 1, generation);
        assert_int_equal(ledger_append_submit(fixture->ledger, &made[i].request, pass_gate, &gate),
                         ERR_OK);
        wait_for_gate(&gate, 1);
    }
    assert_int_equal(fault_arm(rule), ERR_OK);
    pthread_mutex_lock(&gate.mutex);
    gate.is_closed = 0;
    pthread_cond_broadcast(&gate.changed);
    pthread_mutex_unlock(&gate.mutex);
    wait_for_gate(&gate, GROUP);
    fault_disarm();
    free(made);
    return gate;
}

static void test_ledger_faults_full_group_is_retried_one_by_one(void **state) {
    (void)state;
    skip_without_faults();
    const char *rules[] = {"fail:ledger.mdb_put:3", "fail:ledger.mdb_txn_commit.full:1"};
    for (size_t i = 0; i < ARRAY_LEN(rules); i++) {
        struct ledger_fixture fixture;
        struct ledger_stats stats;
        ledger_fixture_init(&fixture);
        ledger_fixture_open(&fixture);
        settle(&fixture);
        struct gate gate = run_group(&fixture, rules[i]);
        assert_int_equal(gate.committed, GROUP); /* all of them, in spite of the full map */
        assert_int_equal(ledger_stats_read(fixture.ledger, &stats), ERR_OK);
        assert_int_equal(stats.groups_retried, 1);
        ledger_fixture_reopen(&fixture);
        for (int name = 1; name <= GROUP; name++) {
            ledger_fixture_check(&fixture, name, 1);
        }
        ledger_fixture_done(&fixture);
    }
}

static void test_ledger_faults_full_member_leaves_the_others(void **state) {
    (void)state;
    skip_without_faults();
    struct ledger_fixture fixture;
    ledger_fixture_init(&fixture);
    ledger_fixture_open(&fixture);
    settle(&fixture);
    /* The group's own commit fails, then that of its second member alone. */
    struct gate gate =
        run_group(&fixture, "fail:ledger.mdb_txn_commit.full:1,fail:ledger.mdb_txn_commit.full:3");
    assert_int_equal(gate.committed, GROUP - 1);
    assert_int_equal(gate.worst, ERR_FULL);
    ledger_fixture_reopen(&fixture);
    for (int name = 1; name <= GROUP; name++) {
        assert_int_equal(ledger_fixture_turns(&fixture, name), name == 3 ? 0 : 1);
    }
    ledger_fixture_done(&fixture);
}

static void test_ledger_faults_failed_sync_is_final_for_the_group(void **state) {
    (void)state;
    skip_without_faults();
    struct ledger_fixture fixture;
    struct ledger_stats stats;
    ledger_fixture_init(&fixture);
    ledger_fixture_open(&fixture);
    settle(&fixture);
    struct gate gate = run_group(&fixture, "fail:ledger.mdb_txn_commit:1");
    assert_int_equal(gate.committed, 1);
    assert_int_equal(gate.worst, ERR_IO);
    assert_true(ledger_is_failed(fixture.ledger));
    assert_int_equal(ledger_stats_read(fixture.ledger, &stats), ERR_OK);
    assert_true(stats.is_failed);
    assert_int_equal(stats.groups_retried, 0);
    assert_non_null(strstr(stats.failure, "commit"));
    struct conversation_key key = ledger_fixture_key(&fixture, 1);
    assert_int_equal(ledger_delete(fixture.ledger, &key, NULL), ERR_IO);
    ledger_fixture_check(&fixture, 1, 1);
    ledger_fixture_reopen(&fixture);
    assert_false(ledger_is_failed(fixture.ledger));
    assert_int_equal(ledger_fixture_append(&fixture, 2, 1), ERR_OK);
    ledger_fixture_done(&fixture);
}

/* Crashes */

/* In the child: acknowledges each turn, and the delete as 'd', with one byte down the pipe. */
static void run_until_killed(struct ledger_fixture *fixture, const char *rule, int pipe_fd) {
    if (fault_arm(rule) != ERR_OK || ledger_open(&fixture->config, &fixture->ledger) != ERR_OK) {
        _exit(3);
    }
    struct conversation_key key = ledger_fixture_key(fixture, 2);
    for (uint32_t turn = 3; turn <= 6; turn++) {
        if (ledger_fixture_append(fixture, 1, turn) != ERR_OK || write(pipe_fd, "t", 1) != 1) {
            _exit(4);
        }
    }
    if (ledger_delete(fixture->ledger, &key, NULL) != ERR_OK || write(pipe_fd, "d", 1) != 1) {
        _exit(5);
    }
    usleep(200000); /* the purge */
    _exit(0);
}

/* True if the rule killed the child. Afterwards all that it acknowledged must be there. */
static int crash_once(const char *rule) {
    struct ledger_fixture fixture;
    int ends[2];
    int status;
    uint32_t acknowledged = 2;
    int is_deleted = 0;
    ledger_fixture_init(&fixture);
    ledger_fixture_open(&fixture);
    for (uint32_t turn = 1; turn <= 2; turn++) {
        assert_int_equal(ledger_fixture_append(&fixture, 1, turn), ERR_OK);
        assert_int_equal(ledger_fixture_append(&fixture, 2, turn), ERR_OK);
    }
    ledger_close(fixture.ledger); /* an environment is not used after a fork */
    fixture.ledger = NULL;
    assert_int_equal(pipe(ends), 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        close(ends[0]);
        run_until_killed(&fixture, rule, ends[1]);
    }
    close(ends[1]);
    for (char byte; read(ends[0], &byte, 1) == 1;) {
        acknowledged += byte == 't';
        is_deleted |= byte == 'd';
    }
    close(ends[0]);
    assert_int_equal(waitpid(child, &status, 0), child);
    int is_killed = WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
    if (!is_killed) {
        assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
        assert_int_equal(acknowledged, 6);
        assert_true(is_deleted);
    }
    ledger_fixture_open(&fixture);
    uint32_t found = ledger_fixture_turns(&fixture, 1);
    assert_true(found == acknowledged || (found == acknowledged + 1 && found <= 6));
    ledger_fixture_check(&fixture, 1, found);
    uint32_t other = ledger_fixture_turns(&fixture, 2);
    assert_true(other == 0 || (other == 2 && !is_deleted));
    struct ledger_record_tombstone tombstone;
    size_t count;
    assert_int_equal(ledger_tombstones_list(fixture.ledger, 0, 1, &tombstone, &count), ERR_OK);
    assert_int_equal(count, other == 0 ? 1 : 0);
    if (other > 0) {
        ledger_fixture_check(&fixture, 2, 2);
    } else {
        remove_tombstone(&fixture, tombstone.serial);
    }
    assert_int_equal(ledger_fixture_append(&fixture, 1, found + 1), ERR_OK);
    ledger_fixture_check(&fixture, 1, found + 1);
    ledger_fixture_done(&fixture);
    return is_killed;
}

static void test_ledger_faults_crash_loses_no_acknowledged_turn(void **state) {
    (void)state;
    skip_without_faults();
    const char *points[] = {
        "ledger.append.turn_put",      "ledger.commit.before", "ledger.commit.after",
        "ledger.delete.tombstone_put", "ledger.purge.before",
    };
    for (size_t i = 0; i < ARRAY_LEN(points); i++) {
        int nth = 1;
        for (int is_killed = 1; is_killed; nth++) {
            char rule[96];
            assert_true(nth < 20);
            snprintf(rule, sizeof rule, "kill:%s:%d", points[i], nth);
            is_killed = crash_once(rule);
        }
        assert_true(nth > 2); /* each point was met once at least */
    }
}

static void test_ledger_faults_crash_leaves_a_secret_or_none(void **state) {
    (void)state;
    skip_without_faults();
    const char *rules[] = {"kill:secret.written:1", "kill:secret.linked:1"};
    for (size_t i = 0; i < ARRAY_LEN(rules); i++) {
        char path[64];
        int status;
        struct secret first;
        struct secret second;
        ledger_fixture_make_store(path);
        pid_t child = fork();
        assert_true(child >= 0);
        if (child == 0) {
            enum err code = fault_arm(rules[i]);
            _exit(code == ERR_OK ? (int)secret_load(path, 1, &first) : 1);
        }
        assert_int_equal(waitpid(child, &status, 0), child);
        assert_true(WIFSIGNALED(status));
        enum err code = secret_load(path, 0, &first);
        assert_int_equal(code, i == 0 ? ERR_NOT_FOUND : ERR_OK);
        assert_int_equal(secret_load(path, 1, &second), ERR_OK);
        assert_true(i == 0 || memcmp(&first, &second, sizeof first) == 0);
        ledger_fixture_remove(path);
    }
}

static void test_ledger_faults_refuses_malformed_rules(void **state) {
    (void)state;
    skip_without_faults();
    const char *malformed[] = {"fail",      "fail:x",     "fail:x:",  "fail:x:0",
                               "fail:x:1-", "die:x:1",    "kill:x:y", "fail:x:1,,",
                               "log,fail",  "fail:x:1:2", "fail:x:-"};
    for (size_t i = 0; i < ARRAY_LEN(malformed); i++) {
        assert_int_equal(fault_arm(malformed[i]), ERR_INVALID);
        assert_false(fault_fails("x"));
    }
    assert_int_equal(fault_arm("fail:x.*:2+,fail:y:1"), ERR_OK);
    assert_false(fault_fails("x.a"));
    assert_true(fault_fails("x.b"));
    assert_true(fault_fails("x.a"));
    assert_true(fault_fails("y"));
    assert_false(fault_fails("y"));
    assert_false(fault_fails("yy"));
    assert_int_equal(fault_fired(), 3);
    assert_int_equal(fault_passes(), 5);
    fault_disarm();
    assert_false(fault_fails("x.a"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ledger_faults_refuses_malformed_rules),
        cmocka_unit_test(test_ledger_faults_append_is_whole_or_absent),
        cmocka_unit_test(test_ledger_faults_creation_is_whole_or_absent),
        cmocka_unit_test(test_ledger_faults_fork_is_whole_or_absent),
        cmocka_unit_test(test_ledger_faults_delete_is_whole_or_absent),
        cmocka_unit_test(test_ledger_faults_open_leaves_the_ledger_usable),
        cmocka_unit_test(test_ledger_faults_secret_is_whole_or_absent),
        cmocka_unit_test(test_ledger_faults_full_group_is_retried_one_by_one),
        cmocka_unit_test(test_ledger_faults_full_member_leaves_the_others),
        cmocka_unit_test(test_ledger_faults_failed_sync_is_final_for_the_group),
        cmocka_unit_test(test_ledger_faults_crash_loses_no_acknowledged_turn),
        cmocka_unit_test(test_ledger_faults_crash_leaves_a_secret_or_none),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
