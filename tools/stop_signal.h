/*
 * SIGINT, SIGTERM and SIGHUP as something to wait for: a benchmark that is told to stop gives up
 * what it waits for and takes its server and its store with it.
 *
 * Opened before any other thread starts, since threads inherit what is blocked.
 */
#ifndef TERN_TOOLS_STOP_SIGNAL_H
#define TERN_TOOLS_STOP_SIGNAL_H

#include "base/err.h"

/* *fd becomes readable, and stays so, once one of the signals came; stop_signal_close closes it. */
MUST_USE enum err stop_signal_open(int *fd);
void stop_signal_close(int fd); /* accepts -1; the signals stay blocked */

/* In a child between fork and exec: the signals are its own again. */
void stop_signal_unblock(void);

#endif
