#include "tests/tier_disk_fixture.h"

#include "base/now.h"
#include "store/state_open.h"
#include "store/state_table.h"

static struct tier_disk_stats stats_of(struct fixture *fixture) {
    struct tier_disk_stats stats;
    assert_int_equal(tier_disk_get_stats(fixture->tier, &stats), ERR_OK);
    return stats;
}

static void test_tier_disk_reads_back_bit_for_bit(void **state) {
    struct fixture *fixture = *state;
    fixture_open(fixture);
    assert_true(fixture->opening.is_fresh);
    uint64_t lineage = tier_disk_take_lineage(fixture->tier);
    assert_int_equal(spill_simple(fixture, 1, lineage, 1, 100), SPILL_DURABLE);
    assert_reads(fixture, 1, 9, 1, 3 + 1 + 1);
    /* A length on a block boundary has no tail. */
    assert_int_equal(spill_simple(fixture, 1, lineage, 2, 128), SPILL_DURABLE);
    assert_reads(fixture, 1, 9, 2, 4 + 1);
    assert_reads(fixture, 1, 1, 1, 5);
    struct record_head head;
    assert_int_equal(look(fixture, 2, 9, &head), TIER_DISK_UNKNOWN);
    assert_int_equal(look(fixture, 1, 0, &head), TIER_DISK_UNKNOWN);
    struct record_head_key other_model = head_key(1, 2, 9);
    assert_int_equal(tier_disk_lookup(fixture->tier, &other_model, &head), TIER_DISK_UNKNOWN);
}

static void test_tier_disk_writes_only_new_blocks(void **state) {
    struct fixture *fixture = *state;
    fixture_open(fixture);
    struct spill_case spill;
    case_init(&spill, 1, 1, 1, 10 * BLOCK_SIZE);
    assert_int_equal(spill_now(fixture, &spill), SPILL_DURABLE);
    assert_int_equal(spill.fetches, 11);
    case_free(&spill);
    case_init(&spill, 1, 1, 2, 12 * BLOCK_SIZE + 1);
    assert_int_equal(spill_now(fixture, &spill), SPILL_DURABLE);
    assert_int_equal(spill.fetches, 2 + 1 + 1);
    case_free(&spill);
    /* Published again at an unchanged position: nothing to do. */
    case_init(&spill, 1, 1, 2, 12 * BLOCK_SIZE + 1);
    assert_int_equal(spill_now(fixture, &spill), SPILL_DURABLE);
    assert_int_equal(spill.fetches, 0);
    case_free(&spill);
    /* The same turn with other tokens is not the same head. */
    case_init(&spill, 1, 1, 2, 12 * BLOCK_SIZE + 2);
    assert_int_equal(spill_now(fixture, &spill), SPILL_FAILED);
    assert_int_equal(spill.code, ERR_CONFLICT);
    case_free(&spill);
    assert_reads(fixture, 1, 9, 2, 14);
}

static void test_tier_disk_refuses_a_gap_in_blocks(void **state) {
    struct fixture *fixture = *state;
    fixture_open(fixture);
    struct spill_case spill;
    case_init(&spill, 1, 1, 1, 4 * BLOCK_SIZE);
    spill.segments[0].held_from = 2;
    assert_int_equal(spill_now(fixture, &spill), SPILL_FAILED);
    assert_int_equal(spill.code, ERR_CONFLICT);
    case_free(&spill);
    struct record_head head;
    assert_int_equal(look(fixture, 1, 9, &head), TIER_DISK_UNKNOWN);
}

static void test_tier_disk_keeps_two_heads(void **state) {
    struct fixture *fixture = *state;
    fixture_open(fixture);
    for (uint64_t turn = 1; turn <= 5; turn++) {
        assert_int_equal(spill_simple(fixture, 1, 1, turn, turn * 40), SPILL_DURABLE);
    }
    assert_int_equal(stats_of(fixture).heads, 2);
    assert_reads(fixture, 1, 9, 5, 6 + 1 + 1);
    assert_reads(fixture, 1, 4, 4, 5 + 1); /* 160 tokens: no tail */
    struct record_head head;
    assert_int_equal(look(fixture, 1, 3, &head), TIER_DISK_UNKNOWN);
    /* A spill that comes after two newer ones is not written. */
    assert_int_equal(spill_simple(fixture, 1, 1, 3, 120), SPILL_SUPERSEDED);
}

