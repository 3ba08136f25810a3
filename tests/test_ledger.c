#include "tests/ledger_fixture.h"

#include "base/now.h"

#include <pthread.h>

static void test_ledger_keeps_turns_through_a_reopen(void **state) {
    (void)state;
    struct ledger_fixture fixture;
    ledger_fixture_init(&fixture);
    ledger_fixture_open(&fixture);
    for (uint32_t turn = 1; turn <= 12; turn++) {
        for (int name = 1; name <= 3; name++) {
            assert_int_equal(ledger_fixture_append(&fixture, name, turn), ERR_OK);
        }
    }
    for (int name = 1; name <= 3; name++) {
        ledger_fixture_check(&fixture, name, 12);
    }
    ledger_fixture_reopen(&fixture);
    for (int name = 1; name <= 3; name++) {
        ledger_fixture_check(&fixture, name, 12);
        assert_int_equal(ledger_fixture_append(&fixture, name, 13), ERR_OK);
        ledger_fixture_check(&fixture, name, 13);
    }
    struct conversation_key key = ledger_fixture_key(&fixture, 2);
    struct conversation_record conversation;
    assert_int_equal(ledger_conversation_read(fixture.ledger, &key, &conversation), ERR_OK);
    assert_int_equal(conversation.flags, 2);
    assert_int_equal(conversation.identity.id_bytes, strlen("conversation-2"));
    assert_memory_equal(conversation.identity.id, "conversation-2", 14);
    assert_int_equal(conversation.dialect_digest[31], 2);
    struct buf dialect CLEANUP(buf_done);
    buf_init(&dialect, 4096);
    assert_int_equal(ledger_dialect_read(fixture.ledger, &key, conversation.serial, &dialect),
                     ERR_OK);
    assert_int_equal(dialect.len, strlen("{\"dialect\": 2}"));
    assert_memory_equal(dialect.data, "{\"dialect\": 2}", dialect.len);
    turn_record_conversation_done(&conversation);
    ledger_fixture_done(&fixture);
}

static void test_ledger_reads_the_line_at_every_turn(void **state) {
    (void)state;
    struct ledger_fixture fixture;
    ledger_fixture_init(&fixture);
    ledger_fixture_open(&fixture);
    for (uint32_t turn = 1; turn <= 5; turn++) {
        assert_int_equal(ledger_fixture_append(&fixture, 1, turn), ERR_OK);
    }
    struct conversation_key key = ledger_fixture_key(&fixture, 1);
    uint64_t serial = ledger_fixture_serial(&fixture, 1);
    int32_t *all;
    int32_t *ids;
    size_t all_count;
    size_t count;
    assert_int_equal(ledger_ids_read(fixture.ledger, &key, serial, 5, &all, &all_count), ERR_OK);
    for (uint32_t turn = 0; turn <= 5; turn++) {
        assert_int_equal(ledger_ids_read(fixture.ledger, &key, serial, turn, &ids, &count), ERR_OK);
        assert_int_equal(count, ledger_fixture_length(1, turn));
        assert_memory_equal(ids, all, 4 * count);
        free(ids);
    }
    free(all);
    assert_int_equal(ledger_ids_read(fixture.ledger, &key, serial, 6, &ids, &count), ERR_NOT_FOUND);
    struct turn_record turn;
    assert_int_equal(ledger_turn_read(fixture.ledger, &key, serial, 0, &turn), ERR_NOT_FOUND);
    assert_int_equal(ledger_turn_read(fixture.ledger, &key, serial + 1, 1, &turn), ERR_NOT_FOUND);
    /* Another's serial under one's own key shows nothing of the other. */
    assert_int_equal(ledger_fixture_append(&fixture, 2, 1), ERR_OK);
    uint64_t other = ledger_fixture_serial(&fixture, 2);
    assert_int_equal(ledger_turn_read(fixture.ledger, &key, other, 1, &turn), ERR_NOT_FOUND);
    assert_int_equal(ledger_ids_read(fixture.ledger, &key, other, 1, &ids, &count), ERR_NOT_FOUND);
    struct conversation_key foreign = ledger_fixture_key(&fixture, 9);
    assert_int_equal(ledger_turn_read(fixture.ledger, &foreign, serial, 1, &turn), ERR_NOT_FOUND);
    ledger_fixture_done(&fixture);
}

