#include "base/now.h"

#include <stddef.h>
#include <time.h>

static uint64_t system_monotonic_ns(void *context) {
    (void)context;
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

static uint64_t system_wall_ms(void *context) {
    (void)context;
    struct timespec time;
    clock_gettime(CLOCK_REALTIME, &time);
    return (uint64_t)time.tv_sec * 1000u + (uint64_t)time.tv_nsec / 1000000u;
}

static const struct now_clock system_clock = {
    .monotonic_ns = system_monotonic_ns,
    .wall_ms = system_wall_ms,
};

static const struct now_clock *active_clock = &system_clock;

void now_set_clock(const struct now_clock *clock) {
    active_clock = clock != NULL ? clock : &system_clock;
}

uint64_t now_monotonic_ns(void) {
    return active_clock->monotonic_ns(active_clock->context);
}

uint64_t now_monotonic_ms(void) {
    return now_monotonic_ns() / 1000000u;
}

uint64_t now_wall_ms(void) {
    return active_clock->wall_ms(active_clock->context);
}