static void test_tier_disk_heads_of_two_models_lie_side_by_side(void **state) {
    struct fixture *fixture = *state;
    fixture_open(fixture);
    for (int model = 1; model <= 2; model++) {
        for (uint64_t turn = 1; turn <= 3; turn++) {
            struct spill_case spill;
            case_init(&spill, 1, (uint64_t)model, turn, turn * 40);
            spill.job.head.key = head_key(1, model, turn);
            assert_int_equal(spill_now(fixture, &spill), SPILL_DURABLE);
            case_free(&spill);
        }
    }
    assert_int_equal(stats_of(fixture).heads, 4);
    for (int model = 1; model <= 2; model++) {
        struct record_head head;
        struct record_head_key key = head_key(1, model, 9);
        assert_int_equal(tier_disk_lookup(fixture->tier, &key, &head), TIER_DISK_HIT);
        assert_int_equal(head.lineage, model);
        assert_int_equal(head.key.turn, 3);
    }
}

static void test_tier_disk_survives_reopening(void **state) {
    struct fixture *fixture = *state;
    fixture_open(fixture);
    uint64_t before = tier_disk_take_lineage(fixture->tier);
    assert_int_equal(spill_simple(fixture, 1, before, 1, 100), SPILL_DURABLE);
    fixture_close(fixture);
    fixture_open(fixture);
    assert_false(fixture->opening.is_fresh);
    assert_reads(fixture, 1, 9, 1, 5);
    assert_true(tier_disk_take_lineage(fixture->tier) > before);
    struct stat stat_buf;
    char path[160];
    assert_int_equal(stat(fixture->dir, &stat_buf), 0);
    assert_int_equal(stat_buf.st_mode & 0777, 0700);
    snprintf(path, sizeof path, "%s/data.mdb", fixture->dir);
    assert_int_equal(stat(path, &stat_buf), 0);
    assert_int_equal(stat_buf.st_mode & 0777, 0600);
    snprintf(path, sizeof path, "%s/lock.mdb", fixture->dir);
    assert_int_equal(stat(path, &stat_buf), 0);
    assert_int_equal(stat_buf.st_mode & 0777, 0600);
}

static void test_tier_disk_fork_shares_blocks_and_outlives_its_parent(void **state) {
    struct fixture *fixture = *state;
    fixture_open(fixture);
    assert_int_equal(spill_simple(fixture, 1, 1, 1, 10 * BLOCK_SIZE), SPILL_DURABLE);
    struct spill_case spill;
    case_init(&spill, 2, 2, 1, 12 * BLOCK_SIZE);
    case_add_parent(&spill, 1, 1, 6);
    spill.segments[0].held_from = 6; /* the parent's blocks are on disk */
    assert_int_equal(spill_now(fixture, &spill), SPILL_DURABLE);
    assert_int_equal(spill.fetches, 6 + 1);
    case_free(&spill);
    assert_reads(fixture, 2, 9, 1, 12 + 1);
    uint8_t conversation[RECORD_CONVERSATION_BYTES];
    name_conversation(conversation, 1);
    assert_int_equal(tier_disk_remove_conversation(fixture->tier, conversation), ERR_OK);
    struct record_head head;
    assert_int_equal(look(fixture, 1, 9, &head), TIER_DISK_UNKNOWN);
    assert_reads(fixture, 2, 9, 1, 13);
    name_conversation(conversation, 2);
    assert_int_equal(tier_disk_remove_conversation(fixture->tier, conversation), ERR_OK);
    assert_int_equal(stats_of(fixture).lineages, 0);
    assert_int_equal(stats_of(fixture).heads, 0);
    for (int i = 0; i < 500 && stats_of(fixture).runs > 0; i++) {
        usleep(10000); /* collected in the background */
    }
    assert_int_equal(stats_of(fixture).runs, 0);
}