static void test_ledger_refuses_another_expected_turn(void **state) {
    (void)state;
    struct ledger_fixture fixture;
    ledger_fixture_init(&fixture);
    ledger_fixture_open(&fixture);
    assert_int_equal(ledger_fixture_append(&fixture, 1, 2), ERR_NOT_FOUND);
    assert_int_equal(ledger_fixture_append(&fixture, 1, 1), ERR_OK);
    assert_int_equal(ledger_fixture_append(&fixture, 1, 1), ERR_CONFLICT);
    assert_int_equal(ledger_fixture_append(&fixture, 1, 3), ERR_CONFLICT);
    ledger_fixture_check(&fixture, 1, 1);
    assert_int_equal(ledger_fixture_append(&fixture, 1, 2), ERR_OK);
    ledger_fixture_check(&fixture, 1, 2);
    ledger_fixture_done(&fixture);
}

static void test_ledger_refuses_a_stale_generation(void **state) {
    (void)state;
    struct ledger_fixture fixture;
    struct ledger_fixture_turn made;
    struct ledger_appended appended;
    uint64_t stale;
    uint64_t current;
    ledger_fixture_init(&fixture);
    ledger_fixture_open(&fixture);
    struct conversation_key key = ledger_fixture_key(&fixture, 1);
    struct lease_table *leases = ledger_leases(fixture.ledger);
    assert_int_equal(lease_take(leases, &key, &stale), ERR_OK);
    lease_release(leases, &key, stale);
    assert_int_equal(lease_take(leases, &key, &current), ERR_OK);
    ledger_fixture_turn_init(&made, &fixture, 1, 1, stale);
    assert_int_equal(ledger_append(fixture.ledger, &made.request, &appended), ERR_CONFLICT);
    assert_int_equal(ledger_fixture_turns(&fixture, 1), 0);
    made.request.generation = current;
    assert_int_equal(ledger_append(fixture.ledger, &made.request, &appended), ERR_OK);
    assert_true(appended.is_created);
    assert_true(lease_is_current(leases, &key, current)); /* the holder gives it back */
    uint64_t before = current;
    ledger_fixture_reopen(&fixture);
    assert_int_equal(lease_take(ledger_leases(fixture.ledger), &key, &current), ERR_OK);
    assert_true(current > before);
    ledger_fixture_turn_init(&made, &fixture, 1, 2, before);
    assert_int_equal(ledger_append(fixture.ledger, &made.request, &appended), ERR_CONFLICT);
    ledger_fixture_check(&fixture, 1, 1);
    ledger_fixture_done(&fixture);
}

static void test_ledger_refuses_requests_that_contradict_themselves(void **state) {
    (void)state;
    struct ledger_fixture fixture;
    struct ledger_fixture_turn made;
    struct ledger_appended appended;
    ledger_fixture_init(&fixture);
    ledger_fixture_open(&fixture);
    assert_int_equal(ledger_fixture_append(&fixture, 1, 1), ERR_OK);
    ledger_fixture_turn_init(&made, &fixture, 1, 2, 0);
    made.prompt[3] = -1;
    assert_int_equal(ledger_fixture_append_made(&fixture, &made, &appended), ERR_INVALID);
    ledger_fixture_turn_init(&made, &fixture, 1, 2, 0);
    made.turn.base_tokens++;
    made.turn.prompt_end_tokens++;
    assert_int_equal(ledger_fixture_append_made(&fixture, &made, &appended), ERR_INVALID);
    ledger_fixture_turn_init(&made, &fixture, 1, 2, 0);
    made.turn.parent_turn = 0;
    assert_int_equal(ledger_fixture_append_made(&fixture, &made, &appended), ERR_INVALID);
    ledger_fixture_turn_init(&made, &fixture, 1, 2, 0);
    made.turn.base_tokens -= 5; /* the parent ends behind it */
    made.turn.prompt_end_tokens -= 5;
    assert_int_equal(ledger_fixture_append_made(&fixture, &made, &appended), ERR_INVALID);
    ledger_fixture_turn_init(&made, &fixture, 2, 1, 0);
    made.turn.base_tokens = 4;
    assert_int_equal(ledger_fixture_append_made(&fixture, &made, &appended), ERR_INVALID);
    ledger_fixture_check(&fixture, 1, 1);
    assert_int_equal(ledger_fixture_turns(&fixture, 2), 0);
    ledger_fixture_done(&fixture);
}

