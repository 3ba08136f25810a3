/*
 * The server that a benchmark measures: this very binary as `tern serve` in a child process, on a
 * free port of the loopback. It can be started and stopped any number of times; its log is kept
 * over all of its lives.
 *
 * The child dies with the thread that started it, whatever ends that. One thread starts and stops;
 * any number may talk with it meanwhile.
 */
#ifndef TERN_TOOLS_BENCH_SERVER_H
#define TERN_TOOLS_BENCH_SERVER_H

#include "tools/http_client.h"

enum { BENCH_SERVER_FLAGS_MAX = 32 };

struct bench_server_config {
    const char *model; /* as for model_file_open */
    const char *store;
    const char *flags[BENCH_SERVER_FLAGS_MAX]; /* further arguments of `serve`, up to a NULL */
    int cancel_fd;                             /* what waits gives up when readable; -1: never */
};

struct bench_server;

/* CONFIG is copied, its strings are borrowed. Nothing is started yet. */
MUST_USE enum err bench_server_create(const struct bench_server_config *config,
                                      struct bench_server **out);

/*
 * Ends the child at once if it runs. If CODE, the outcome of what was done with it, is an error,
 * the end of the child's log goes to standard error. Accepts NULL.
 */
void bench_server_destroy(struct bench_server *server, enum err code);

/* Returns when it listens; an error says how it ended instead. */
MUST_USE enum err bench_server_start(struct bench_server *server);

/* SIGTERM, and waits for its end: ERR_IO if that is not the clean one. */
MUST_USE enum err bench_server_stop(struct bench_server *server);

/* From the child's begin to its line that it listens; of the last start. */
double bench_server_start_seconds(const struct bench_server *server);

/* Valid while the server runs. */
const struct http_client_url *bench_server_url(const struct bench_server *server);
int bench_server_cancel_fd(const struct bench_server *server);

/* The value of the line that begins with NAME, labels and all, in /metrics. */
MUST_USE enum err bench_server_metric(const struct bench_server *server, const char *name,
                                      double *out);

#endif