static void test_tier_disk_supersedes_only_what_nobody_waits_for(void **state) {
    struct fixture *fixture = *state;
    fixture_open(fixture);
    struct spill_case first;
    case_init(&first, 9, 90, 1, 40);
    case_hold(&first, 1);
    assert_int_equal(tier_disk_spill(fixture->tier, &first.job), ERR_OK);
    case_wait_fetch(&first); /* the writer is busy: what follows waits in the queue */
    struct spill_case jobs[4];
    for (uint64_t i = 0; i < 4; i++) {
        case_init(&jobs[i], 1, 1, i + 1, 40 * (i + 1));
        jobs[i].job.flags = i == 1 ? SPILL_MUST_WRITE : 0;
        assert_int_equal(tier_disk_spill(fixture->tier, &jobs[i].job), ERR_OK);
    }
    assert_int_equal(jobs[0].outcome, SPILL_SUPERSEDED);
    assert_int_equal(jobs[0].done, 1);
    assert_int_equal(jobs[1].done, 0);
    assert_int_equal(jobs[2].done, 1);
    assert_int_equal(jobs[2].outcome, SPILL_SUPERSEDED);
    case_hold(&first, 0);
    tier_disk_drain(fixture->tier);
    assert_int_equal(first.outcome, SPILL_DURABLE);
    assert_int_equal(jobs[1].outcome, SPILL_DURABLE);
    assert_int_equal(jobs[3].outcome, SPILL_DURABLE);
    assert_int_equal(jobs[3].done, 1);
    assert_int_equal(stats_of(fixture).spills_superseded, 2);
    assert_reads(fixture, 1, 9, 4, 5 + 1);
    case_free(&first);
    for (int i = 0; i < 4; i++) {
        case_free(&jobs[i]);
    }
}

static void test_tier_disk_a_full_queue_is_refused(void **state) {
    struct fixture *fixture = *state;
    fixture_open(fixture);
    struct spill_case first;
    case_init(&first, 9, 90, 1, 40);
    case_hold(&first, 1);
    assert_int_equal(tier_disk_spill(fixture->tier, &first.job), ERR_OK);
    case_wait_fetch(&first);
    struct spill_case jobs[9];
    int refused = 0;
    for (int i = 0; i < 9; i++) {
        case_init(&jobs[i], 10 + i, 100 + (uint64_t)i, 1, 40);
        enum err code = tier_disk_spill(fixture->tier, &jobs[i].job);
        refused += code == ERR_FULL;
        assert_true(code == ERR_OK || code == ERR_FULL);
    }
    assert_int_equal(refused, 2); /* 8 nodes, of which the running job holds one */
    /* A waiting job of a deleted conversation is cancelled, not written. */
    assert_int_equal(jobs[0].done, 0);
    case_hold(&first, 0);
    uint8_t conversation[RECORD_CONVERSATION_BYTES];
    name_conversation(conversation, 16);
    tier_disk_drain(fixture->tier);
    assert_int_equal(tier_disk_remove_conversation(fixture->tier, conversation), ERR_OK);
    struct record_head head;
    assert_int_equal(look(fixture, 16, 9, &head), TIER_DISK_UNKNOWN);
    assert_int_equal(look(fixture, 12, 9, &head), TIER_DISK_HIT);
    case_free(&first);
    for (int i = 0; i < 9; i++) {
        case_free(&jobs[i]);
    }
}

static void test_tier_disk_deleting_cancels_waiting_jobs(void **state) {
    struct fixture *fixture = *state;
    fixture_open(fixture);
    struct spill_case first;
    struct spill_case second;
    case_init(&first, 9, 90, 1, 40);
    case_init(&second, 1, 1, 1, 40);
    case_hold(&first, 1);
    assert_int_equal(tier_disk_spill(fixture->tier, &first.job), ERR_OK);
    case_wait_fetch(&first);
    assert_int_equal(tier_disk_spill(fixture->tier, &second.job), ERR_OK);
    case_hold(&first, 0);
    uint8_t conversation[RECORD_CONVERSATION_BYTES];
    name_conversation(conversation, 1);
    assert_int_equal(tier_disk_remove_conversation(fixture->tier, conversation), ERR_OK);
    assert_int_equal(second.done, 1);
    struct record_head head;
    assert_int_equal(look(fixture, 1, 9, &head), TIER_DISK_UNKNOWN);
    tier_disk_drain(fixture->tier);
    case_free(&first);
    case_free(&second);
}

