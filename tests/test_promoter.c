#include "store/promoter.h"

#include "tests/tier_disk_fixture.h"

enum { BLOCKS = 37, LENGTH = BLOCKS * BLOCK_SIZE + 5, READERS = 4 };

/* A head's bytes in memory, as a promotion wants them. */
struct copy {
    const struct record_head *head;
    uint8_t *blocks[BLOCKS];
    uint8_t *tail;
    uint8_t *state;
};

static struct copy copy_create(const struct record_head *head) {
    struct copy copy = {.head = head};
    for (int i = 0; i < BLOCKS; i++) {
        copy.blocks[i] = malloc(BLOCK_BYTES);
        memset(copy.blocks[i], 0xee, BLOCK_BYTES);
    }
    copy.tail = malloc(BLOCK_BYTES);
    copy.state = malloc(STATE_BYTES);
    memset(copy.tail, 0xee, BLOCK_BYTES);
    memset(copy.state, 0xee, STATE_BYTES);
    return copy;
}

static void copy_destroy(struct copy *copy) {
    for (int i = 0; i < BLOCKS; i++) {
        free(copy->blocks[i]);
    }
    free(copy->tail);
    free(copy->state);
}

static enum err place(void *context, const struct record_object_key *key, void **destination) {
    struct copy *copy = context;
    *destination = key->part == RECORD_BLOCK  ? copy->blocks[key->index]
                   : key->part == RECORD_TAIL ? copy->tail
                                              : copy->state;
    return ERR_OK;
}

static int is_right(const struct record_object_key *key, const uint8_t *raw, size_t bytes) {
    uint8_t *expected = malloc(bytes);
    fill_object(key, expected, bytes, element_bytes(key));
    int is_same = memcmp(expected, raw, bytes) == 0;
    free(expected);
    return is_same;
}

/* How many of the head's objects are as they were spilled. */
static int count_right(const struct copy *copy, const struct head_plan *plan) {
    int right = 0;
    for (int i = 0; i < BLOCKS; i++) {
        struct record_object_key key = head_plan_block(plan, (uint64_t)i);
        right += is_right(&key, copy->blocks[i], BLOCK_BYTES);
    }
    struct record_object_key tail = head_plan_tail(plan);
    struct record_object_key end = head_plan_state(plan);
    return right + is_right(&tail, copy->tail, BLOCK_BYTES) +
           is_right(&end, copy->state, STATE_BYTES);
}

static struct head_plan *plan_of(struct fixture *fixture, int conversation,
                                 struct record_head *head) {
    struct head_plan *plan;
    assert_int_equal(look(fixture, conversation, 9, head), TIER_DISK_HIT);
    assert_int_equal(tier_disk_plan(fixture->tier, head, &plan), ERR_OK);
    return plan;
}

static enum err read_with(struct promoter *promoter, const struct head_plan *plan,
                          struct copy *copy, struct head_failure *failure, uint64_t *bytes) {
    struct head_want want = {.end_block = BLOCKS, .tail = 1, .state = 1};
    struct head_sink sink = {.place = place, .context = copy};
    return promoter_read(promoter, plan, &want, &sink, failure, bytes);
}

static void test_promoter_reads_the_same_with_any_threads(void **state) {
    static const int threads[] = {1, 2, 5};
    struct fixture *fixture = *state;
    uint64_t bytes_first = 0;
    fixture_open(fixture);
    assert_int_equal(spill_simple(fixture, 1, 1, 1, LENGTH), SPILL_DURABLE);
    for (size_t i = 0; i < ARRAY_LEN(threads); i++) {
        struct record_head head;
        struct promoter *promoter;
        struct head_failure failure;
        uint64_t bytes = 0;
        struct head_plan *plan = plan_of(fixture, 1, &head);
        struct copy copy = copy_create(&head);
        assert_int_equal(promoter_create(fixture->tier, threads[i], &promoter), ERR_OK);
        assert_int_equal(read_with(promoter, plan, &copy, &failure, &bytes), ERR_OK);
        assert_int_equal(count_right(&copy, plan), BLOCKS + 2);
        bytes_first = i == 0 ? bytes : bytes_first;
        assert_true(bytes > 0);
        assert_int_equal(bytes, bytes_first);
        promoter_destroy(promoter);
        copy_destroy(&copy);
        head_plan_destroy(plan);
    }
}

