#include "server/front.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>

#include <cmocka.h>

struct gate {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int is_entered;
    int is_open;
    int order[8];
    int count;
};

struct step {
    struct gate *gate;
    int number;
};

static void wait_at_gate(void *context) {
    struct gate *gate = context;
    pthread_mutex_lock(&gate->lock);
    gate->is_entered = 1;
    pthread_cond_broadcast(&gate->changed);
    while (!gate->is_open) {
        pthread_cond_wait(&gate->changed, &gate->lock);
    }
    pthread_mutex_unlock(&gate->lock);
}

static void note_step(void *context) {
    struct step *step = context;
    pthread_mutex_lock(&step->gate->lock);
    step->gate->order[step->gate->count++] = step->number;
    pthread_mutex_unlock(&step->gate->lock);
}

/* A front of one thread, which waits at the gate. */
static struct front *create_blocked(struct gate *gate, int queue_max) {
    struct front *front = NULL;
    assert_int_equal(front_create(1, queue_max, &front), ERR_OK);
    assert_int_equal(front_submit(front, wait_at_gate, gate), ERR_OK);
    pthread_mutex_lock(&gate->lock);
    while (!gate->is_entered) {
        pthread_cond_wait(&gate->changed, &gate->lock);
    }
    pthread_mutex_unlock(&gate->lock);
    return front;
}

static void open_gate(struct gate *gate) {
    pthread_mutex_lock(&gate->lock);
    gate->is_open = 1;
    pthread_cond_broadcast(&gate->changed);
    pthread_mutex_unlock(&gate->lock);
}

static void test_front_refuses_what_passes_its_bound(void **state) {
    (void)state;
    struct gate gate = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};
    struct front *front = create_blocked(&gate, 2);
    struct step steps[] = {{&gate, 0}, {&gate, 1}, {&gate, 2}};
    assert_int_equal(front_submit(front, note_step, &steps[0]), ERR_OK);
    assert_int_equal(front_submit(front, note_step, &steps[1]), ERR_OK);
    assert_int_equal(front_submit(front, note_step, &steps[2]), ERR_FULL);
    assert_int_equal(front_queued(front), 2);
    open_gate(&gate);
    front_destroy(front);
    assert_int_equal(gate.count, 2);
}

static void test_front_takes_owned_jobs_always_and_first(void **state) {
    (void)state;
    struct gate gate = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};
    struct front *front = create_blocked(&gate, 1);
    struct step steps[] = {{&gate, 0}, {&gate, 1}, {&gate, 2}};
    struct front_job jobs[] = {{.run = note_step, .context = &steps[1]},
                               {.run = note_step, .context = &steps[2]}};
    assert_int_equal(front_submit(front, note_step, &steps[0]), ERR_OK);
    front_submit_owned(front, &jobs[0]);
    front_submit_owned(front, &jobs[1]);
    open_gate(&gate);
    front_destroy(front);
    assert_int_equal(gate.count, 3);
    assert_int_equal(gate.order[0], 1);
    assert_int_equal(gate.order[1], 2);
    assert_int_equal(gate.order[2], 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_front_refuses_what_passes_its_bound),
        cmocka_unit_test(test_front_takes_owned_jobs_always_and_first),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