static void test_tier_disk_evicts_under_a_small_budget(void **state) {
    struct fixture *fixture = *state;
    fixture->cap_bytes = 4 * 1024 * 1024;
    fixture_open(fixture);
    /* Each takes about 120 KB: far more than fit. */
    for (int i = 1; i <= 100; i++) {
        assert_int_equal(spill_simple(fixture, i, (uint64_t)i, 1, 12 * BLOCK_SIZE + 5),
                         SPILL_DURABLE);
        assert_true(dir_bytes(fixture) <= fixture->cap_bytes);
    }
    struct tier_disk_stats stats = stats_of(fixture);
    assert_true(stats.evictions > 50);
    assert_true(stats.heads > 5);
    assert_reads(fixture, 100, 9, 1, 14);
    struct record_head head;
    int hits = 0;
    for (int i = 1; i <= 100; i++) {
        enum tier_disk_answer answer = look(fixture, i, 9, &head);
        assert_true(answer == TIER_DISK_HIT || answer == TIER_DISK_UNKNOWN);
        hits += answer == TIER_DISK_HIT;
        if (answer == TIER_DISK_HIT) {
            assert_reads(fixture, i, 9, 1, 14);
        }
    }
    assert_int_equal(hits, stats.heads);
}

static void test_tier_disk_refuses_what_can_never_fit(void **state) {
    struct fixture *fixture = *state;
    fixture->cap_bytes = 4 * 1024 * 1024;
    fixture_open(fixture);
    assert_int_equal(spill_simple(fixture, 1, 1, 1, 100), SPILL_DURABLE);
    struct spill_case spill;
    case_init(&spill, 2, 2, 1, 100);
    spill.job.head.state_bytes = BIG_STATE_BYTES;
    assert_int_equal(spill_now(fixture, &spill), SPILL_FAILED);
    assert_int_equal(spill.code, ERR_FULL);
    case_free(&spill);
    assert_reads(fixture, 1, 9, 1, 5); /* nothing was given up for it */
    assert_int_equal(stats_of(fixture).evictions, 0);
}

static void test_tier_disk_a_large_head_takes_several_steps(void **state) {
    struct fixture *fixture = *state;
    fixture_open(fixture);
    struct spill_case spill;
    case_init(&spill, 1, 1, 1, 40 * BLOCK_SIZE + 3);
    spill.job.head.state_bytes = BIG_STATE_BYTES;
    assert_int_equal(spill_now(fixture, &spill), SPILL_DURABLE);
    case_free(&spill);
    assert_reads(fixture, 1, 9, 1, 40 + 2);
    assert_int_equal(stats_of(fixture).garbage_entries, 0);
    struct state_walk_report report;
    struct state_walk_options options = {.is_decoding = 1, .object_bytes_max = BIG_STATE_BYTES};
    assert_int_equal(state_walk_env(tier_disk_env(fixture->tier), &options, &report), ERR_OK);
    assert_int_equal(report.heads, 1);
    assert_int_equal(report.objects, 42);
    assert_int_equal(report.objects_refused, 0);
    assert_int_equal(report.heads_incomplete, 0);
}

static void test_tier_disk_a_failed_step_leaves_the_old_head(void **state) {
    struct fixture *fixture = *state;
    fixture_open(fixture);
    assert_int_equal(spill_simple(fixture, 1, 1, 1, 4 * BLOCK_SIZE + 1), SPILL_DURABLE);
    struct spill_case spill;
    case_init(&spill, 1, 1, 2, 9 * BLOCK_SIZE + 1);
    spill.job.head.state_bytes = BIG_STATE_BYTES;
    spill.fail_fetch_at = 7; /* after the blocks went out in a step, since the state is large */
    assert_int_equal(spill_now(fixture, &spill), SPILL_FAILED);
    assert_int_equal(spill.code, ERR_DEVICE);
    case_free(&spill);
    assert_reads(fixture, 1, 9, 1, 4 + 2);
    /* The line goes on where the old head ends. */
    assert_int_equal(spill_simple(fixture, 1, 1, 2, 9 * BLOCK_SIZE + 1), SPILL_DURABLE);
    assert_reads(fixture, 1, 9, 2, 9 + 2);
    fixture_close(fixture);
    fixture_open(fixture);
    assert_reads(fixture, 1, 9, 2, 9 + 2);
    assert_reads(fixture, 1, 1, 1, 4 + 2);
}

