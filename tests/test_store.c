/*
 * The store with all three tiers, over heads of known bytes instead of a model's: what it gives
 * back, to whom, and what it does with streams that are behind.
 */
#include "base/fault.h"
#include "store/state_table.h"
#include "store/store_state.h"

#include <ftw.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

enum {
    BLOCKS = 24,
    SLOTS = 8,
    BLOCK_SIZE = 8,
    CONTEXT = 64,
    BUSY_BYTES = 64 << 20,
    BUSY_FILLS = 8
};

struct fixture {
    char directory[64];
    struct device *device;
    struct device_stream *stream;
    struct device_buffer *busy; /* filling it keeps a stream busy */
    struct layout layout;
    struct pool *pool;
    struct store_config config;
    struct store *store;
};

static void open_store(struct fixture *fixture) {
    assert_int_equal(store_create(&fixture->config, &fixture->store), ERR_OK);
}

static int set_up(void **state) {
    struct fixture *fixture = calloc(1, sizeof *fixture);
    assert_non_null(fixture);
    strcpy(fixture->directory, "/tmp/tern-test-store-XXXXXX");
    assert_non_null(mkdtemp(fixture->directory));
    assert_int_equal(device_open(&(struct device_config){.threads = 1}, &fixture->device), ERR_OK);
    assert_int_equal(device_stream_create(fixture->device, DEVICE_STREAM_COMPUTE, &fixture->stream),
                     ERR_OK);
    assert_int_equal(device_buffer_create(fixture->device, BUSY_BYTES, &fixture->busy), ERR_OK);
    assert_int_equal(layout_init(&fixture->layout, BLOCK_SIZE, DTYPE_F16), ERR_OK);
    assert_int_equal(layout_add_kv(&fixture->layout, 0, 2, 4, 4, NULL), ERR_OK);
    assert_int_equal(layout_add_state(&fixture->layout, 1, "conv", (int[]){1, 3, 8}, NULL), ERR_OK);
    assert_int_equal(layout_add_state(&fixture->layout, 1, "ssm", (int[]){2, 4, 8}, NULL), ERR_OK);
    assert_int_equal(pool_create(&(struct pool_config){.device = fixture->device,
                                                       .layout = &fixture->layout,
                                                       .blocks = BLOCKS,
                                                       .slots = SLOTS},
                                 &fixture->pool),
                     ERR_OK);
    fixture->config = (struct store_config){
        .promote_threads = 3,
        .pool = fixture->pool,
        .host_max_bytes = 4 << 20,
        .directory = fixture->directory,
        .disk_max_bytes = 16 << 20,
        .state_digest = {1, 2, 3},
        .numerics_class = "host/1",
        .spills_eagerly = 1,
        .spill_lag_bytes = 4 << 20,
        .spill_lag_ms = 10000,
    };
    open_store(fixture);
    *state = fixture;
    return 0;
}

static int remove_entry(const char *path, const struct stat *status, int type, struct FTW *ftw) {
    (void)status;
    (void)type;
    (void)ftw;
    return remove(path);
}

/* pool_destroy asserts that everything was given back. */
static int tear_down(void **state) {
    struct fixture *fixture = *state;
    device_stream_destroy(fixture->stream);
    store_destroy(fixture->store);
    pool_destroy(fixture->pool);
    layout_done(&fixture->layout);
    device_buffer_destroy(fixture->busy);
    device_close(fixture->device);
    nftw(fixture->directory, remove_entry, 8, FTW_DEPTH | FTW_PHYS);
    free(fixture);
    return 0;
}

/* --- heads of known bytes -----------------------------------------------------------------------
 */

static uint8_t pattern(int seed, int part, size_t at) {
    uint64_t x = (uint64_t)seed * 7919 + (uint64_t)part * 104729 + at + 1;
    x *= UINT64_C(0x9e3779b97f4a7c15);
    return (uint8_t)(x >> 57 | 1); /* never 0: what was cleared differs */
}

