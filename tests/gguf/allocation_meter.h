/*
 * Counts what the program itself allocates and lets allocations fail, by the linker's --wrap of
 * malloc, calloc, aligned_alloc, realloc and free; what shared libraries allocate inside is not
 * seen. Linking tern_allocation_meter puts the wrappers in. Safe from any thread; the peak is the
 * whole process's.
 */
#ifndef TERN_TESTS_ALLOCATION_METER_H
#define TERN_TESTS_ALLOCATION_METER_H

#include <stddef.h>

/* Begins a measurement: what is held now does not count. */
void allocation_meter_start(void);

/* The most bytes held at once since the start. */
size_t allocation_meter_peak_bytes(void);

/* Bytes held now that were not held at the start; 0 when nothing leaked. */
ptrdiff_t allocation_meter_held_bytes(void);

/* The NUMBERth allocation from now on (1: the next) fails once, and none before or after it. */
void allocation_meter_fail_at(size_t number);

#endif
