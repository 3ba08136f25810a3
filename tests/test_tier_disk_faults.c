/*
 * Each failable call fails once, each kill point kills once. Whatever happens: a head that is found
 * reads back bit for bit, an acknowledged head or delete holds, the old head is there if the new
 * one is not, nothing unreferenced stays behind, and the cap holds. Needs the option TERN_FAULTS.
 */
#include "tests/tier_disk_fixture.h"

#include "base/fault.h"

#include <signal.h>
#include <sys/wait.h>

enum { CALLS_MAX = 2000, KILLS_MAX = 40, CONVERSATIONS = 6 };

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

/* Waits until the writer has collected everything. */
static void settle(struct fixture *fixture) {
    struct tier_disk_stats stats = {.garbage_entries = 1};
    for (int i = 0; i < 500 && stats.garbage_entries > 0; i++) {
        tier_disk_drain(fixture->tier);
        assert_int_equal(tier_disk_get_stats(fixture->tier, &stats), ERR_OK);
        if (stats.garbage_entries > 0) {
            usleep(2000);
        }
    }
    assert_int_equal(stats.garbage_entries, 0);
}

struct tally {
    struct fixture *fixture;
    uint64_t objects;
    uint64_t newest_blocks[256]; /* by lineage: blocks are shared by a line's heads */
};

static enum err tally_head(void *context, const struct record_head *head) {
    struct tally *tally = context;
    size_t placed = 0;
    struct head_failure failure;
    assert_int_equal(read_whole(tally->fixture, head, &placed, &failure), ERR_OK);
    assert_int_equal(placed, head->block_count + (head->tail_tokens > 0) + 1);
    uint64_t *blocks = &tally->newest_blocks[head->lineage % 256];
    tally->objects += placed - head->block_count;
    if (head->block_count > *blocks) {
        tally->objects += head->block_count - *blocks;
        *blocks = head->block_count;
    }
    return ERR_OK;
}

/* Reads every head back, and compares the number of objects with what heads need. */
static void check_all(struct fixture *fixture) {
    settle(fixture);
    struct tally tally = {.fixture = fixture};
    uint64_t refused = 1;
    assert_int_equal(
        state_walk_each_head(tier_disk_env(fixture->tier), tally_head, &tally, &refused), ERR_OK);
    assert_int_equal(refused, 0);
    struct state_walk_report report;
    assert_int_equal(
        state_walk_env(tier_disk_env(fixture->tier), &(struct state_walk_options){0}, &report),
        ERR_OK);
    assert_int_equal(report.heads_incomplete, 0);
    assert_int_equal(report.objects_refused, 0);
    assert_int_equal(report.objects, tally.objects);
    assert_true(dir_bytes(fixture) <= fixture->cap_bytes);
}

/* --- Nth failures ------------------------------------------------------------------------ */

static void spill_with_failures(struct fixture *fixture, uint64_t state_bytes, int every) {
    fixture_open(fixture);
    assert_int_equal(spill_simple(fixture, 1, 1, 1, 2 * BLOCK_SIZE + 1), SPILL_DURABLE);
    uint64_t turn = 2;
    for (int nth = 1;; nth += every) {
        assert_true(nth < CALLS_MAX);
        settle(fixture);
        struct spill_case spill;
        case_init(&spill, 1, 1, turn, (turn + 1) * BLOCK_SIZE + 1);
        spill.job.head.state_bytes = state_bytes;
        arm("fail:*:%d", nth);
        enum spill_outcome outcome = spill_now(fixture, &spill);
        int is_fired = fault_fired() > 0;
        fault_disarm();
        case_free(&spill);
        struct record_head head;
        assert_int_equal(look(fixture, 1, 9999, &head), TIER_DISK_HIT);
        assert_int_equal(head.key.turn, outcome == SPILL_DURABLE ? turn : turn - 1);
        assert_true(is_fired || outcome == SPILL_DURABLE);
        if (outcome != SPILL_DURABLE) {
            assert_int_equal(spill_simple(fixture, 1, 1, turn, (turn + 1) * BLOCK_SIZE + 1),
                             SPILL_DURABLE);
        }
        turn++;
        if (!is_fired) {
            break;
        }
    }
    check_all(fixture);
}