/* A turn that replaces the answer of the last one, then one that goes further back. */
static void test_ledger_replaces_the_line_from_a_base_on(void **state) {
    (void)state;
    struct ledger_fixture fixture;
    struct ledger_fixture_turn made;
    struct ledger_appended appended;
    ledger_fixture_init(&fixture);
    ledger_fixture_open(&fixture);
    for (uint32_t turn = 1; turn <= 3; turn++) {
        assert_int_equal(ledger_fixture_append(&fixture, 1, turn), ERR_OK);
    }
    struct conversation_key key = ledger_fixture_key(&fixture, 1);
    uint64_t serial = ledger_fixture_serial(&fixture, 1);
    int32_t *before;
    int32_t *after;
    size_t before_count;
    size_t after_count;
    assert_int_equal(ledger_ids_read(fixture.ledger, &key, serial, 3, &before, &before_count),
                     ERR_OK);
    uint64_t base = ledger_fixture_length(1, 2) + 7;
    ledger_fixture_turn_init(&made, &fixture, 1, 4, 0);
    made.turn.base_tokens = base;
    made.turn.prompt_end_tokens = base + 2;
    made.turn.parent_turn = 2;
    assert_int_equal(ledger_fixture_append_made(&fixture, &made, &appended), ERR_OK);
    assert_int_equal(appended.turn, 4);
    assert_int_equal(ledger_ids_read(fixture.ledger, &key, serial, 4, &after, &after_count),
                     ERR_OK);
    assert_int_equal(after_count, base + made.turn.prompt_count + 18);
    assert_memory_equal(after, before, 4 * base);
    assert_memory_equal(after + base, made.prompt, 4 * made.turn.prompt_count);
    uint8_t digest[TOKEN_CHAIN_DIGEST_BYTES];
    token_chain_digest_of(after, after_count, digest);
    assert_memory_equal(digest, appended.chain_digest, sizeof digest);
    token_chain_digest_of(after, base + 2, digest);
    assert_memory_equal(digest, appended.prompt_end_digest, sizeof digest);
    free(after);
    /* The line at turn 3 is still what it was. */
    assert_int_equal(ledger_ids_read(fixture.ledger, &key, serial, 3, &after, &after_count),
                     ERR_OK);
    assert_int_equal(after_count, before_count);
    assert_memory_equal(after, before, 4 * before_count);
    free(after);

    /* Further back than the last turn but one began. */
    base = ledger_fixture_length(1, 1) + 5;
    ledger_fixture_turn_init(&made, &fixture, 1, 5, 0);
    made.turn.base_tokens = base;
    made.turn.prompt_end_tokens = 0;
    made.turn.parent_turn = 1;
    assert_int_equal(ledger_fixture_append_made(&fixture, &made, &appended), ERR_OK);
    assert_int_equal(ledger_ids_read(fixture.ledger, &key, serial, 5, &after, &after_count),
                     ERR_OK);
    assert_int_equal(after_count, base + made.turn.prompt_count + 18);
    assert_memory_equal(after, before, 4 * base);
    assert_memory_equal(after + base, made.prompt, 4 * made.turn.prompt_count);
    free(after);
    free(before);
    ledger_fixture_done(&fixture);
}

static void test_ledger_replaces_the_whole_line_and_its_dialect(void **state) {
    (void)state;
    struct ledger_fixture fixture;
    struct ledger_fixture_turn made;
    struct ledger_appended appended;
    int32_t *after;
    size_t after_count;
    ledger_fixture_init(&fixture);
    ledger_fixture_open(&fixture);
    for (uint32_t turn = 1; turn <= 3; turn++) {
        assert_int_equal(ledger_fixture_append(&fixture, 1, turn), ERR_OK);
    }
    struct conversation_key key = ledger_fixture_key(&fixture, 1);
    uint64_t serial = ledger_fixture_serial(&fixture, 1);
    ledger_fixture_turn_init(&made, &fixture, 1, 4, 0);
    made.turn.base_tokens = 0;
    made.turn.prompt_end_tokens = 0;
    made.turn.parent_turn = 0;
    made.request.dialect = (const uint8_t *)"other";
    made.request.dialect_bytes = 5;
    assert_int_equal(ledger_fixture_append_made(&fixture, &made, &appended), ERR_OK);
    assert_int_equal(ledger_ids_read(fixture.ledger, &key, serial, 4, &after, &after_count),
                     ERR_OK);
    assert_int_equal(after_count, made.turn.prompt_count + 18);
    assert_memory_equal(after, made.prompt, 4 * made.turn.prompt_count);
    free(after);
    struct buf dialect CLEANUP(buf_done);
    buf_init(&dialect, 64);
    assert_int_equal(ledger_dialect_read(fixture.ledger, &key, serial, &dialect), ERR_OK);
    assert_int_equal(dialect.len, 5);
    assert_memory_equal(dialect.data, "other", 5);
    ledger_fixture_done(&fixture);
}

