#include "tools/stop_signal.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

static void fill(sigset_t *signals) {
    sigemptyset(signals);
    sigaddset(signals, SIGINT);
    sigaddset(signals, SIGTERM);
    sigaddset(signals, SIGHUP);
}

enum err stop_signal_open(int *fd) {
    sigset_t signals;
    fill(&signals);
    int failure = pthread_sigmask(SIG_BLOCK, &signals, NULL);
    int opened = failure == 0 ? signalfd(-1, &signals, SFD_NONBLOCK | SFD_CLOEXEC) : -1;
    if (opened < 0) {
        return err_fail(ERR_IO, "signals cannot be waited for: %s",
                        strerror(failure != 0 ? failure : errno));
    }
    *fd = opened;
    return ERR_OK;
}

void stop_signal_close(int fd) {
    if (fd >= 0) {
        close(fd);
    }
}

void stop_signal_unblock(void) {
    sigset_t signals;
    fill(&signals);
    sigprocmask(SIG_UNBLOCK, &signals, NULL);
}
