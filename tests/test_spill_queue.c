#include "store/spill_queue.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static struct spill_segment segments[16];

static struct spill_job job_of(int conversation, uint64_t lineage, uint64_t turn) {
    struct spill_job job = {.head = {.key = {.kind = RECORD_TURN_END, .turn = turn},
                                     .length = 32 * turn,
                                     .lineage = lineage,
                                     .block_size = 32,
                                     .block_count = turn,
                                     .block_bytes = 100},
                            .segment_count = 1};
    memset(job.head.key.conversation, conversation, sizeof job.head.key.conversation);
    static size_t next;
    struct spill_segment *segment = &segments[next++ % 16];
    *segment = (struct spill_segment){.lineage = lineage, .end_block = turn};
    memcpy(segment->conversation, job.head.key.conversation, sizeof segment->conversation);
    job.segments = segment;
    return job;
}

/* Pushes; how many were superseded. */
static int push(struct spill_queue *queue, const struct spill_job *job) {
    struct spill_node *superseded;
    int count = 0;
    assert_int_equal(spill_queue_push(queue, job, 1, &superseded), ERR_OK);
    while (superseded != NULL) {
        struct spill_node *node = superseded;
        superseded = node->next;
        spill_queue_release(queue, node);
        count++;
    }
    return count;
}

static void release_all(struct spill_queue *queue, struct spill_node *nodes) {
    while (nodes != NULL) {
        struct spill_node *node = nodes;
        nodes = node->next;
        spill_queue_release(queue, node);
    }
}

static struct spill_queue *make(size_t jobs_max, uint64_t bytes_max) {
    struct spill_queue *queue;
    struct spill_queue_config config = {jobs_max, bytes_max};
    assert_int_equal(spill_queue_create(&config, &queue), ERR_OK);
    return queue;
}

static void test_spill_queue_supersedes_only_what_the_newer_carries(void **state) {
    (void)state;
    struct spill_queue *queue = make(8, 1 << 20);
    struct spill_job first = job_of(1, 1, 1);
    struct spill_job second = job_of(1, 1, 2);
    struct spill_job late = job_of(1, 1, 3);
    ((struct spill_segment *)(uintptr_t)late.segments)->held_from = 2;
    assert_int_equal(push(queue, &first), 0);
    assert_int_equal(push(queue, &second), 1);
    assert_int_equal(push(queue, &late), 0); /* it lacks blocks 0 and 1 */
    struct spill_job other = job_of(2, 2, 9);
    assert_int_equal(push(queue, &other), 0);
    assert_int_equal(spill_queue_count(queue), 3);
    release_all(queue, spill_queue_withdraw(queue, NULL, 0));
    assert_int_equal(spill_queue_bytes(queue), 0);
    spill_queue_destroy(queue);
}

static void test_spill_queue_keeps_the_place_of_what_it_supersedes(void **state) {
    (void)state;
    struct spill_queue *queue = make(8, 1 << 20);
    struct spill_job first = job_of(1, 1, 1);
    struct spill_job other = job_of(2, 2, 1);
    struct spill_job second = job_of(1, 1, 2);
    (void)push(queue, &first);
    (void)push(queue, &other);
    assert_int_equal(push(queue, &second), 1);
    struct spill_node *node = spill_queue_take(queue, 1 << 20, 1);
    assert_int_equal(node->job.head.key.turn, 2);
    release_all(queue, node);
    release_all(queue, spill_queue_withdraw(queue, NULL, 0));
    spill_queue_destroy(queue);
}

static void test_spill_queue_groups_only_independent_jobs(void **state) {
    (void)state;
    struct spill_queue *queue = make(8, 1 << 20);
    struct spill_job jobs[] = {job_of(1, 1, 1), job_of(2, 2, 1), job_of(1, 1, 2), job_of(3, 3, 1)};
    jobs[0].flags = SPILL_MUST_WRITE;
    for (size_t i = 0; i < 4; i++) {
        assert_int_equal(push(queue, &jobs[i]), 0);
    }
    struct spill_node *group = spill_queue_take(queue, 1 << 20, 16);
    int count = 0;
    for (struct spill_node *node = group; node != NULL; node = node->next) {
        assert_true(node->job.head.key.turn == 1);
        count++;
    }
    assert_int_equal(count, 3);
    release_all(queue, group);
    group = spill_queue_take(queue, 1 << 20, 16);
    assert_int_equal(group->job.head.key.turn, 2);
    release_all(queue, group);
    assert_null(spill_queue_take(queue, 1 << 20, 16));
    spill_queue_destroy(queue);
}

static void test_spill_queue_refuses_above_its_bounds(void **state) {
    (void)state;
    struct spill_queue *queue = make(2, 250);
    struct spill_node *superseded;
    struct spill_job large = job_of(1, 1, 9); /* 900 bytes: alone it may enter */
    struct spill_job small = job_of(2, 2, 1);
    assert_int_equal(push(queue, &large), 0);
    assert_int_equal(spill_queue_push(queue, &small, 1, &superseded), ERR_FULL);
    release_all(queue, spill_queue_withdraw(queue, large.head.key.conversation, 0));
    struct spill_job others[] = {job_of(3, 3, 1), job_of(4, 4, 1)};
    assert_int_equal(push(queue, &others[0]), 0);
    assert_int_equal(push(queue, &others[1]), 0);
    assert_int_equal(spill_queue_push(queue, &small, 1, &superseded), ERR_FULL);
    assert_null(superseded);
    release_all(queue, spill_queue_withdraw(queue, NULL, 0));
    spill_queue_destroy(queue);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_spill_queue_supersedes_only_what_the_newer_carries),
        cmocka_unit_test(test_spill_queue_keeps_the_place_of_what_it_supersedes),
        cmocka_unit_test(test_spill_queue_groups_only_independent_jobs),
        cmocka_unit_test(test_spill_queue_refuses_above_its_bounds),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