static void test_ledger_remembers_idempotency_keys(void **state) {
    (void)state;
    struct ledger_fixture fixture;
    struct ledger_fixture_turn made;
    struct ledger_appended appended;
    struct ledger_record_idempotency entry;
    struct conversation_key hash;
    size_t removed;
    uint64_t now_ms = now_wall_ms();
    ledger_fixture_init(&fixture);
    ledger_fixture_open(&fixture);
    memset(hash.bytes, 0xab, sizeof hash.bytes);
    assert_int_equal(ledger_idempotency_find(fixture.ledger, &hash, now_ms, &entry), ERR_NOT_FOUND);
    for (uint32_t turn = 1; turn <= 2; turn++) {
        ledger_fixture_turn_init(&made, &fixture, 1, turn, 0);
        memcpy(made.turn.idempotency_hash, hash.bytes, sizeof hash.bytes);
        memset(made.turn.request_digest, 0xcd, sizeof made.turn.request_digest);
        made.request.idempotency_expires_ms = now_ms + 100000;
        assert_int_equal(ledger_fixture_append_made(&fixture, &made, &appended),
                         turn == 1 ? ERR_OK : ERR_CONFLICT);
    }
    ledger_fixture_reopen(&fixture);
    assert_int_equal(ledger_idempotency_find(fixture.ledger, &hash, now_ms, &entry), ERR_OK);
    assert_int_equal(entry.turn, 1);
    assert_int_equal(entry.request_digest[31], 0xcd);
    struct turn_record turn;
    assert_int_equal(ledger_turn_read(fixture.ledger, &entry.key, entry.serial, 1, &turn), ERR_OK);
    assert_memory_equal(turn.response, "answer 1 of 1", 14);
    turn_record_done(&turn);
    assert_int_equal(ledger_idempotency_find(fixture.ledger, &hash, now_ms + 100000, &entry),
                     ERR_NOT_FOUND);
    assert_int_equal(ledger_idempotency_expire(fixture.ledger, now_ms + 99999, &removed), ERR_OK);
    assert_int_equal(removed, 0);
    assert_int_equal(ledger_idempotency_expire(fixture.ledger, now_ms + 100000, &removed), ERR_OK);
    assert_int_equal(removed, 1);
    assert_int_equal(ledger_idempotency_find(fixture.ledger, &hash, now_ms, &entry), ERR_NOT_FOUND);
    struct ledger_stats stats;
    assert_int_equal(ledger_stats_read(fixture.ledger, &stats), ERR_OK);
    assert_int_equal(stats.idempotency_entries, 0);

    /* An entry that has expired is replaced, and one of a deleted conversation too. */
    made.request.idempotency_expires_ms = 1;
    assert_int_equal(ledger_fixture_append_made(&fixture, &made, &appended), ERR_OK);
    ledger_fixture_turn_init(&made, &fixture, 1, 3, 0);
    memcpy(made.turn.idempotency_hash, hash.bytes, sizeof hash.bytes);
    made.request.idempotency_expires_ms = now_ms + 100000;
    assert_int_equal(ledger_fixture_append_made(&fixture, &made, &appended), ERR_OK);
    assert_int_equal(ledger_delete(fixture.ledger, &made.request.key, NULL), ERR_OK);
    assert_int_equal(ledger_idempotency_find(fixture.ledger, &hash, now_ms, &entry), ERR_NOT_FOUND);
    ledger_fixture_turn_init(&made, &fixture, 2, 1, 0);
    memcpy(made.turn.idempotency_hash, hash.bytes, sizeof hash.bytes);
    made.request.idempotency_expires_ms = now_ms + 200000;
    assert_int_equal(ledger_fixture_append_made(&fixture, &made, &appended), ERR_OK);
    assert_int_equal(ledger_idempotency_expire(fixture.ledger, now_ms + 100000, &removed), ERR_OK);
    assert_int_equal(removed, 0);
    assert_int_equal(ledger_idempotency_find(fixture.ledger, &hash, now_ms, &entry), ERR_OK);
    ledger_fixture_done(&fixture);
}

