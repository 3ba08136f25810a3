/*
 * The backends' side of profile.h: what a device collects while a profile runs. Internal to gpu/.
 */
#ifndef TERN_GPU_PROFILE_RECORD_H
#define TERN_GPU_PROFILE_RECORD_H

#include "gpu/command.h"
#include "gpu/profile.h"

struct profile;

/* Adds one run of COMMAND. Any thread. */
void profile_record_add(struct profile *profile, const struct command *command, uint64_t ns);

void profile_record_destroy(struct profile *profile);

#endif