static void write_pattern(struct fixture *fixture, struct device_ptr to, int seed, int part,
                          size_t bytes) {
    uint8_t *from = malloc(bytes);
    assert_non_null(from);
    for (size_t i = 0; i < bytes; i++) {
        from[i] = pattern(seed, part, i);
    }
    assert_int_equal(device_copy_in(fixture->stream, to, from, bytes), ERR_OK);
    assert_int_equal(device_stream_wait_idle(fixture->stream), ERR_OK);
    free(from);
}

static void begin_sequence(struct fixture *fixture, struct sequence *sequence) {
    assert_int_equal(sequence_init(sequence, fixture->pool, CONTEXT), ERR_OK);
    assert_int_equal(sequence_start(sequence, fixture->stream), ERR_OK);
}

/* As if the sequence had been run to LENGTH. */
static void run_to(struct fixture *fixture, struct sequence *sequence, int length, int seed) {
    int first = sequence->length / BLOCK_SIZE;
    assert_int_equal(sequence_reserve(sequence, length - sequence->length), ERR_OK);
    for (int i = first; i < sequence->block_count; i++) {
        write_pattern(fixture, pool_block_ptr(fixture->pool, sequence->blocks[i]), seed, i,
                      fixture->layout.block_bytes);
    }
    write_pattern(fixture, pool_slot_ptr(fixture->pool, sequence->slot), seed, -1,
                  fixture->layout.slot_bytes);
    sequence->length = length;
}

static struct store_head *commit(struct fixture *fixture, struct sequence *sequence,
                                 struct store_head *parent) {
    struct store_head *head = NULL;
    assert_int_equal(store_head_create(fixture->store,
                                       &(struct store_head_params){.sequence = sequence,
                                                                   .stream = fixture->stream,
                                                                   .length = sequence->length,
                                                                   .state_slot = -1,
                                                                   .kind = STORE_KIND_TURN_END,
                                                                   .parent = parent},
                                       &head),
                     ERR_OK);
    return head;
}

/* What identifies the head of CONVERSATION's TURN. */
static struct store_publish publish_of(int conversation, uint64_t turn) {
    struct store_publish publish = {.turn = turn};
    memset(publish.key, 0x40, sizeof publish.key);
    publish.key[STORE_KEY_BYTES - 1] = (uint8_t)conversation; /* the first bytes are all alike */
    memset(publish.chain_digest, 0x20 + conversation, sizeof publish.chain_digest);
    publish.chain_digest[STORE_DIGEST_BYTES - 1] = (uint8_t)turn;
    return publish;
}

static struct store_candidate candidate_of(int conversation, uint64_t turn, int length) {
    struct store_publish publish = publish_of(conversation, turn);
    struct store_candidate candidate = {
        .kind = STORE_KIND_TURN_END, .turn = turn, .length = length};
    memcpy(candidate.chain_digest, publish.chain_digest, sizeof candidate.chain_digest);
    return candidate;
}

static void publish_head(struct fixture *fixture, int conversation, uint64_t turn, int length) {
    struct sequence sequence;
    struct store_publish publish = publish_of(conversation, turn);
    begin_sequence(fixture, &sequence);
    run_to(fixture, &sequence, length, conversation);
    store_publish(fixture->store, commit(fixture, &sequence, NULL), &publish);
    sequence_done(&sequence);
}

static struct store_found find(struct fixture *fixture, int conversation,
                               const struct store_candidate *candidate) {
    struct store_found found;
    struct store_want want = {.candidates = candidate, .candidate_count = 1};
    memcpy(want.key, publish_of(conversation, 0).key, sizeof want.key);
    store_find(fixture->store, &want, &found);
    return found;
}

static void expect_miss(struct fixture *fixture, int conversation, struct store_candidate candidate,
                        const char *reason) {
    struct store_found found = find(fixture, conversation, &candidate);
    assert_null(found.head);
    assert_non_null(found.reason);
    assert_string_equal(found.reason, reason);
}