static void test_promoter_reads_only_what_is_wanted(void **state) {
    struct fixture *fixture = *state;
    struct record_head head;
    struct promoter *promoter;
    struct head_failure failure;
    uint64_t bytes = 0;
    fixture_open(fixture);
    assert_int_equal(spill_simple(fixture, 1, 1, 1, LENGTH), SPILL_DURABLE);
    struct head_plan *plan = plan_of(fixture, 1, &head);
    struct copy copy = copy_create(&head);
    struct head_want want = {.first_block = 3, .end_block = 20};
    struct head_sink sink = {.place = place, .context = &copy};
    assert_int_equal(promoter_create(fixture->tier, 3, &promoter), ERR_OK);
    assert_int_equal(promoter_read(promoter, plan, &want, &sink, &failure, &bytes), ERR_OK);
    assert_int_equal(count_right(&copy, plan), 17);
    want = (struct head_want){.first_block = 20, .end_block = 20};
    bytes = 0;
    assert_int_equal(promoter_read(promoter, plan, &want, &sink, &failure, &bytes), ERR_OK);
    assert_int_equal(bytes, 0);
    promoter_destroy(promoter);
    copy_destroy(&copy);
    head_plan_destroy(plan);
}

static void test_promoter_names_the_object_that_fails(void **state) {
    struct fixture *fixture = *state;
    struct record_head head;
    struct promoter *promoter;
    struct head_failure failure = {0};
    uint64_t bytes = 0;
    fixture_open(fixture);
    assert_int_equal(spill_simple(fixture, 1, 1, 1, LENGTH), SPILL_DURABLE);
    struct head_plan *plan = plan_of(fixture, 1, &head);
    struct record_object_key bad = head_plan_block(plan, 30);
    damage_object(fixture, &bad);
    struct copy copy = copy_create(&head);
    assert_int_equal(promoter_create(fixture->tier, 3, &promoter), ERR_OK);
    assert_int_equal(read_with(promoter, plan, &copy, &failure, &bytes), ERR_CORRUPT);
    assert_int_equal(failure.verdict, OBJECT_DAMAGED);
    assert_int_equal(failure.key.part, RECORD_BLOCK);
    assert_int_equal(failure.key.index, 30);
    assert_non_null(strstr(err_message(), "index 30"));
    promoter_destroy(promoter);
    copy_destroy(&copy);
    head_plan_destroy(plan);
}

struct reading {
    struct fixture *fixture;
    struct promoter *promoter;
    int conversation;
    int wrong;
    pthread_t thread;
};

static void *read_often(void *context) {
    struct reading *reading = context;
    for (int i = 0; i < 10; i++) {
        struct record_head head;
        struct head_failure failure;
        uint64_t bytes = 0;
        struct head_plan *plan = plan_of(reading->fixture, reading->conversation, &head);
        struct copy copy = copy_create(&head);
        reading->wrong += read_with(reading->promoter, plan, &copy, &failure, &bytes) != ERR_OK ||
                          count_right(&copy, plan) != BLOCKS + 2;
        copy_destroy(&copy);
        head_plan_destroy(plan);
    }
    return NULL;
}

static void test_promoter_reads_several_heads_at_once(void **state) {
    struct fixture *fixture = *state;
    struct reading readings[READERS];
    struct promoter *promoter;
    fixture_open(fixture);
    for (int i = 0; i < READERS; i++) {
        assert_int_equal(spill_simple(fixture, i + 1, (uint64_t)i + 1, 1, LENGTH), SPILL_DURABLE);
    }
    assert_int_equal(promoter_create(fixture->tier, 3, &promoter), ERR_OK);
    for (int i = 0; i < READERS; i++) {
        readings[i] =
            (struct reading){.fixture = fixture, .promoter = promoter, .conversation = i + 1};
        assert_int_equal(pthread_create(&readings[i].thread, NULL, read_often, &readings[i]), 0);
    }
    for (int i = 0; i < READERS; i++) {
        pthread_join(readings[i].thread, NULL);
        assert_int_equal(readings[i].wrong, 0);
    }
    promoter_destroy(promoter);
}

static void test_promoter_refuses_odd_numbers_of_threads(void **state) {
    struct promoter *promoter = NULL;
    (void)state;
    assert_int_equal(promoter_create(NULL, 0, &promoter), ERR_INVALID);
    assert_int_equal(promoter_create(NULL, PROMOTER_THREADS_MAX + 1, &promoter), ERR_INVALID);
    assert_null(promoter);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_promoter_reads_the_same_with_any_threads,
                                        fixture_setup, fixture_teardown),
        cmocka_unit_test_setup_teardown(test_promoter_reads_only_what_is_wanted, fixture_setup,
                                        fixture_teardown),
        cmocka_unit_test_setup_teardown(test_promoter_names_the_object_that_fails, fixture_setup,
                                        fixture_teardown),
        cmocka_unit_test_setup_teardown(test_promoter_reads_several_heads_at_once, fixture_setup,
                                        fixture_teardown),
        cmocka_unit_test(test_promoter_refuses_odd_numbers_of_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
