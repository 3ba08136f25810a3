/*
 * How other threads reach the loop thread: a queue of mails that are embedded in
 * what they are about, and a file descriptor that is readable while there is one.
 *
 * A mail is queued at most once, so the queue is as long as there are objects and
 * a post allocates nothing, never blocks and never fails. Any thread posts; one
 * thread takes. Counted references: a mailbox lives as long as somebody may post.
 */
#ifndef TERN_SERVER_MAILBOX_H
#define TERN_SERVER_MAILBOX_H

#include "base/err.h"

struct mailbox;

/* Embedded; all zero at first. The mailbox's lock covers it. */
struct mail {
    struct mail *next;
    int is_posted;
};

MUST_USE enum err mailbox_create(struct mailbox **out); /* one reference */
void mailbox_acquire(struct mailbox *mailbox);
void mailbox_release(struct mailbox *mailbox);

/* Readable while there is mail. */
int mailbox_fd(const struct mailbox *mailbox);

/* 1: MAIL is queued now and was not before; 0: it waits already, or the mailbox is closed. */
int mailbox_post(struct mailbox *mailbox, struct mail *mail);

/* Makes the file descriptor unreadable until the next post. */
void mailbox_settle(struct mailbox *mailbox);

/* The oldest mail, which may be posted again at once; NULL if there is none. */
struct mail *mailbox_take(struct mailbox *mailbox);

/* Posts are refused from now on; what waits can still be taken. */
void mailbox_close(struct mailbox *mailbox);

#endif