/* --- putting heads into a tier ------------------------------------------------------------------
 */

static void push_to(struct fixture *fixture, enum tier tier) {
    assert_int_equal(store_drain(fixture->store, 20000), ERR_OK);
    if (tier != TIER_DEVICE) {
        assert_true(store_reclaim(fixture->store, BLOCKS, SLOTS));
    }
    if (tier == TIER_DISK) {
        store_trim(fixture->store);
    }
}

static void expect_pattern(struct fixture *fixture, struct device_ptr at, int seed, int part,
                           size_t bytes) {
    uint8_t *got = malloc(bytes);
    assert_non_null(got);
    assert_int_equal(device_copy_out(fixture->stream, got, at, bytes), ERR_OK);
    assert_int_equal(device_stream_wait_idle(fixture->stream), ERR_OK);
    for (size_t i = 0; i < bytes; i++) {
        assert_int_equal(got[i], pattern(seed, part, i));
    }
    free(got);
}

/* V of the first token of the tail's first head: in every tail, at a place that is known. */
static void expect_tail(struct fixture *fixture, int32_t block, int seed, int part, int tokens) {
    size_t bytes = fixture->layout.block_bytes;
    size_t from = fixture->layout.kv[0].value_offset_bytes;
    size_t value_bytes = 2 * (size_t)fixture->layout.kv[0].value_size;
    uint8_t *got = malloc(bytes);
    assert_non_null(got);
    assert_int_equal(
        device_copy_out(fixture->stream, got, pool_block_ptr(fixture->pool, block), bytes), ERR_OK);
    assert_int_equal(device_stream_wait_idle(fixture->stream), ERR_OK);
    for (size_t i = from; i < from + (size_t)tokens * value_bytes; i++) {
        assert_int_equal(got[i], pattern(seed, part, i));
    }
    free(got);
}

/* Attaches what CANDIDATE names, which must lie in TIER, and looks at every byte of it. */
static void expect_found(struct fixture *fixture, int conversation,
                         struct store_candidate candidate, enum tier tier) {
    struct store_found found = find(fixture, conversation, &candidate);
    struct sequence sequence;
    assert_non_null(found.head);
    assert_int_equal(found.tier, tier);
    assert_int_equal(found.bytes_read > 0, tier == TIER_DISK);
    assert_int_equal(sequence_init(&sequence, fixture->pool, CONTEXT), ERR_OK);
    assert_int_equal(store_attach(fixture->store, found.head, &sequence, fixture->stream), ERR_OK);
    assert_int_equal(sequence.length, candidate.length);
    int full = candidate.length / BLOCK_SIZE;
    for (int i = 0; i < full; i++) {
        expect_pattern(fixture, pool_block_ptr(fixture->pool, sequence.blocks[i]), conversation, i,
                       fixture->layout.block_bytes);
    }
    if (candidate.length % BLOCK_SIZE != 0) {
        expect_tail(fixture, sequence.blocks[full], conversation, full,
                    candidate.length % BLOCK_SIZE);
    }
    expect_pattern(fixture, pool_slot_ptr(fixture->pool, sequence.slot), conversation, -1,
                   fixture->layout.slot_bytes);
    sequence_done(&sequence);
    store_head_release(found.head);
}

/* --- tests ---------------------------------------------------------------------------------------
 */

static void test_store_gives_back_the_bytes_from_every_tier(void **state) {
    static const enum tier tiers[] = {TIER_DEVICE, TIER_HOST, TIER_DISK};
    static const int lengths[] = {1, BLOCK_SIZE - 1, BLOCK_SIZE, BLOCK_SIZE + 5, 3 * BLOCK_SIZE};
    struct fixture *fixture = *state;
    int conversation = 0;
    for (size_t i = 0; i < ARRAY_LEN(tiers); i++) {
        for (size_t j = 0; j < ARRAY_LEN(lengths); j++) {
            conversation++;
            publish_head(fixture, conversation, 3, lengths[j]);
            push_to(fixture, tiers[i]);
            expect_found(fixture, conversation, candidate_of(conversation, 3, lengths[j]),
                         tiers[i]);
        }
        push_to(fixture, TIER_DISK);
    }
}