static void test_tier_disk_faults_of_a_spill_leave_the_old_head(void **state) {
    skip_without_faults();
    spill_with_failures(*state, STATE_BYTES, 1);
}

static void test_tier_disk_faults_of_a_spill_in_steps_leave_the_old_head(void **state) {
    skip_without_faults();
    spill_with_failures(*state, BIG_STATE_BYTES, 41);
}

static void test_tier_disk_faults_of_a_read_are_reported(void **state) {
    skip_without_faults();
    struct fixture *fixture = *state;
    fixture_open(fixture);
    assert_int_equal(spill_simple(fixture, 1, 1, 1, 3 * BLOCK_SIZE + 1), SPILL_DURABLE);
    settle(fixture);
    struct record_head head;
    assert_int_equal(look(fixture, 1, 9, &head), TIER_DISK_HIT);
    int failed = 0;
    for (int nth = 1; nth < CALLS_MAX; nth++) {
        struct record_head found;
        struct head_failure failure;
        size_t placed = 0;
        arm("fail:*:%d", nth);
        enum tier_disk_answer answer = look(fixture, 1, 9, &found);
        enum err code = read_whole(fixture, &head, &placed, &failure);
        int is_fired = fault_fired() > 0;
        fault_disarm();
        assert_true(answer == TIER_DISK_HIT || answer == TIER_DISK_UNREADABLE);
        assert_true(code != ERR_OK || placed == 5);
        failed += code != ERR_OK || answer != TIER_DISK_HIT;
        if (!is_fired) {
            assert_int_equal(code, ERR_OK);
            assert_int_equal(answer, TIER_DISK_HIT);
            break;
        }
    }
    assert_true(failed > 20);
    check_all(fixture);
}

static void test_tier_disk_faults_of_a_delete_lose_nothing_else(void **state) {
    skip_without_faults();
    struct fixture *fixture = *state;
    fixture_open(fixture);
    assert_int_equal(spill_simple(fixture, 2, 2, 1, 3 * BLOCK_SIZE + 1), SPILL_DURABLE);
    uint8_t conversation[RECORD_CONVERSATION_BYTES];
    name_conversation(conversation, 1);
    for (int nth = 1; nth < CALLS_MAX; nth++) {
        uint64_t lineage = (uint64_t)nth + 2;
        assert_int_equal(spill_simple(fixture, 1, lineage, 1, 3 * BLOCK_SIZE + 1), SPILL_DURABLE);
        settle(fixture);
        arm("fail:*:%d", nth);
        enum err code = tier_disk_remove_conversation(fixture->tier, conversation);
        int is_fired = fault_fired() > 0;
        fault_disarm();
        struct record_head head;
        enum tier_disk_answer answer = look(fixture, 1, 9, &head);
        assert_true(code != ERR_OK || answer == TIER_DISK_UNKNOWN);
        assert_int_equal(tier_disk_remove_conversation(fixture->tier, conversation), ERR_OK);
        assert_int_equal(look(fixture, 1, 9, &head), TIER_DISK_UNKNOWN);
        if (!is_fired) {
            assert_int_equal(code, ERR_OK);
            break;
        }
    }
    assert_reads(fixture, 2, 9, 1, 5);
    check_all(fixture);
}

static void test_tier_disk_faults_of_an_open_can_be_tried_again(void **state) {
    skip_without_faults();
    struct fixture *fixture = *state;
    fixture_open(fixture);
    assert_int_equal(spill_simple(fixture, 1, 1, 1, 3 * BLOCK_SIZE + 1), SPILL_DURABLE);
    fixture_close(fixture);
    for (int nth = 1; nth < CALLS_MAX; nth++) {
        arm("fail:*:%d", nth);
        enum err code = fixture_try_open(fixture);
        tier_disk_close(fixture->tier, 0);
        fixture->tier = NULL;
        int is_fired = fault_fired() > 0;
        fault_disarm();
        assert_true(is_fired || code == ERR_OK);
        if (!is_fired) {
            break;
        }
    }
    fixture_open(fixture);
    assert_reads(fixture, 1, 9, 1, 5);
    check_all(fixture);
}

