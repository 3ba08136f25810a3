#include "gpu/host/host_thread.h"

#include <sched.h>
#include <signal.h>
#include <string.h>

#include <xmmintrin.h>

/* MXCSR at power-on: all exceptions masked, nearest even, neither flush-to-zero nor
 * denormals-are-zero. */
enum { FLOAT_STATE = 0x1f80 };

enum err host_thread_create(const char *name, void *(*run)(void *), void *context, pthread_t *out) {
    sigset_t all;
    sigset_t before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    pthread_t thread;
    int code = pthread_create(&thread, NULL, run, context);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (code != 0) {
        return err_fail(ERR_NOMEM, "thread '%s' could not be started: %s", name, strerror(code));
    }
    pthread_setname_np(thread, name);
    *out = thread;
    return ERR_OK;
}

int host_thread_processors(void) {
    cpu_set_t set;
    CPU_ZERO(&set);
    if (sched_getaffinity(0, sizeof set, &set) != 0) {
        return 1;
    }
    int count = CPU_COUNT(&set);
    return count > 0 ? count : 1;
}

unsigned host_thread_set_float_state(void) {
    unsigned before = _mm_getcsr();
    _mm_setcsr(FLOAT_STATE);
    return before;
}

void host_thread_restore_float_state(unsigned state) {
    _mm_setcsr(state);
}
