#include "server/warm_up.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/resource.h>

enum { LOWEST_PRIORITY = 19 };

struct warm_up {
    struct store *store;
    int tokens;
    pthread_t thread;
    _Atomic int is_stopping;
};

static void *run(void *context) {
    struct warm_up *warm_up = context;
    setpriority(PRIO_PROCESS, 0, LOWEST_PRIORITY); /* on Linux: of this thread */
    store_warm(warm_up->store, warm_up->tokens, &warm_up->is_stopping);
    return NULL;
}

enum err warm_up_start(struct store *store, int tokens, struct warm_up **out) {
    struct warm_up *warm_up = calloc(1, sizeof *warm_up);
    if (warm_up == NULL) {
        return err_fail(ERR_NOMEM, "warm-up");
    }
    warm_up->store = store;
    warm_up->tokens = tokens;
    if (pthread_create(&warm_up->thread, NULL, run, warm_up) != 0) {
        free(warm_up);
        return err_fail(ERR_NOMEM, "thread of the warm-up");
    }
    *out = warm_up;
    return ERR_OK;
}

void warm_up_stop(struct warm_up *warm_up) {
    if (warm_up != NULL) {
        atomic_store(&warm_up->is_stopping, 1);
        pthread_join(warm_up->thread, NULL);
        free(warm_up);
    }
}