/* A group whose transaction finds no page is written job by job. */
static void test_tier_disk_faults_a_full_map_is_retried(void **state) {
    skip_without_faults();
    struct fixture *fixture = *state;
    fixture_open(fixture);
    assert_int_equal(spill_simple(fixture, 1, 1, 1, 3 * BLOCK_SIZE + 1), SPILL_DURABLE);
    settle(fixture);
    arm("fail:state.map_full:%d", 5);
    assert_int_equal(spill_simple(fixture, 1, 1, 2, 4 * BLOCK_SIZE + 1), SPILL_DURABLE);
    assert_int_equal(fault_fired(), 1);
    arm("fail:state.map_full:%d+", 1);
    struct spill_case spill;
    case_init(&spill, 1, 1, 3, 5 * BLOCK_SIZE + 1);
    assert_int_equal(spill_now(fixture, &spill), SPILL_FAILED);
    assert_int_equal(spill.code, ERR_FULL);
    fault_disarm();
    case_free(&spill);
    assert_reads(fixture, 1, 9, 2, 6);
    check_all(fixture);
}

/* --- kill points ------------------------------------------------------------------------- */

struct note {
    int is_delete;
    int conversation;
    uint64_t turn;
};

static void acknowledge(int pipe_fd, int is_delete, int conversation, uint64_t turn) {
    struct note note = {is_delete, conversation, turn};
    if (write(pipe_fd, &note, sizeof note) != sizeof note) {
        _exit(3);
    }
}

/* What the child does until it is killed: turns of some conversations, one of them with a state
 * that takes several steps, under a cap that makes it evict, with reads and deletes between. */
static void work_until_killed(struct fixture *fixture, const char *rule, int pipe_fd) {
    if (fixture_try_open(fixture) != ERR_OK || fault_arm(rule) != ERR_OK) {
        _exit(2);
    }
    for (uint64_t turn = 1; turn <= 3; turn++) {
        for (int i = 1; i <= CONVERSATIONS; i++) {
            if (spill_simple(fixture, i, (uint64_t)i, turn, turn * 70) == SPILL_DURABLE) {
                acknowledge(pipe_fd, 0, i, turn);
            }
            struct record_head head;
            struct head_failure failure;
            size_t placed;
            if (i % 5 == 0 && look(fixture, i, 9, &head) == TIER_DISK_HIT &&
                read_whole(fixture, &head, &placed, &failure) != ERR_OK) {
                _exit(4);
            }
        }
        struct spill_case big;
        case_init(&big, 40, 40, turn, turn * 70);
        big.job.head.state_bytes = BIG_STATE_BYTES;
        (void)spill_now(fixture, &big);
        case_free(&big);
        uint8_t conversation[RECORD_CONVERSATION_BYTES];
        name_conversation(conversation, (int)turn);
        if (tier_disk_remove_conversation(fixture->tier, conversation) == ERR_OK) {
            acknowledge(pipe_fd, 1, (int)turn, turn);
        }
    }
    tier_disk_close(fixture->tier, 1);
    fixture->cap_bytes /= 2;
    if (fixture_try_open(fixture) != ERR_OK) {
        _exit(5);
    }
    _exit(0);
}

/* Acknowledged turns of conversations that were not evicted, and deletes that were not followed by
 * another spill, must hold. */
static void check_notes(struct fixture *fixture, int pipe_fd, int may_evict) {
    struct note last[64] = {0};
    struct note note;
    while (read(pipe_fd, &note, sizeof note) == sizeof note) {
        last[note.conversation] = note;
    }
    for (int i = 1; i <= CONVERSATIONS; i++) {
        struct record_head head;
        enum tier_disk_answer answer = look(fixture, i, 9, &head);
        if (last[i].turn == 0) {
            continue;
        }
        if (last[i].is_delete) {
            /* Only a later turn, written but not acknowledged, may be there. */
            assert_true(answer == TIER_DISK_UNKNOWN || head.key.turn > last[i].turn);
        } else if (answer == TIER_DISK_HIT) {
            assert_true(head.key.turn >= last[i].turn);
        } else {
            assert_true(may_evict || i <= 3);
        }
    }
}