static void test_ledger_deletes_at_once_and_for_good(void **state) {
    (void)state;
    struct ledger_fixture fixture;
    struct ledger_record_tombstone tombstones[4];
    size_t count;
    uint64_t serial;
    ledger_fixture_init(&fixture);
    ledger_fixture_open(&fixture);
    for (uint32_t turn = 1; turn <= 6; turn++) {
        assert_int_equal(ledger_fixture_append(&fixture, 1, turn), ERR_OK);
        assert_int_equal(ledger_fixture_append(&fixture, 2, turn), ERR_OK);
    }
    struct conversation_key key = ledger_fixture_key(&fixture, 1);
    uint64_t old_serial = ledger_fixture_serial(&fixture, 1);
    assert_int_equal(ledger_delete(fixture.ledger, &key, &serial), ERR_OK);
    assert_int_equal(serial, old_serial);
    struct turn_record turn;
    struct conversation_record conversation;
    struct conversation_record listed[4];
    assert_int_equal(ledger_conversation_read(fixture.ledger, &key, &conversation), ERR_NOT_FOUND);
    assert_int_equal(ledger_turn_read(fixture.ledger, &key, serial, 1, &turn), ERR_NOT_FOUND);
    assert_int_equal(ledger_conversations_list(fixture.ledger, NULL, 4, listed, &count, NULL),
                     ERR_OK);
    assert_int_equal(count, 1);
    turn_record_conversation_done(&listed[0]);
    assert_int_equal(ledger_delete(fixture.ledger, &key, NULL), ERR_NOT_FOUND);

    /* The name may be used again: another conversation, which the purge leaves alone. */
    assert_int_equal(ledger_fixture_append(&fixture, 1, 1), ERR_OK);
    assert_int_not_equal(ledger_fixture_serial(&fixture, 1), old_serial);
    assert_int_equal(ledger_turn_read(fixture.ledger, &key, old_serial, 1, &turn), ERR_NOT_FOUND);
    ledger_fixture_wait_for_purge(&fixture);
    ledger_fixture_check(&fixture, 1, 1);
    ledger_fixture_check(&fixture, 2, 6);
    ledger_fixture_reopen(&fixture);
    assert_int_equal(ledger_tombstones_list(fixture.ledger, 0, 4, tombstones, &count), ERR_OK);
    assert_int_equal(count, 1);
    assert_int_equal(tombstones[0].serial, old_serial);
    assert_memory_equal(tombstones[0].key.bytes, key.bytes, sizeof key.bytes);
    assert_true(tombstones[0].turns_are_removed);
    assert_int_equal(ledger_tombstones_list(fixture.ledger, old_serial, 4, tombstones, &count),
                     ERR_OK);
    assert_int_equal(count, 0);
    assert_int_equal(ledger_tombstone_remove(fixture.ledger, old_serial + 1), ERR_NOT_FOUND);
    assert_int_equal(ledger_tombstone_remove(fixture.ledger, old_serial), ERR_OK);
    assert_int_equal(ledger_tombstones_list(fixture.ledger, 0, 4, tombstones, &count), ERR_OK);
    assert_int_equal(count, 0);
    ledger_fixture_check(&fixture, 1, 1);
    ledger_fixture_done(&fixture);
}

static void test_ledger_delete_ends_a_running_turn(void **state) {
    (void)state;
    struct ledger_fixture fixture;
    struct ledger_fixture_turn made;
    struct ledger_appended appended;
    uint64_t generation;
    ledger_fixture_init(&fixture);
    ledger_fixture_open(&fixture);
    assert_int_equal(ledger_fixture_append(&fixture, 1, 1), ERR_OK);
    struct conversation_key key = ledger_fixture_key(&fixture, 1);
    assert_int_equal(lease_take(ledger_leases(fixture.ledger), &key, &generation), ERR_OK);
    assert_int_equal(ledger_delete(fixture.ledger, &key, NULL), ERR_OK);
    assert_false(lease_is_current(ledger_leases(fixture.ledger), &key, generation));
    for (uint32_t turn = 1; turn <= 2; turn++) { /* neither on the old line nor as a new one */
        ledger_fixture_turn_init(&made, &fixture, 1, turn, generation);
        assert_int_equal(ledger_append(fixture.ledger, &made.request, &appended), ERR_CONFLICT);
    }
    assert_int_equal(ledger_fixture_turns(&fixture, 1), 0);
    ledger_fixture_done(&fixture);
}

