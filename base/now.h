/*
 * Time, behind a clock that tests can replace. now_monotonic_* never goes
 * backwards and counts from an arbitrary point; now_wall_ms is Unix time.
 */
#ifndef TERN_BASE_NOW_H
#define TERN_BASE_NOW_H

#include <stdint.h>

struct now_clock {
    uint64_t (*monotonic_ns)(void *context);
    uint64_t (*wall_ms)(void *context);
    void *context;
};

/* Replaces the clock of the whole process; NULL restores the system's. For tests, before threads
 * start. */
void now_set_clock(const struct now_clock *clock);

uint64_t now_monotonic_ns(void);
uint64_t now_monotonic_ms(void);
uint64_t now_wall_ms(void);

#endif