/* Key, kind, turn, length, digest: each alone makes it another head. */
static void test_store_finds_exactly_what_is_asked_for(void **state) {
    static const enum tier tiers[] = {TIER_DEVICE, TIER_HOST, TIER_DISK};
    enum { LENGTH = 2 * BLOCK_SIZE + 3 };
    struct fixture *fixture = *state;
    for (size_t i = 0; i < ARRAY_LEN(tiers); i++) {
        int conversation = 1 + (int)i;
        publish_head(fixture, conversation, 3, LENGTH);
        push_to(fixture, tiers[i]);
        const struct store_candidate right = candidate_of(conversation, 3, LENGTH);
        struct store_candidate wrong = right;
        wrong.turn = 4;
        expect_miss(fixture, conversation, wrong, "state_missing");
        wrong.turn = 2;
        expect_miss(fixture, conversation, wrong, "state_missing");
        wrong = right;
        wrong.kind = STORE_KIND_PROMPT_END;
        expect_miss(fixture, conversation, wrong, "state_missing");
        wrong = right;
        wrong.length++;
        expect_miss(fixture, conversation, wrong, "length_mismatch");
        wrong = right;
        wrong.length -= 3; /* as many full blocks */
        expect_miss(fixture, conversation, wrong, "length_mismatch");
        wrong = right;
        wrong.chain_digest[0] ^= 1;
        expect_miss(fixture, conversation, wrong, "chain_digest_mismatch");
        wrong = right;
        wrong.chain_digest[STORE_DIGEST_BYTES - 1] ^= 0x80;
        expect_miss(fixture, conversation, wrong, "chain_digest_mismatch");
        expect_miss(fixture, conversation + 100, right, "state_missing");
        expect_found(fixture, conversation, right, tiers[i]);
    }
}

static void test_store_takes_no_state_of_another_model_or_arithmetic(void **state) {
    struct fixture *fixture = *state;
    const struct store_candidate right = candidate_of(1, 1, 20);
    publish_head(fixture, 1, 1, 20);
    push_to(fixture, TIER_DISK);
    store_destroy(fixture->store);
    fixture->config.numerics_class = "host/2";
    open_store(fixture);
    expect_miss(fixture, 1, right, "numerics_class_mismatch");
    store_destroy(fixture->store);
    fixture->config.numerics_class = "host/1";
    fixture->config.state_digest[31] ^= 1; /* the beginning of the digest is in the head's key */
    open_store(fixture);
    expect_miss(fixture, 1, right, "state_missing");
    store_destroy(fixture->store);
    fixture->config.state_digest[31] ^= 1;
    open_store(fixture);
    expect_found(fixture, 1, right, TIER_DISK);
}

enum harm { HARM_FLIP, HARM_REMOVE, HARM_COUNT };

/* Flips a byte of PART of the newest head on disk, or removes its first run. Of older heads, which
 * have lower lineages, parts may still wait there to be collected. */
