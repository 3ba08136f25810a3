/*
 * The store with host memory for two heads and many of them on their way: what waits, for how
 * long, and what is given up. A write transaction that the test holds stands for a disk that is
 * slow, or stuck.
 */
#include "base/now.h"
#include "store/store_state.h"

#include <ftw.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

enum {
    BLOCKS = 64,
    SLOTS = 16,
    BLOCK_SIZE = 8,
    CONTEXT = 64,
    LENGTH = 20,
    HEADS_THAT_FIT = 2,
    HEADS = 6,
    LAG_MS = 4000,      /* waits without progress end after twice this: never, in a test */
    HASTY_LAG_MS = 50,  /* and here after half a second */
    SLOW_MS = 150,      /* well before that */
    PATIENCE_MS = 5000, /* all waits together are over long before this */
};

struct fixture {
    char directory[64];
    struct device *device;
    struct device_stream *stream;
    struct layout layout;
    struct pool *pool;
    struct store *store;
    struct state_txn *stuck;
};

static int set_up_with(void **state, uint32_t lag_ms) {
    struct fixture *fixture = calloc(1, sizeof *fixture);
    assert_non_null(fixture);
    strcpy(fixture->directory, "/tmp/tern-test-pressure-XXXXXX");
    assert_non_null(mkdtemp(fixture->directory));
    struct layout *layout = &fixture->layout;
    assert_int_equal(device_open(&(struct device_config){.threads = 1}, &fixture->device), ERR_OK);
    assert_int_equal(device_stream_create(fixture->device, DEVICE_STREAM_COMPUTE, &fixture->stream),
                     ERR_OK);
    assert_int_equal(layout_init(layout, BLOCK_SIZE, DTYPE_F16), ERR_OK);
    assert_int_equal(layout_add_kv(layout, 0, 2, 4, 4, NULL), ERR_OK);
    assert_int_equal(layout_add_state(layout, 1, "ssm", (int[]){2, 4, 8}, NULL), ERR_OK);
    struct pool_config pool = {
        .device = fixture->device, .layout = layout, .blocks = BLOCKS, .slots = SLOTS};
    assert_int_equal(pool_create(&pool, &fixture->pool), ERR_OK);
    struct store_config config = {
        .pool = fixture->pool,
        .host_max_bytes = HEADS_THAT_FIT * host_image_bytes(layout, LENGTH, 0),
        .directory = fixture->directory,
        .disk_max_bytes = 16 << 20,
        .numerics_class = "host/1",
        .spills_eagerly = 1,
        .spill_lag_bytes = 4 << 20,
        .spill_lag_ms = lag_ms,
    };
    assert_int_equal(store_create(&config, &fixture->store), ERR_OK);
    *state = fixture;
    return 0;
}

static int set_up(void **state) {
    return set_up_with(state, LAG_MS);
}

static int set_up_hasty(void **state) {
    return set_up_with(state, HASTY_LAG_MS);
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
    state_env_abort(fixture->stuck); /* a failed assertion left it */
    device_stream_destroy(fixture->stream);
    store_destroy(fixture->store);
    pool_destroy(fixture->pool);
    layout_done(&fixture->layout);
    device_close(fixture->device);
    nftw(fixture->directory, remove_entry, 8, FTW_DEPTH | FTW_PHYS);
    free(fixture);
    return 0;
}

/* --- the disk -----------------------------------------------------------------------------------
 */

static void stick(struct fixture *fixture) {
    assert_int_equal(state_env_begin_write(tier_disk_env(fixture->store->disk), &fixture->stuck),
                     ERR_OK);
}

static void go_on(struct fixture *fixture) {
    state_env_abort(fixture->stuck);
    fixture->stuck = NULL;
}

static void drain(struct fixture *fixture) {
    assert_int_equal(store_drain(fixture->store, 20000), ERR_OK);
}

static void push_to_disk(struct fixture *fixture) {
    drain(fixture);
    assert_true(store_reclaim(fixture->store, BLOCKS, SLOTS));
    store_trim(fixture->store);
}

/* --- heads of known state -----------------------------------------------------------------------
 */

static void fill(struct fixture *fixture, struct device_ptr to, int conversation, size_t bytes) {
    assert_int_equal(device_fill(fixture->stream, to, (uint8_t)conversation, bytes), ERR_OK);
}

