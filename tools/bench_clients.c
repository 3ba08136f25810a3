#include "tools/bench_clients.h"

#include <pthread.h>
#include <stdio.h>

struct crew {
    const struct bench_clients *clients;
    pthread_mutex_t lock; /* of what follows */
    long long next_job;
    enum err code;
    char message[512];
};

/* The next job's number; -1: there is none, or one has failed. */
static long long take_job(struct crew *crew) {
    pthread_mutex_lock(&crew->lock);
    int is_over = crew->code != ERR_OK || crew->next_job == crew->clients->jobs;
    long long job = is_over ? -1 : crew->next_job++;
    pthread_mutex_unlock(&crew->lock);
    return job;
}

static void note_failure(struct crew *crew, enum err code) {
    pthread_mutex_lock(&crew->lock);
    if (crew->code == ERR_OK) {
        crew->code = code;
        snprintf(crew->message, sizeof crew->message, "%s", err_message());
    }
    pthread_mutex_unlock(&crew->lock);
}

static void *work(void *context) {
    struct crew *crew = context;
    for (long long job = take_job(crew); job >= 0; job = take_job(crew)) {
        enum err code = crew->clients->run(crew->clients->context, job);
        if (code != ERR_OK) {
            note_failure(crew, code);
        }
    }
    return NULL;
}

enum err bench_clients_run(const struct bench_clients *clients) {
    struct crew crew = {.clients = clients, .lock = PTHREAD_MUTEX_INITIALIZER};
    pthread_t threads[BENCH_CLIENTS_MAX];
    int started = 0;
    assert(clients->in_flight >= 1 && clients->in_flight <= BENCH_CLIENTS_MAX);
    while (started < clients->in_flight &&
           pthread_create(&threads[started], NULL, work, &crew) == 0) {
        started++;
    }
    if (started < clients->in_flight) {
        err_record("a thread cannot be started");
        note_failure(&crew, ERR_NOMEM);
    }
    for (int i = 0; i < started; i++) {
        pthread_join(threads[i], NULL);
    }
    pthread_mutex_destroy(&crew.lock);
    return crew.code == ERR_OK ? ERR_OK : err_fail(crew.code, "%s", crew.message);
}