static void damage(struct fixture *fixture, enum record_part part, enum harm harm) {
    struct state_txn *txn;
    struct state_cursor *cursor;
    struct state_bytes key, value;
    struct record_object_key object, newest = {0};
    uint8_t name[RECORD_RUN_KEY_BYTES], copy[OBJECT_RUN_LARGE_BYTES];
    struct state_bytes run_key = {name, sizeof name};
    uint32_t run;
    assert_int_equal(state_env_begin_write(tier_disk_env(fixture->store->disk), &txn), ERR_OK);
    assert_int_equal(state_env_cursor_open(txn, STATE_OBJECTS, &cursor), ERR_OK);
    enum err code = state_env_first(cursor, &key, &value);
    for (; code == ERR_OK; code = state_env_next(cursor, &key, &value)) {
        assert_int_equal(record_run_key_decode(key.data, key.len, &object, &run), ERR_OK);
        if (object.part == part && run == 0 && object.lineage > newest.lineage) {
            newest = object;
        }
    }
    state_env_cursor_close(cursor);
    assert_true(newest.lineage > 0);
    record_run_key_encode(&newest, 0, name);
    assert_int_equal(state_env_get(txn, STATE_OBJECTS, run_key, &value), ERR_OK);
    assert_true(value.len <= sizeof copy);
    memcpy(copy, value.data, value.len);
    copy[80] ^= 0x10;
    code = harm == HARM_REMOVE
               ? state_env_remove(txn, STATE_OBJECTS, run_key)
               : state_env_put(txn, STATE_OBJECTS, run_key, (struct state_bytes){copy, value.len});
    assert_int_equal(code, ERR_OK);
    assert_int_equal(state_env_commit(txn), ERR_OK);
}

/* A damaged head is a miss, is met once, and leaves nothing behind that a lookup could find. */
static void test_store_meets_a_damaged_head_once(void **state) {
    static const enum record_part parts[] = {RECORD_BLOCK, RECORD_TAIL, RECORD_STATE};
    struct fixture *fixture = *state;
    for (size_t i = 0; i < ARRAY_LEN(parts) * HARM_COUNT; i++) {
        int conversation = 1 + (int)i;
        struct store_counters counters;
        const struct store_candidate right = candidate_of(conversation, 1, 20);
        publish_head(fixture, conversation, 1, 20);
        push_to(fixture, TIER_DISK);
        damage(fixture, parts[i / HARM_COUNT], (enum harm)(i % HARM_COUNT));
        expect_miss(fixture, conversation, right, "state_damaged");
        store_get_counters(fixture->store, &counters);
        assert_int_equal(counters.quarantined, i + 1);
        assert_int_equal(counters.heads_host + counters.heads_device, 0);
        struct store_found again = find(fixture, conversation, &right);
        assert_null(again.head);
        assert_int_equal(again.bytes_read, 0);
        store_get_counters(fixture->store, &counters);
        assert_int_equal(counters.quarantined, i + 1);
    }
}

/* A read that fails is a miss and no more: the head is there when the disk is again. */
static void test_store_takes_a_failed_read_for_a_miss(void **state) {
    struct fixture *fixture = *state;
    const struct store_candidate right = candidate_of(1, 1, 20);
    if (!fault_is_built()) {
        return;
    }
    publish_head(fixture, 1, 1, 20);
    push_to(fixture, TIER_DISK);
    for (int pass = 1; pass < 40; pass++) {
        char rule[64];
        struct store_counters counters;
        snprintf(rule, sizeof rule, "fail:state.txn_begin:%d", pass);
        assert_int_equal(fault_arm(rule), ERR_OK);
        struct store_found found = find(fixture, 1, &right);
        int has_fired = fault_fired() > 0;
        fault_disarm();
        if (!has_fired) {
            store_head_release(found.head);
            assert_true(pass > 2);
            break;
        }
        /* Asking for pages ahead may fail without harm; all else is a miss. */
        if (found.head == NULL) {
            assert_non_null(found.reason);
            store_get_counters(fixture->store, &counters);
            assert_int_equal(counters.quarantined, 0);
            assert_int_equal(counters.heads_host, 0);
            expect_found(fixture, 1, right, TIER_DISK);
        }
        store_head_release(found.head);
        expect_found(fixture, 1, right, TIER_HOST);
        push_to(fixture, TIER_DISK);
    }
}

static void keep_busy(struct fixture *fixture) {
    for (int i = 0; i < BUSY_FILLS; i++) {
        assert_int_equal(
            device_fill(fixture->stream, device_ptr_at(fixture->busy, 0), (uint8_t)i, BUSY_BYTES),
            ERR_OK);
    }
}