static void test_tier_disk_meets_a_lowered_cap_before_it_opens(void **state) {
    struct fixture *fixture = *state;
    fixture_open(fixture);
    for (int i = 1; i <= 60; i++) {
        assert_int_equal(spill_simple(fixture, i, (uint64_t)i, 1, 12 * BLOCK_SIZE), SPILL_DURABLE);
    }
    fixture_close(fixture);
    uint64_t before = dir_bytes(fixture);
    fixture->cap_bytes = before / 2;
    fixture_open(fixture);
    assert_true(dir_bytes(fixture) <= fixture->cap_bytes);
    assert_false(fixture->opening.is_begun_anew);
    assert_true(fixture->opening.heads_evicted > 10);
    struct tier_disk_stats stats = stats_of(fixture);
    assert_true(stats.heads >= 15 && stats.heads < 50);
    struct record_head head;
    for (int i = 1; i <= 60; i++) {
        if (look(fixture, i, 9, &head) == TIER_DISK_HIT) {
            assert_reads(fixture, i, 9, 1, 13);
        }
    }
    fixture_close(fixture);
    fixture->cap_bytes = TIER_DISK_BYTES_MIN;
    fixture_open(fixture);
    assert_true(dir_bytes(fixture) <= fixture->cap_bytes);
    assert_int_equal(spill_simple(fixture, 1, tier_disk_take_lineage(fixture->tier), 2, 64),
                     SPILL_DURABLE);
}

static void test_tier_disk_delete_works_when_full(void **state) {
    struct fixture *fixture = *state;
    fixture->cap_bytes = 2 * 1024 * 1024;
    fixture_open(fixture);
    for (int i = 1; i <= 30; i++) {
        struct spill_case spill;
        case_init(&spill, i, (uint64_t)i, 1, 12 * BLOCK_SIZE);
        spill.job.head.flags = RECORD_HEAD_PINNED; /* nothing can be evicted */
        enum spill_outcome outcome = spill_now(fixture, &spill);
        assert_true(outcome == SPILL_DURABLE ||
                    (outcome == SPILL_FAILED && spill.code == ERR_FULL));
        case_free(&spill);
    }
    assert_true(stats_of(fixture).spills_failed > 0);
    assert_true(stats_of(fixture).evictions == 0);
    for (int i = 1; i <= 30; i++) {
        uint8_t conversation[RECORD_CONVERSATION_BYTES];
        name_conversation(conversation, i);
        assert_int_equal(tier_disk_remove_conversation(fixture->tier, conversation), ERR_OK);
    }
    assert_int_equal(stats_of(fixture).heads, 0);
    assert_int_equal(spill_simple(fixture, 50, 50, 1, 12 * BLOCK_SIZE), SPILL_DURABLE);
}

static void test_tier_disk_a_bad_object_is_met_once(void **state) {
    struct fixture *fixture = *state;
    fixture_open(fixture);
    assert_int_equal(spill_simple(fixture, 1, 1, 1, 4 * BLOCK_SIZE + 1), SPILL_DURABLE);
    assert_int_equal(spill_simple(fixture, 1, 1, 2, 9 * BLOCK_SIZE + 1), SPILL_DURABLE);
    damage_object(fixture, &(struct record_object_key){RECORD_BLOCK, 1, 6});
    struct record_head head;
    struct head_failure failure = {0};
    size_t placed = 0;
    assert_int_equal(look(fixture, 1, 9, &head), TIER_DISK_HIT);
    assert_int_equal(read_whole(fixture, &head, &placed, &failure), ERR_CORRUPT);
    assert_int_equal(placed, 6);
    assert_int_equal(failure.verdict, OBJECT_DAMAGED);
    assert_int_equal(failure.key.index, 6);
    assert_int_equal(tier_disk_quarantine(fixture->tier, &head, &failure), ERR_OK);
    assert_int_equal(stats_of(fixture).quarantines, 1);
    /* The older head doesn't need the bad block. */
    assert_reads(fixture, 1, 9, 1, 4 + 2);
    /* What goes on from it writes the bad block anew. */
    assert_int_equal(spill_simple(fixture, 1, 1, 2, 9 * BLOCK_SIZE + 1), SPILL_DURABLE);
    assert_reads(fixture, 1, 9, 2, 9 + 2);
}