static void fill_key(uint8_t key[STORE_KEY_BYTES], int conversation) {
    memset(key, conversation, STORE_KEY_BYTES);
}

/* Goes on from PARENT, or from nothing. */
static void publish(struct fixture *fixture, int conversation, uint64_t turn,
                    struct store_head *parent) {
    struct sequence sequence;
    struct store_head *head = NULL;
    struct store_publish params = {.turn = turn};
    struct store_head_params made = {.sequence = &sequence,
                                     .stream = fixture->stream,
                                     .length = LENGTH,
                                     .state_slot = -1,
                                     .kind = STORE_KIND_TURN_END,
                                     .parent = parent};
    fill_key(params.key, conversation);
    assert_int_equal(sequence_init(&sequence, fixture->pool, CONTEXT), ERR_OK);
    assert_int_equal(sequence_start(&sequence, fixture->stream), ERR_OK);
    assert_int_equal(sequence_reserve(&sequence, LENGTH), ERR_OK);
    for (int i = 0; i < sequence.block_count; i++) {
        fill(fixture, pool_block_ptr(fixture->pool, sequence.blocks[i]), conversation,
             fixture->layout.block_bytes);
    }
    fill(fixture, pool_slot_ptr(fixture->pool, sequence.slot), conversation,
         fixture->layout.slot_bytes);
    sequence.length = LENGTH;
    assert_int_equal(store_head_create(fixture->store, &made, &head), ERR_OK);
    sequence_done(&sequence);
    store_publish(fixture->store, head, &params);
}

static struct store_found find(struct fixture *fixture, int conversation, uint64_t turn) {
    struct store_candidate candidate = {
        .kind = STORE_KIND_TURN_END, .turn = turn, .length = LENGTH};
    struct store_want want = {.candidates = &candidate, .candidate_count = 1};
    struct store_found found;
    fill_key(want.key, conversation);
    store_find(fixture->store, &want, &found);
    return found;
}

static void expect_bytes(struct fixture *fixture, struct device_ptr at, int conversation,
                         size_t bytes) {
    uint8_t *got = malloc(bytes);
    assert_non_null(got);
    assert_int_equal(device_copy_out(fixture->stream, got, at, bytes), ERR_OK);
    assert_int_equal(device_stream_wait_idle(fixture->stream), ERR_OK);
    for (size_t i = 0; i < bytes; i++) {
        assert_int_equal(got[i], conversation);
    }
    free(got);
}

/* Attaches as the engine does: again as long as the head is being read. */
static void expect_attach(struct fixture *fixture, int conversation, struct store_head *head,
                          int *busy) {
    struct sequence sequence;
    enum err code = ERR_BUSY;
    assert_int_equal(sequence_init(&sequence, fixture->pool, CONTEXT), ERR_OK);
    for (*busy = 0; *busy < PATIENCE_MS; (*busy)++) {
        code = store_attach(fixture->store, head, &sequence, fixture->stream);
        if (code != ERR_BUSY) {
            break;
        }
        usleep(1000);
    }
    assert_int_equal(code, ERR_OK);
    assert_int_equal(sequence.length, LENGTH);
    expect_bytes(fixture, pool_slot_ptr(fixture->pool, sequence.slot), conversation,
                 fixture->layout.slot_bytes);
    for (int i = 0; i < LENGTH / BLOCK_SIZE; i++) {
        expect_bytes(fixture, pool_block_ptr(fixture->pool, sequence.blocks[i]), conversation,
                     fixture->layout.block_bytes);
    }
    sequence_done(&sequence);
}

static void expect_found(struct fixture *fixture, int conversation, uint64_t turn) {
    int busy;
    struct store_found found = find(fixture, conversation, turn);
    assert_non_null(found.head);
    expect_attach(fixture, conversation, found.head, &busy);
    store_head_release(found.head);
}

/* --- tests ---------------------------------------------------------------------------------------
 */

