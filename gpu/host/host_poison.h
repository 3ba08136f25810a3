/*
 * Keeps buffer memory unreadable to everybody but running work, in builds with
 * AddressSanitizer: a buffer is poisoned when it is made, and a hold lifts the
 * poison from the byte ranges that a command or copy names, while it runs. So
 * host code that follows a device address, and a kernel that leaves its ranges,
 * are reports. In other builds every function does nothing; the build picks the
 * file (host_poison.c or host_poison_off.c).
 *
 * Holds of several streams overlap: ending one poisons only what no other holds.
 * Poison lies on granules of 8 bytes, so a slip within one goes unseen. Any thread
 * may open and close holds.
 */
#ifndef TERN_GPU_HOST_POISON_H
#define TERN_GPU_HOST_POISON_H

#include "gpu/command.h"

struct host_poison;
struct host_poison_hold;

struct host_poison_range {
    const void *memory;
    size_t bytes;
};

int host_poison_is_active(void);

/* *out stays NULL where poison is off. */
MUST_USE enum err host_poison_create(struct host_poison **out);
void host_poison_destroy(struct host_poison *poison);

/* Poisons a buffer's memory, which begins and ends on 64 bytes; and makes it plain again. */
void host_poison_cover(void *memory, size_t bytes);
void host_poison_uncover(void *memory, size_t bytes);

/* The ranges that COMMAND, which has passed command_check, names. Aborts without memory. */
struct host_poison_hold *host_poison_open_command(struct host_poison *poison,
                                                  const struct command *command);
struct host_poison_hold *host_poison_open_ranges(struct host_poison *poison,
                                                 const struct host_poison_range *ranges,
                                                 size_t count);
void host_poison_close(struct host_poison *poison, struct host_poison_hold *hold);

#endif