/* True if the rule killed the child. */
static int kill_once(struct fixture *fixture, const char *rule, int may_evict) {
    int pipe_fds[2];
    assert_int_equal(pipe(pipe_fds), 0);
    char command[160];
    snprintf(command, sizeof command, "rm -rf %s", fixture->dir);
    assert_int_equal(system(command), 0);
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        close(pipe_fds[0]);
        work_until_killed(fixture, rule, pipe_fds[1]);
    }
    close(pipe_fds[1]);
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    int was_killed = WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
    if (!was_killed && (!WIFEXITED(status) || WEXITSTATUS(status) != 0)) {
        print_error("%s: child ended with status 0x%x\n", rule, (unsigned)status);
    }
    assert_true(was_killed || (WIFEXITED(status) && WEXITSTATUS(status) == 0));
    struct state_walk_report report;
    assert_int_equal(state_walk_dir(fixture->dir, &report), ERR_OK);
    assert_int_equal(report.heads_refused + report.heads_incomplete + report.lineages_refused, 0);
    fixture_open(fixture);
    check_notes(fixture, pipe_fds[0], may_evict || !was_killed);
    check_all(fixture);
    assert_int_equal(spill_simple(fixture, 60, tier_disk_take_lineage(fixture->tier), 9, 70),
                     SPILL_DURABLE);
    fixture_close(fixture);
    close(pipe_fds[0]);
    return was_killed;
}

static void kill_everywhere(struct fixture *fixture, const char *point, int every, int may_evict) {
    int kills = 0;
    for (int nth = 1; nth <= KILLS_MAX * every; nth += every) {
        char rule[64];
        snprintf(rule, sizeof rule, "kill:%s:%d", point, nth);
        if (!kill_once(fixture, rule, may_evict)) {
            break;
        }
        kills++;
    }
    if (kills == 0) {
        print_error("%s was never passed\n", point);
    }
    assert_true(kills > 0);
}

static void test_tier_disk_faults_kills_in_a_spill(void **state) {
    skip_without_faults();
    struct fixture *fixture = *state;
    fixture->cap_bytes = 64 * 1024 * 1024;
    kill_everywhere(fixture, "spill.step", 1, 0);
    kill_everywhere(fixture, "spill.before", 9, 0);
    kill_everywhere(fixture, "spill.commit.before", 10, 0);
    kill_everywhere(fixture, "spill.commit.after", 8, 0);
}

static void test_tier_disk_faults_kills_in_eviction_and_collection(void **state) {
    skip_without_faults();
    struct fixture *fixture = *state;
    fixture->cap_bytes = 24 * 1024 * 1024;
    kill_everywhere(fixture, "evict.before", 2, 1);
    kill_everywhere(fixture, "evict.after", 2, 1);
    kill_everywhere(fixture, "collect.before", 13, 1);
    kill_everywhere(fixture, "collect.after", 15, 1);
}

static void test_tier_disk_faults_kills_in_delete_promote_and_shrink(void **state) {
    skip_without_faults();
    struct fixture *fixture = *state;
    fixture->cap_bytes = 48 * 1024 * 1024;
    kill_everywhere(fixture, "delete.before", 1, 0);
    kill_everywhere(fixture, "delete.after", 1, 0);
    kill_everywhere(fixture, "promote.in", 9, 0);
    fixture->cap_bytes = 34 * 1024 * 1024;
    kill_everywhere(fixture, "shrink.before", 1, 1);
    kill_everywhere(fixture, "shrink.in", 1, 1);
    kill_everywhere(fixture, "shrink.after", 1, 1);
}

#define FAULT_TEST(name) cmocka_unit_test_setup_teardown(name, fixture_setup, fixture_teardown)

int main(void) {
    const struct CMUnitTest tests[] = {
        FAULT_TEST(test_tier_disk_faults_of_a_spill_leave_the_old_head),
        FAULT_TEST(test_tier_disk_faults_of_a_spill_in_steps_leave_the_old_head),
        FAULT_TEST(test_tier_disk_faults_of_a_read_are_reported),
        FAULT_TEST(test_tier_disk_faults_of_a_delete_lose_nothing_else),
        FAULT_TEST(test_tier_disk_faults_of_an_open_can_be_tried_again),
        FAULT_TEST(test_tier_disk_faults_a_full_map_is_retried),
        FAULT_TEST(test_tier_disk_faults_kills_in_a_spill),
        FAULT_TEST(test_tier_disk_faults_kills_in_eviction_and_collection),
        FAULT_TEST(test_tier_disk_faults_kills_in_delete_promote_and_shrink),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
