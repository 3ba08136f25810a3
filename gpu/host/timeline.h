/*
 * How far a stream has come: the count of its items that have run. A point on a
 * timeline is a count; an event is a timeline and a point, a wait is until the
 * point is passed. Shared by reference, so that an event outlives its stream.
 *
 * The stream's thread alone advances; any thread may read, wait, acquire and
 * release.
 */
#ifndef TERN_GPU_TIMELINE_H
#define TERN_GPU_TIMELINE_H

#include "base/err.h"

struct timeline;

/* With one reference, which is the caller's. */
MUST_USE enum err timeline_create(struct timeline **out);
struct timeline *timeline_acquire(struct timeline *timeline);
void timeline_release(struct timeline *timeline); /* accepts NULL */

uint64_t timeline_count(struct timeline *timeline);
void timeline_advance(struct timeline *timeline);

/* Blocks until `count` items have run; what they wrote is visible then. */
void timeline_wait(struct timeline *timeline, uint64_t count);

#endif
