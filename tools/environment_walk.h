/*
 * The walk over an LMDB environment after an unclean end. LMDB has no page
 * checksums, and a damaged page can crash whoever reads it: so a child process, the
 * binary itself under the subcommand `walk`, reads everything first.
 */
#ifndef TERN_TOOLS_ENVIRONMENT_WALK_H
#define TERN_TOOLS_ENVIRONMENT_WALK_H

#include "base/err.h"

/* For stack_config: runs the child and waits. ERR_CORRUPT when it failed or died. */
MUST_USE enum err environment_walk_run(void *context, const char *environment_dir, int is_ledger);

#endif