/* A disk that stands still for a moment costs no head, however few fit into host memory. */
static void test_store_pressure_loses_no_head_while_spills_progress(void **state) {
    struct fixture *fixture = *state;
    struct store_counters counters;
    stick(fixture);
    for (int i = 1; i <= HEADS; i++) {
        publish(fixture, i, 1, NULL);
    }
    assert_false(store_reclaim(fixture->store, BLOCKS, SLOTS)); /* nothing may go yet */
    usleep(SLOW_MS * 1000);
    assert_false(store_reclaim(fixture->store, BLOCKS, SLOTS));
    go_on(fixture);
    drain(fixture);
    store_get_counters(fixture->store, &counters);
    assert_int_equal(counters.spills_failed, 0);
    assert_int_equal(counters.spills_done, HEADS);
    assert_true(store_reclaim(fixture->store, BLOCKS, SLOTS)); /* now all may */
    for (int i = 1; i <= HEADS; i++) {
        expect_found(fixture, i, 1);
    }
}

/* Superseded heads lend their blocks to the next turn's until that is copied: room for its state
 * comes from theirs. */
static void test_store_pressure_moves_turns_that_build_on_others(void **state) {
    struct fixture *fixture = *state;
    for (uint64_t turn = 1; turn <= 3; turn++) {
        for (int i = 1; i <= HEADS_THAT_FIT; i++) {
            struct store_found found = {.head = NULL};
            if (turn > 1) {
                found = find(fixture, i, turn - 1);
                assert_non_null(found.head);
            }
            publish(fixture, i, turn, found.head);
            store_head_release(found.head);
        }
    }
    push_to_disk(fixture);
    for (int i = 1; i <= HEADS_THAT_FIT; i++) {
        expect_found(fixture, i, 3);
    }
}

/* Until the mover has filled host memory with what it cannot get rid of. */
static void wait_until_full(struct fixture *fixture) {
    struct store_counters counters = {.heads_host = 0};
    for (int i = 0; i < PATIENCE_MS && counters.heads_host < HEADS_THAT_FIT; i++) {
        usleep(1000);
        store_get_counters(fixture->store, &counters);
    }
    assert_int_equal(counters.heads_host, HEADS_THAT_FIT);
}

struct search {
    struct fixture *fixture;
    struct store_found found;
    _Atomic int is_over;
};

static void *search(void *context) {
    struct search *search = context;
    search->found = find(search->fixture, HEADS, 1);
    atomic_store(&search->is_over, 1);
    return NULL;
}

/* Host memory is full of heads that are being written: the lookup waits for them. */
static void test_store_pressure_promotion_waits_and_succeeds(void **state) {
    struct fixture *fixture = *state;
    struct search one = {.fixture = fixture};
    pthread_t thread;
    int busy;
    publish(fixture, HEADS, 1, NULL);
    push_to_disk(fixture);
    stick(fixture);
    for (int i = 1; i <= HEADS_THAT_FIT; i++) {
        publish(fixture, i, 1, NULL);
    }
    wait_until_full(fixture);
    assert_int_equal(pthread_create(&thread, NULL, search, &one), 0);
    usleep(SLOW_MS * 1000);
    assert_false(atomic_load(&one.is_over));
    go_on(fixture);
    uint64_t begun_ms = now_monotonic_ms();
    pthread_join(thread, NULL);
    assert_true(now_monotonic_ms() - begun_ms < LAG_MS); /* woken, not timed out */
    assert_non_null(one.found.head);
    assert_int_equal(one.found.tier, TIER_DISK);
    expect_attach(fixture, HEADS, one.found.head, &busy);
    store_head_release(one.found.head);
    drain(fixture);
}

/* Nothing hangs on a disk that never answers: lookups miss with a reason, room is made by giving
 * heads up, and all that within one wait. */
static void test_store_pressure_stuck_disk_ends_in_a_reason(void **state) {
    struct fixture *fixture = *state;
    publish(fixture, HEADS, 1, NULL);
    push_to_disk(fixture);
    stick(fixture);
    for (int i = 1; i < HEADS; i++) {
        publish(fixture, i, 1, NULL);
    }
    wait_until_full(fixture);
    uint64_t begun_ms = now_monotonic_ms();
    struct store_found found = find(fixture, HEADS, 1);
    assert_null(found.head);
    assert_string_equal(found.reason, "host_memory_full");
    while (!store_reclaim(fixture->store, BLOCKS, SLOTS) &&
           now_monotonic_ms() - begun_ms < PATIENCE_MS) {
        usleep(1000);
    }
    assert_true(store_reclaim(fixture->store, BLOCKS, SLOTS));
    assert_true(now_monotonic_ms() - begun_ms < PATIENCE_MS);
    go_on(fixture);
    drain(fixture);
    for (int i = 1; i <= HEADS_THAT_FIT; i++) { /* what had its room was written */
        expect_found(fixture, i, 1);
    }
    expect_found(fixture, HEADS, 1); /* and lookups wait again */
    found = find(fixture, HEADS - 1, 1);
    assert_null(found.head);
    assert_string_equal(found.reason, "state_missing");
}

