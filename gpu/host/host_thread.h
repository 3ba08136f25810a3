/*
 * Threads of the host backend: none takes a signal of the process, and every one
 * computes in the same floating-point state.
 */
#ifndef TERN_GPU_HOST_THREAD_H
#define TERN_GPU_HOST_THREAD_H

#include <pthread.h>

#include "base/err.h"

/* Starts RUN(context) with all signals blocked. NAME is at most 15 characters. ERR_NOMEM when the
 * system has no thread to give. */
MUST_USE enum err host_thread_create(const char *name, void *(*run)(void *), void *context,
                                     pthread_t *out);

/* Processors that this process may run on; at least 1. */
int host_thread_processors(void);

/* Round to nearest, denormals kept, all exceptions masked; returns the state that was. */
unsigned host_thread_set_float_state(void);
void host_thread_restore_float_state(unsigned state);

#endif
