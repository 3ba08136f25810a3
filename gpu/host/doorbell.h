/*
 * How threads of the host backend wait for each other: a counter that every ring
 * advances. A waiter reads the counter, checks its own condition, and waits for
 * the counter to move on; so no ring between check and wait is lost. Waiters
 * spin for a while, then sleep in the kernel; a ring costs a system call only
 * when somebody sleeps.
 *
 * Embedded by value; zeroes are a valid start. Any thread may ring or wait. A
 * ring publishes nothing by itself beyond its own order: the condition is kept in
 * atomics of its owner, stored before the ring.
 */
#ifndef TERN_GPU_DOORBELL_H
#define TERN_GPU_DOORBELL_H

#include <stdatomic.h>
#include <stdint.h>

struct doorbell {
    _Atomic uint32_t rings; /* wraps; only equality with an earlier value matters */
    _Atomic uint32_t sleepers;
};

static inline uint32_t doorbell_value(struct doorbell *bell) {
    return atomic_load_explicit(&bell->rings, memory_order_acquire);
}

/* Wakes every waiter. */
void doorbell_ring(struct doorbell *bell);

/* Returns once the counter differs from SEEN, or for no reason at all: callers loop. */
void doorbell_wait(struct doorbell *bell, uint32_t seen, uint64_t spin_ns);

#endif