static void test_tier_disk_a_bad_state_is_met_once(void **state) {
    struct fixture *fixture = *state;
    fixture_open(fixture);
    assert_int_equal(spill_simple(fixture, 1, 1, 1, 4 * BLOCK_SIZE + 1), SPILL_DURABLE);
    damage_object(fixture, &(struct record_object_key){RECORD_STATE, 1, 1});
    struct record_head head;
    struct head_failure failure = {0};
    size_t placed = 0;
    assert_int_equal(look(fixture, 1, 9, &head), TIER_DISK_HIT);
    assert_int_equal(read_whole(fixture, &head, &placed, &failure), ERR_CORRUPT);
    assert_int_equal(failure.key.part, RECORD_STATE);
    assert_int_equal(tier_disk_quarantine(fixture->tier, &head, &failure), ERR_OK);
    assert_int_equal(look(fixture, 1, 9, &head), TIER_DISK_UNKNOWN);
    fixture_close(fixture);
    fixture_open(fixture);
    assert_int_equal(look(fixture, 1, 9, &head), TIER_DISK_UNKNOWN);
}

static void test_tier_disk_refuses_a_newer_format(void **state) {
    struct fixture *fixture = *state;
    fixture_open(fixture);
    fixture_close(fixture);
    struct state_env *env;
    struct state_txn *txn;
    assert_int_equal(
        state_env_open(&(struct state_env_config){.dir = fixture->dir, .map_bytes = CAP_BYTES},
                       &env),
        ERR_OK);
    assert_int_equal(state_env_begin_write(env, &txn), ERR_OK);
    assert_int_equal(
        state_table_put_format(
            txn, &(struct record_format){.version = RECORD_FORMAT_VERSION + 1, .lineage_next = 7}),
        ERR_OK);
    assert_int_equal(state_env_commit(txn), ERR_OK);
    state_env_close(env);
    assert_int_equal(fixture_try_open(fixture), ERR_UNSUPPORTED);
    assert_non_null(strstr(err_message(), "newer"));
}

static void test_tier_disk_touches_are_written(void **state) {
    struct fixture *fixture = *state;
    fixture_open(fixture);
    assert_int_equal(spill_simple(fixture, 1, 1, 1, 40), SPILL_DURABLE);
    struct record_head_key key = head_key(1, 1, 1);
    for (int i = 0; i < 3; i++) {
        tier_disk_touch(fixture->tier, &key);
    }
    fixture_close(fixture);
    fixture_open(fixture);
    struct record_head head;
    assert_int_equal(look(fixture, 1, 9, &head), TIER_DISK_HIT);
    assert_int_equal(head.hits, 3);
}

static void test_tier_disk_expired_heads_are_not_found(void **state) {
    struct fixture *fixture = *state;
    fixture_open(fixture);
    struct spill_case spill;
    case_init(&spill, 1, 1, 1, 40);
    spill.job.head.expires_ms = 1;
    assert_int_equal(spill_now(fixture, &spill), SPILL_DURABLE);
    case_free(&spill);
    struct record_head head;
    assert_int_equal(look(fixture, 1, 9, &head), TIER_DISK_EXPIRED);
    struct record_head_key key = head_key(1, 1, 1);
    assert_int_equal(tier_disk_remove_head(fixture->tier, &key), ERR_OK);
    assert_int_equal(look(fixture, 1, 9, &head), TIER_DISK_UNKNOWN);
    assert_int_equal(tier_disk_remove_head(fixture->tier, &key), ERR_OK);
}

static void test_tier_disk_a_replaced_line_goes(void **state) {
    struct fixture *fixture = *state;
    fixture_open(fixture);
    for (uint64_t turn = 1; turn <= 6; turn++) {
        assert_int_equal(spill_simple(fixture, 1, 1, turn, turn * 40), SPILL_DURABLE);
    }
    struct spill_case spill;
    case_init(&spill, 1, 2, 4, 150);
    case_add_parent(&spill, 1, 1, 3);
    spill.segments[0].held_from = 3;
    spill.job.flags = SPILL_REPLACES_NEWER;
    assert_int_equal(spill_now(fixture, &spill), SPILL_DURABLE);
    case_free(&spill);
    assert_int_equal(stats_of(fixture).heads, 1);
    assert_reads(fixture, 1, 9, 4, 4 + 1 + 1);
    assert_int_equal(stats_of(fixture).lineages, 2);
}