/* The mover takes the room of those who wait with a head that lies on disk; it comes back. */
static void test_store_pressure_reads_a_pinned_head_again(void **state) {
    struct fixture *fixture = *state;
    struct store_found found[HEADS_THAT_FIT];
    for (int i = 0; i < HEADS_THAT_FIT; i++) {
        publish(fixture, 1 + i, 1, NULL);
    }
    push_to_disk(fixture);
    for (int i = 0; i < HEADS_THAT_FIT; i++) {
        found[i] = find(fixture, 1 + i, 1);
        assert_non_null(found[i].head);
    }
    for (int i = HEADS_THAT_FIT; i < HEADS; i++) {
        publish(fixture, 1 + i, 1, NULL);
    }
    drain(fixture);
    assert_true(store_reclaim(fixture->store, BLOCKS, SLOTS));
    int busy = 0;
    for (int i = HEADS_THAT_FIT - 1; i >= 0; i--) {
        int times;
        expect_attach(fixture, 1 + i, found[i].head, &times);
        busy += times;
    }
    assert_true(busy > 0);
    for (int i = 0; i < HEADS_THAT_FIT; i++) {
        store_head_release(found[i].head);
    }
    for (int i = 0; i < HEADS; i++) {
        expect_found(fixture, 1 + i, 1);
    }
    drain(fixture);
}

/* A head that a newer one has replaced leaves its slot at once, though its child still needs its
 * blocks. */
static void test_store_pressure_superseded_heads_leave_the_device(void **state) {
    struct fixture *fixture = *state;
    struct pool_usage usage;
    publish(fixture, 1, 1, NULL);
    drain(fixture);
    struct store_found found = find(fixture, 1, 1);
    assert_non_null(found.head);
    stick(fixture);
    for (int i = 2; i <= 1 + HEADS_THAT_FIT; i++) {
        publish(fixture, i, 1, NULL); /* host memory is full of them, and the next one waits */
    }
    publish(fixture, 1, 2, found.head);
    store_head_release(found.head);
    pool_get_usage(fixture->pool, &usage);
    assert_int_equal(usage.slots - usage.slots_free, 1 + HEADS_THAT_FIT);
    go_on(fixture);
    drain(fixture);
    expect_found(fixture, 1, 2);
}

/* Requests that are set aside leave room for heads to pass through. */
static void test_store_pressure_bounds_what_is_set_aside(void **state) {
    struct fixture *fixture = *state;
    size_t half = fixture->store->host.max_bytes / 2;
    void *memory = NULL, *more = NULL;
    assert_int_equal(store_host_take(fixture->store, half + 1, &memory), ERR_FULL);
    assert_int_equal(store_host_take(fixture->store, half, &memory), ERR_OK);
    assert_int_equal(store_host_take(fixture->store, 1, &more), ERR_FULL);
    publish(fixture, 1, 1, NULL);
    publish(fixture, 2, 1, NULL);
    push_to_disk(fixture);
    store_host_give(fixture->store, memory, half);
    assert_int_equal(store_host_take(fixture->store, half, &memory), ERR_OK);
    store_host_give(fixture->store, memory, half);
    expect_found(fixture, 1, 1);
    expect_found(fixture, 2, 1);
}

#define STORE_TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void) {
    const struct CMUnitTest tests[] = {
        STORE_TEST(test_store_pressure_loses_no_head_while_spills_progress),
        STORE_TEST(test_store_pressure_moves_turns_that_build_on_others),
        STORE_TEST(test_store_pressure_promotion_waits_and_succeeds),
        cmocka_unit_test_setup_teardown(test_store_pressure_stuck_disk_ends_in_a_reason,
                                        set_up_hasty, tear_down),
        STORE_TEST(test_store_pressure_reads_a_pinned_head_again),
        STORE_TEST(test_store_pressure_superseded_heads_leave_the_device),
        STORE_TEST(test_store_pressure_bounds_what_is_set_aside),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