static void test_ledger_lists_in_pages(void **state) {
    (void)state;
    enum { CONVERSATIONS = 23 };
    struct ledger_fixture fixture;
    ledger_fixture_init(&fixture);
    ledger_fixture_open(&fixture);
    for (int name = 1; name <= CONVERSATIONS; name++) {
        assert_int_equal(ledger_fixture_append(&fixture, name, 1), ERR_OK);
    }
    for (size_t max = 1; max <= CONVERSATIONS + 1; max += 5) {
        struct conversation_record page[CONVERSATIONS + 1];
        struct conversation_key last = {{0}};
        size_t seen = 0;
        size_t count;
        size_t skipped;
        do {
            assert_int_equal(ledger_conversations_list(fixture.ledger, seen > 0 ? &last : NULL, max,
                                                       page, &count, &skipped),
                             ERR_OK);
            assert_int_equal(skipped, 0);
            for (size_t i = 0; i < count; i++) {
                assert_true(seen + i == 0 || conversation_key_compare(&last, &page[i].key) < 0);
                last = page[i].key;
                assert_memory_equal(page[i].identity.tenant, "acme", 4);
                turn_record_conversation_done(&page[i]);
            }
            seen += count;
        } while (count == max);
        assert_int_equal(seen, CONVERSATIONS);
    }
    ledger_fixture_done(&fixture);
}

/* Threads that append to conversations of their own, and one that reads. */
struct appender {
    struct ledger_fixture *fixture;
    int name;
    uint32_t turns;
    enum err code;
};

static void *append_turns(void *context) {
    struct appender *appender = context;
    for (uint32_t turn = 1; turn <= appender->turns && appender->code == ERR_OK; turn++) {
        appender->code = ledger_fixture_append(appender->fixture, appender->name, turn);
    }
    return NULL;
}

static void test_ledger_groups_commits_of_threads(void **state) {
    (void)state;
    enum { THREADS = 6, TURNS = 15 };
    struct ledger_fixture fixture;
    struct appender appenders[THREADS];
    pthread_t threads[THREADS];
    ledger_fixture_init(&fixture);
    ledger_fixture_open(&fixture);
    for (int i = 0; i < THREADS; i++) {
        appenders[i] = (struct appender){&fixture, i + 1, TURNS, ERR_OK};
        assert_int_equal(pthread_create(&threads[i], NULL, append_turns, &appenders[i]), 0);
    }
    for (int reads = 0; reads < 50; reads++) {
        uint32_t turns = ledger_fixture_turns(&fixture, 1 + reads % THREADS);
        assert_true(turns <= TURNS);
    }
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
        assert_int_equal(appenders[i].code, ERR_OK);
        ledger_fixture_check(&fixture, i + 1, TURNS);
    }
    struct ledger_stats stats;
    assert_int_equal(ledger_stats_read(fixture.ledger, &stats), ERR_OK);
    assert_int_equal(stats.turns_committed, THREADS * TURNS);
    assert_true(stats.commits <= THREADS * TURNS + 1);
    assert_int_equal(stats.conversations, THREADS);
    ledger_fixture_reopen(&fixture);
    for (int i = 0; i < THREADS; i++) {
        ledger_fixture_check(&fixture, i + 1, TURNS);
    }
    ledger_fixture_done(&fixture);
}

/* Counts answers on the writer thread. */
struct answers {
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    size_t ok;
    size_t refused;
    int is_held; /* the first answer waits here, so that the rest queues up behind it */
};

static void count_answer(void *context, enum err code, const char *message,
                         const struct ledger_appended *result) {
    struct answers *answers = context;
    pthread_mutex_lock(&answers->mutex);
    answers->ok += code == ERR_OK && result != NULL;
    answers->refused += code == ERR_CONFLICT && result == NULL && message[0] != '\0';
    pthread_cond_broadcast(&answers->changed);
    while (answers->is_held) {
        pthread_cond_wait(&answers->changed, &answers->mutex);
    }
    pthread_mutex_unlock(&answers->mutex);
}

static void wait_for_answers(struct answers *answers, size_t count) {
    pthread_mutex_lock(&answers->mutex);
    while (answers->ok + answers->refused < count) {
        pthread_cond_wait(&answers->changed, &answers->mutex);
    }
    pthread_mutex_unlock(&answers->mutex);
}