static void test_tier_disk_without_attention_or_without_state(void **state) {
    struct fixture *fixture = *state;
    fixture_open(fixture);
    struct spill_case spill;
    case_init(&spill, 1, 1, 1, 100);
    spill.job.head.block_bytes = 0;
    assert_int_equal(spill_now(fixture, &spill), SPILL_DURABLE);
    case_free(&spill);
    assert_reads(fixture, 1, 9, 1, 1);
    case_init(&spill, 2, 2, 1, 100);
    spill.job.head.state_bytes = 0;
    assert_int_equal(spill_now(fixture, &spill), SPILL_DURABLE);
    case_free(&spill);
    assert_reads(fixture, 2, 9, 1, 4);
}

/* What isn't an environment is refused, and set aside on request, under the cap. */
static void test_tier_disk_sets_aside_what_is_no_environment(void **state) {
    struct fixture *fixture = *state;
    fixture->cap_bytes = 4 * 1024 * 1024;
    char path[160];
    fixture_open(fixture);
    fixture_close(fixture);
    snprintf(path, sizeof path, "%s/data.mdb", fixture->dir);
    FILE *file = fopen(path, "r+b");
    assert_non_null(file);
    for (int i = 0; i < 20000; i++) {
        assert_int_equal(fwrite("nonsense", 8, 1, file), 1);
    }
    fclose(file);
    enum err code = fixture_try_open(fixture);
    assert_true(code == ERR_FORMAT || code == ERR_CORRUPT);
    assert_int_equal(state_open_set_aside(fixture->dir), ERR_OK);
    assert_true(dir_bytes(fixture) > 100000);
    fixture_open(fixture);
    assert_true(fixture->opening.is_fresh);
    for (int i = 1; i <= 60; i++) {
        assert_int_equal(spill_simple(fixture, i, (uint64_t)i, 1, 12 * BLOCK_SIZE), SPILL_DURABLE);
        assert_true(dir_bytes(fixture) <= fixture->cap_bytes);
    }
}

static void test_tier_disk_names_a_reader_that_pins_pages(void **state) {
    struct fixture *fixture = *state;
    fixture->cap_bytes = 4 * 1024 * 1024;
    fixture_open(fixture);
    assert_int_equal(spill_simple(fixture, 1, 1, 1, 40), SPILL_DURABLE);
    struct state_txn *txn;
    assert_int_equal(state_env_begin_read(tier_disk_env(fixture->tier), &txn), ERR_OK);
    int is_named = 0;
    for (int i = 2; i <= 80 && !is_named; i++) {
        struct spill_case spill;
        case_init(&spill, i, (uint64_t)i, 1, 12 * BLOCK_SIZE);
        if (spill_now(fixture, &spill) == SPILL_FAILED) {
            char pid[32];
            snprintf(pid, sizeof pid, "process %d", (int)getpid());
            assert_int_equal(spill.code, ERR_BUSY);
            assert_non_null(strstr(spill.message, pid));
            is_named = 1;
        }
        case_free(&spill);
    }
    assert_true(is_named);
    state_env_abort(txn);
    assert_int_equal(spill_simple(fixture, 90, 90, 1, 12 * BLOCK_SIZE), SPILL_DURABLE);
    assert_reads(fixture, 90, 9, 1, 13);
}

enum { WORKERS = 3, WORKER_TURNS = 12 };

struct worker {
    struct fixture *fixture;
    int conversation;
    struct spill_case spills[WORKER_TURNS];
    int refused;
    int wrong;
};

/* Turns of one conversation, each read back in whatever state the queue has left it. Counts instead
 * of asserting: a failed assertion must not leave a thread. */
