#include "server/mailbox.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

struct mailbox {
    _Atomic int references;
    int fd;
    pthread_mutex_t lock; /* covers what follows; nothing else is locked under it */
    struct mail *first;
    struct mail **last;
    int is_closed;
};

enum err mailbox_create(struct mailbox **out) {
    struct mailbox *mailbox = calloc(1, sizeof *mailbox);
    if (mailbox == NULL) {
        return err_fail(ERR_NOMEM, "mailbox");
    }
    mailbox->fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (mailbox->fd < 0) {
        enum err code = err_fail(ERR_IO, "eventfd: %s", strerror(errno));
        free(mailbox);
        return code;
    }
    pthread_mutex_init(&mailbox->lock, NULL);
    atomic_init(&mailbox->references, 1);
    mailbox->last = &mailbox->first;
    *out = mailbox;
    return ERR_OK;
}

void mailbox_acquire(struct mailbox *mailbox) {
    atomic_fetch_add(&mailbox->references, 1);
}

void mailbox_release(struct mailbox *mailbox) {
    if (atomic_fetch_sub(&mailbox->references, 1) == 1) {
        close(mailbox->fd);
        pthread_mutex_destroy(&mailbox->lock);
        free(mailbox);
    }
}

int mailbox_fd(const struct mailbox *mailbox) {
    return mailbox->fd;
}

int mailbox_post(struct mailbox *mailbox, struct mail *mail) {
    pthread_mutex_lock(&mailbox->lock);
    int is_queued = !mail->is_posted && !mailbox->is_closed;
    if (is_queued) {
        mail->is_posted = 1;
        mail->next = NULL;
        *mailbox->last = mail;
        mailbox->last = &mail->next;
    }
    pthread_mutex_unlock(&mailbox->lock);
    if (is_queued) {
        /* A counter at its maximum refuses the write, and is readable as it is. */
        uint64_t one = 1;
        ssize_t written = write(mailbox->fd, &one, sizeof one);
        (void)written;
    }
    return is_queued;
}

void mailbox_settle(struct mailbox *mailbox) {
    uint64_t count;
    ssize_t taken = read(mailbox->fd, &count, sizeof count);
    (void)taken;
}

struct mail *mailbox_take(struct mailbox *mailbox) {
    pthread_mutex_lock(&mailbox->lock);
    struct mail *mail = mailbox->first;
    if (mail != NULL) {
        mailbox->first = mail->next;
        if (mailbox->first == NULL) {
            mailbox->last = &mailbox->first;
        }
        mail->next = NULL;
        mail->is_posted = 0;
    }
    pthread_mutex_unlock(&mailbox->lock);
    return mail;
}

void mailbox_close(struct mailbox *mailbox) {
    pthread_mutex_lock(&mailbox->lock);
    mailbox->is_closed = 1;
    pthread_mutex_unlock(&mailbox->lock);
}