static void release_answers(struct answers *answers) {
    pthread_mutex_lock(&answers->mutex);
    answers->is_held = 0;
    pthread_cond_broadcast(&answers->changed);
    pthread_mutex_unlock(&answers->mutex);
}

static void test_ledger_group_is_one_commit_and_members_fail_alone(void **state) {
    (void)state;
    enum { MEMBERS = 9 };
    struct ledger_fixture fixture;
    struct answers answers = {
        .mutex = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER, .is_held = 1};
    struct ledger_stats before;
    struct ledger_stats after;
    struct ledger_fixture_turn *made = calloc(MEMBERS, sizeof *made);
    assert_non_null(made);
    ledger_fixture_init(&fixture);
    fixture.config.queue_max = MEMBERS - 1;
    ledger_fixture_open(&fixture);
    for (int i = 0; i < MEMBERS; i++) {
        struct conversation_key key = ledger_fixture_key(&fixture, i + 1);
        uint64_t generation;
        assert_int_equal(lease_take(ledger_leases(fixture.ledger), &key, &generation), ERR_OK);
        ledger_fixture_turn_init(&made[i], &fixture, i + 1, 1, generation);
    }
    made[4].request.generation -= 1; /* another's */
    assert_int_equal(ledger_append_submit(fixture.ledger, &made[0].request, count_answer, &answers),
                     ERR_OK);
    wait_for_answers(&answers, 1);
    assert_int_equal(ledger_stats_read(fixture.ledger, &before), ERR_OK);
    for (int i = 1; i < MEMBERS; i++) {
        assert_int_equal(
            ledger_append_submit(fixture.ledger, &made[i].request, count_answer, &answers), ERR_OK);
    }
    assert_int_equal(ledger_append_submit(fixture.ledger, &made[0].request, count_answer, &answers),
                     ERR_FULL);
    release_answers(&answers);
    wait_for_answers(&answers, MEMBERS);
    assert_int_equal(ledger_stats_read(fixture.ledger, &after), ERR_OK);
    assert_int_equal(answers.ok, MEMBERS - 1);
    assert_int_equal(answers.refused, 1);
    /* The first step of the purge at open may have fallen in between; it commits nothing. */
    assert_int_equal(after.commits, before.commits + 1);
    assert_int_equal(after.appends_refused, before.appends_refused + 1);
    for (int i = 0; i < MEMBERS; i++) {
        assert_int_equal(ledger_fixture_turns(&fixture, i + 1), i == 4 ? 0 : 1);
    }
    free(made);
    ledger_fixture_done(&fixture);
}

static void test_ledger_close_commits_what_waits(void **state) {
    (void)state;
    struct ledger_fixture fixture;
    struct answers answers = {.mutex = PTHREAD_MUTEX_INITIALIZER,
                              .changed = PTHREAD_COND_INITIALIZER};
    struct ledger_fixture_turn made[3];
    ledger_fixture_init(&fixture);
    ledger_fixture_open(&fixture);
    for (int i = 0; i < 3; i++) {
        struct conversation_key key = ledger_fixture_key(&fixture, i + 1);
        uint64_t generation;
        assert_int_equal(lease_take(ledger_leases(fixture.ledger), &key, &generation), ERR_OK);
        ledger_fixture_turn_init(&made[i], &fixture, i + 1, 1, generation);
        assert_int_equal(
            ledger_append_submit(fixture.ledger, &made[i].request, count_answer, &answers), ERR_OK);
    }
    ledger_fixture_reopen(&fixture);
    assert_int_equal(answers.ok, 3);
    for (int i = 0; i < 3; i++) {
        ledger_fixture_check(&fixture, i + 1, 1);
    }
    ledger_fixture_done(&fixture);
}

static enum err fork_conversation(struct ledger_fixture *fixture, int from, uint32_t turn, int to,
                                  uint64_t serial) {
    struct ledger_fixture_turn made;
    struct ledger_appended appended;
    struct ledger_fork request = {
        .source = ledger_fixture_key(fixture, from),
        .source_serial = serial,
        .source_turn = turn,
        .key = ledger_fixture_key(fixture, to),
        .flags = (uint32_t)to,
    };
    ledger_fixture_turn_init(&made, fixture, to, 1, 0);
    request.identity = made.request.identity;
    struct lease_table *leases = ledger_leases(fixture->ledger);
    TRY(lease_take(leases, &request.key, &request.generation));
    enum err code = ledger_fork(fixture->ledger, &request, &appended);
    lease_release(leases, &request.key, request.generation);
    if (code == ERR_OK) {
        assert_int_equal(appended.turn, turn);
        assert_int_equal(appended.end_tokens, ledger_fixture_length(from, turn));
    }
    return code;
}