static void *work(void *context) {
    struct worker *worker = context;
    struct tier_disk *tier = worker->fixture->tier;
    uint64_t lineage = tier_disk_take_lineage(tier);
    for (uint64_t i = 0; i < WORKER_TURNS; i++) {
        case_init(&worker->spills[i], worker->conversation, lineage, i + 1, (i + 1) * 40);
        worker->refused += tier_disk_spill(tier, &worker->spills[i].job) != ERR_OK;
        struct record_head head;
        struct head_failure failure;
        size_t placed;
        struct record_head_key key = head_key(worker->conversation, 1, 99);
        if (tier_disk_lookup(tier, &key, &head) == TIER_DISK_HIT) {
            tier_disk_touch(tier, &head.key);
            enum err code = read_whole(worker->fixture, &head, &placed, &failure);
            worker->wrong += code != ERR_OK && code != ERR_NOT_FOUND;
        }
        struct tier_disk_stats stats;
        worker->wrong += tier_disk_get_stats(tier, &stats) != ERR_OK;
        if (worker->conversation == 1 && i % 4 == 3) {
            worker->wrong += tier_disk_remove_conversation(tier, key.conversation) != ERR_OK;
            worker->wrong += tier_disk_lookup(tier, &key, &head) == TIER_DISK_HIT;
        }
    }
    tier_disk_drain(tier);
    return NULL;
}

static void test_tier_disk_serves_threads_at_once(void **state) {
    struct fixture *fixture = *state;
    fixture_open(fixture);
    struct worker *workers = calloc(WORKERS, sizeof *workers);
    pthread_t threads[WORKERS];
    for (int i = 0; i < WORKERS; i++) {
        workers[i].fixture = fixture;
        workers[i].conversation = i + 1;
        assert_int_equal(pthread_create(&threads[i], NULL, work, &workers[i]), 0);
    }
    for (int i = 0; i < WORKERS; i++) {
        pthread_join(threads[i], NULL);
    }
    for (int i = 0; i < WORKERS; i++) {
        assert_int_equal(workers[i].wrong, 0);
        for (int turn = 0; turn < WORKER_TURNS; turn++) {
            struct spill_case *spill = &workers[i].spills[turn];
            assert_true(spill->done == 1 || workers[i].refused > 0);
            assert_true(spill->done == 0 || spill->outcome != SPILL_FAILED);
            case_free(spill);
        }
        if (i > 0 && workers[i].refused == 0) {
            struct record_head head;
            assert_int_equal(look(fixture, i + 1, 99, &head), TIER_DISK_HIT);
            assert_int_equal(head.key.turn, WORKER_TURNS);
        }
    }
    free(workers);
}

#define DISK_TEST(name) cmocka_unit_test_setup_teardown(name, fixture_setup, fixture_teardown)

int main(void) {
    const struct CMUnitTest tests[] = {
        DISK_TEST(test_tier_disk_reads_back_bit_for_bit),
        DISK_TEST(test_tier_disk_writes_only_new_blocks),
        DISK_TEST(test_tier_disk_refuses_a_gap_in_blocks),
        DISK_TEST(test_tier_disk_keeps_two_heads),
        DISK_TEST(test_tier_disk_heads_of_two_models_lie_side_by_side),
        DISK_TEST(test_tier_disk_survives_reopening),
        DISK_TEST(test_tier_disk_fork_shares_blocks_and_outlives_its_parent),
        DISK_TEST(test_tier_disk_supersedes_only_what_nobody_waits_for),
        DISK_TEST(test_tier_disk_a_full_queue_is_refused),
        DISK_TEST(test_tier_disk_deleting_cancels_waiting_jobs),
        DISK_TEST(test_tier_disk_evicts_under_a_small_budget),
        DISK_TEST(test_tier_disk_refuses_what_can_never_fit),
        DISK_TEST(test_tier_disk_a_large_head_takes_several_steps),
        DISK_TEST(test_tier_disk_a_failed_step_leaves_the_old_head),
        DISK_TEST(test_tier_disk_meets_a_lowered_cap_before_it_opens),
        DISK_TEST(test_tier_disk_delete_works_when_full),
        DISK_TEST(test_tier_disk_a_bad_object_is_met_once),
        DISK_TEST(test_tier_disk_a_bad_state_is_met_once),
        DISK_TEST(test_tier_disk_refuses_a_newer_format),
        DISK_TEST(test_tier_disk_sets_aside_what_is_no_environment),
        DISK_TEST(test_tier_disk_names_a_reader_that_pins_pages),
        DISK_TEST(test_tier_disk_serves_threads_at_once),
        DISK_TEST(test_tier_disk_touches_are_written),
        DISK_TEST(test_tier_disk_expired_heads_are_not_found),
        DISK_TEST(test_tier_disk_a_replaced_line_goes),
        DISK_TEST(test_tier_disk_without_attention_or_without_state),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
