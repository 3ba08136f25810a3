/*
 * The three ops that only move bytes within a pool: tail copies, state copies and
 * clears. The same for every kernel set; they run on the thread of the stream.
 */
#ifndef TERN_GPU_HOST_POOL_COPY_H
#define TERN_GPU_HOST_POOL_COPY_H

#include "gpu/command.h"

int host_pool_copy_takes(enum command_kind kind);

/* COMMAND is of a kind that host_pool_copy_takes and has passed command_check. */
void host_pool_copy_run(const struct command *command);

#endif