static void test_ledger_fork_copies_turns_and_goes_its_own_way(void **state) {
    (void)state;
    struct ledger_fixture fixture;
    ledger_fixture_init(&fixture);
    ledger_fixture_open(&fixture);
    for (uint32_t turn = 1; turn <= 5; turn++) {
        assert_int_equal(ledger_fixture_append(&fixture, 1, turn), ERR_OK);
    }
    assert_int_equal(ledger_fixture_append(&fixture, 3, 1), ERR_OK);
    uint64_t serial = ledger_fixture_serial(&fixture, 1);
    assert_int_equal(fork_conversation(&fixture, 1, 3, 3, serial), ERR_CONFLICT);
    assert_int_equal(fork_conversation(&fixture, 1, 6, 2, serial), ERR_NOT_FOUND);
    assert_int_equal(fork_conversation(&fixture, 1, 0, 2, serial), ERR_NOT_FOUND);
    assert_int_equal(fork_conversation(&fixture, 1, 3, 2, serial + 1), ERR_NOT_FOUND);
    assert_int_equal(fork_conversation(&fixture, 1, 3, 2, serial), ERR_OK);
    uint64_t fork_serial = ledger_fixture_serial(&fixture, 2);
    assert_true(fork_serial > serial);

    /* The source goes, the fork stays and goes on. */
    struct conversation_key source = ledger_fixture_key(&fixture, 1);
    struct conversation_key key = ledger_fixture_key(&fixture, 2);
    int32_t *before;
    int32_t *after;
    size_t count;
    size_t fork_count;
    assert_int_equal(ledger_ids_read(fixture.ledger, &source, serial, 3, &before, &count), ERR_OK);
    assert_int_equal(ledger_delete(fixture.ledger, &source, NULL), ERR_OK);
    ledger_fixture_wait_for_purge(&fixture);
    ledger_fixture_reopen(&fixture);
    assert_int_equal(ledger_ids_read(fixture.ledger, &key, fork_serial, 3, &after, &fork_count),
                     ERR_OK);
    assert_int_equal(fork_count, count);
    assert_memory_equal(after, before, 4 * count);
    free(before);
    free(after);
    struct buf dialect CLEANUP(buf_done);
    buf_init(&dialect, 64);
    assert_int_equal(ledger_dialect_read(fixture.ledger, &key, fork_serial, &dialect), ERR_OK);
    assert_int_equal(dialect.len, strlen("{\"dialect\": 1}"));
    struct ledger_fixture_turn made;
    struct ledger_appended appended;
    ledger_fixture_turn_init(&made, &fixture, 1, 4, 0);
    made.request.key = key;
    assert_int_equal(ledger_fixture_append_made(&fixture, &made, &appended), ERR_OK);
    assert_int_equal(appended.turn, 4);
    assert_int_equal(appended.end_tokens, ledger_fixture_length(1, 4));
    assert_int_equal(ledger_fixture_append(&fixture, 4, 1), ERR_OK);
    assert_true(ledger_fixture_serial(&fixture, 4) > fork_serial);
    ledger_fixture_done(&fixture);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ledger_keeps_turns_through_a_reopen),
        cmocka_unit_test(test_ledger_reads_the_line_at_every_turn),
        cmocka_unit_test(test_ledger_refuses_another_expected_turn),
        cmocka_unit_test(test_ledger_refuses_a_stale_generation),
        cmocka_unit_test(test_ledger_refuses_requests_that_contradict_themselves),
        cmocka_unit_test(test_ledger_replaces_the_line_from_a_base_on),
        cmocka_unit_test(test_ledger_replaces_the_whole_line_and_its_dialect),
        cmocka_unit_test(test_ledger_remembers_idempotency_keys),
        cmocka_unit_test(test_ledger_deletes_at_once_and_for_good),
        cmocka_unit_test(test_ledger_delete_ends_a_running_turn),
        cmocka_unit_test(test_ledger_lists_in_pages),
        cmocka_unit_test(test_ledger_groups_commits_of_threads),
        cmocka_unit_test(test_ledger_group_is_one_commit_and_members_fail_alone),
        cmocka_unit_test(test_ledger_close_commits_what_waits),
        cmocka_unit_test(test_ledger_fork_copies_turns_and_goes_its_own_way),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