/* The copy to host memory begins when the steps that made the head have run, and not before. */
static void test_store_moves_only_what_has_been_computed(void **state) {
    struct fixture *fixture = *state;
    struct sequence sequence;
    struct store_publish publish = publish_of(1, 1);
    uint8_t *bytes = malloc(fixture->layout.slot_bytes);
    assert_non_null(bytes);
    for (size_t i = 0; i < fixture->layout.slot_bytes; i++) {
        bytes[i] = pattern(1, -1, i);
    }
    begin_sequence(fixture, &sequence);
    run_to(fixture, &sequence, 2 * BLOCK_SIZE, 1);
    write_pattern(fixture, pool_slot_ptr(fixture->pool, sequence.slot), 99, 7,
                  fixture->layout.slot_bytes);
    keep_busy(fixture);
    assert_int_equal(device_copy_in(fixture->stream, pool_slot_ptr(fixture->pool, sequence.slot),
                                    bytes, fixture->layout.slot_bytes),
                     ERR_OK);
    store_publish(fixture->store, commit(fixture, &sequence, NULL), &publish);
    sequence_done(&sequence);
    push_to(fixture, TIER_DISK);
    assert_int_equal(device_stream_wait_idle(fixture->stream), ERR_OK);
    free(bytes);
    expect_found(fixture, 1, candidate_of(1, 1, 2 * BLOCK_SIZE), TIER_DISK);
}

/* What the compute stream still does with a slot is over before an image is copied into it. */
static void test_store_attaches_behind_work_in_flight(void **state) {
    static const enum tier tiers[] = {TIER_HOST, TIER_DISK};
    struct fixture *fixture = *state;
    for (size_t i = 0; i < ARRAY_LEN(tiers); i++) {
        const struct store_candidate right = candidate_of(1 + (int)i, 1, 20);
        publish_head(fixture, 1 + (int)i, 1, 20);
        push_to(fixture, tiers[i]);
        keep_busy(fixture);
        expect_found(fixture, 1 + (int)i, right, tiers[i]);
        push_to(fixture, TIER_DISK);
    }
}

struct told {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int count;
    enum err code;
};

static void on_spilled(void *context, enum err code) {
    struct told *told = context;
    pthread_mutex_lock(&told->lock);
    told->count++;
    told->code = code;
    pthread_cond_broadcast(&told->changed);
    pthread_mutex_unlock(&told->lock);
}

static void expect_told(struct told *told) {
    pthread_mutex_lock(&told->lock);
    while (told->count == 0) {
        pthread_cond_wait(&told->changed, &told->lock);
    }
    assert_int_equal(told->count, 1);
    assert_int_equal(told->code, ERR_OK);
    pthread_mutex_unlock(&told->lock);
}

static void test_store_republishing_changes_nothing(void **state) {
    struct fixture *fixture = *state;
    struct store_counters counters;
    for (int i = 0; i < 3; i++) {
        struct told told = {.count = 0};
        struct sequence sequence;
        struct store_publish publish = publish_of(1, 1);
        publish.must_spill = 1;
        publish.spilled = on_spilled;
        publish.context = &told;
        pthread_mutex_init(&told.lock, NULL);
        pthread_cond_init(&told.changed, NULL);
        begin_sequence(fixture, &sequence);
        run_to(fixture, &sequence, 20, 1);
        store_publish(fixture->store, commit(fixture, &sequence, NULL), &publish);
        sequence_done(&sequence);
        expect_told(&told);
        pthread_cond_destroy(&told.changed);
        pthread_mutex_destroy(&told.lock);
        store_get_counters(fixture->store, &counters);
        assert_int_equal(counters.heads_device, 1);
    }
    assert_int_equal(store_drain(fixture->store, 20000), ERR_OK);
    store_get_counters(fixture->store, &counters);
    assert_int_equal(counters.spills_done, 1);
    expect_found(fixture, 1, candidate_of(1, 1, 20), TIER_DEVICE);
}

