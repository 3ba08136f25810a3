/*
 * I1. No ring is lost: the ringer advances `rings` and then reads `sleepers`, the sleeper advances
 *     `sleepers` and then has the kernel compare `rings`, all in one total order. Either the
 *     ringer sees the sleeper and wakes it, or the kernel sees the new value and does not sleep.
 */
#include "gpu/host/doorbell.h"

#include <limits.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <xmmintrin.h>

/* Pauses between two looks at the clock: about a microsecond. */
enum { PAUSES_PER_LOOK = 32 };

static uint64_t clock_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* Nonzero if the counter moved within SPIN_NS. */
static int spin(struct doorbell *bell, uint32_t seen, uint64_t spin_ns) {
    uint64_t start_ns = 0;
    for (;;) {
        for (int i = 0; i < PAUSES_PER_LOOK; i++) {
            if (doorbell_value(bell) != seen) {
                return 1;
            }
            _mm_pause();
        }
        uint64_t now_ns = clock_ns();
        if (start_ns == 0) {
            start_ns = now_ns;
        }
        if (now_ns - start_ns >= spin_ns) {
            return 0;
        }
    }
}

void doorbell_ring(struct doorbell *bell) {
    atomic_fetch_add(&bell->rings, 1);
    if (atomic_load(&bell->sleepers) > 0) {
        syscall(SYS_futex, &bell->rings, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
    }
}

void doorbell_wait(struct doorbell *bell, uint32_t seen, uint64_t spin_ns) {
    if (doorbell_value(bell) != seen || (spin_ns > 0 && spin(bell, seen, spin_ns))) {
        return;
    }
    atomic_fetch_add(&bell->sleepers, 1);
    syscall(SYS_futex, &bell->rings, FUTEX_WAIT_PRIVATE, seen, NULL, NULL, 0);
    atomic_fetch_sub(&bell->sleepers, 1);
}