static void test_store_deletes_from_every_tier(void **state) {
    static const enum tier tiers[] = {TIER_DEVICE, TIER_HOST, TIER_DISK};
    struct fixture *fixture = *state;
    for (size_t i = 0; i < ARRAY_LEN(tiers); i++) {
        int conversation = 1 + (int)i;
        publish_head(fixture, conversation, 1, 20);
        publish_head(fixture, conversation + 100, 1, 20);
        push_to(fixture, tiers[i]);
        assert_int_equal(store_delete(fixture->store, publish_of(conversation, 0).key), ERR_OK);
        expect_miss(fixture, conversation, candidate_of(conversation, 1, 20), "state_missing");
        expect_found(fixture, conversation + 100, candidate_of(conversation + 100, 1, 20),
                     tiers[i]);
        push_to(fixture, TIER_DISK);
        expect_miss(fixture, conversation, candidate_of(conversation, 1, 20), "state_missing");
    }
}

/* A turn that goes on from a head leaves that head's tail as it was, and both can be read. */
static void test_store_continues_beside_its_parent(void **state) {
    struct fixture *fixture = *state;
    const struct store_candidate first = candidate_of(1, 1, 20);
    struct sequence sequence;
    publish_head(fixture, 1, 1, 20);
    struct store_found parent = find(fixture, 1, &first);
    assert_non_null(parent.head);
    for (int branch = 2; branch <= 3; branch++) {
        struct store_publish publish = publish_of(branch, 2);
        assert_int_equal(sequence_init(&sequence, fixture->pool, CONTEXT), ERR_OK);
        assert_int_equal(store_attach(fixture->store, parent.head, &sequence, fixture->stream),
                         ERR_OK);
        run_to(fixture, &sequence, 30, branch);
        struct store_head *head = commit(fixture, &sequence, parent.head);
        sequence_done(&sequence);
        store_publish(fixture->store, head, &publish);
        expect_found(fixture, 1, first, TIER_DEVICE);
    }
    store_head_release(parent.head);
    push_to(fixture, TIER_DISK);
    expect_found(fixture, 1, first, TIER_DISK);
}

static void *warm(void *context) {
    store_warm(context, 100);
    return NULL;
}

static void test_store_warms_up_beside_work(void **state) {
    struct fixture *fixture = *state;
    struct store_counters counters;
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, warm, fixture->store), 0);
    publish_head(fixture, 1, 1, 20);
    push_to(fixture, TIER_HOST);
    expect_found(fixture, 1, candidate_of(1, 1, 20), TIER_HOST);
    pthread_join(thread, NULL);
    store_get_counters(fixture->store, &counters);
    assert_true(counters.host_bytes <= counters.host_max_bytes);
    push_to(fixture, TIER_DISK);
    warm(fixture->store);
    expect_found(fixture, 1, candidate_of(1, 1, 20), TIER_DISK);
}

#define STORE_TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void) {
    const struct CMUnitTest tests[] = {
        STORE_TEST(test_store_gives_back_the_bytes_from_every_tier),
        STORE_TEST(test_store_finds_exactly_what_is_asked_for),
        STORE_TEST(test_store_takes_no_state_of_another_model_or_arithmetic),
        STORE_TEST(test_store_meets_a_damaged_head_once),
        STORE_TEST(test_store_takes_a_failed_read_for_a_miss),
        STORE_TEST(test_store_moves_only_what_has_been_computed),
        STORE_TEST(test_store_attaches_behind_work_in_flight),
        STORE_TEST(test_store_republishing_changes_nothing),
        STORE_TEST(test_store_deletes_from_every_tier),
        STORE_TEST(test_store_continues_beside_its_parent),
        STORE_TEST(test_store_warms_up_beside_work),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
