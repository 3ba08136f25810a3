/*
 * I1. A member of a group is answered only after the transaction that holds it was committed and
 *     synced, or was abandoned; it is answered exactly once.
 * I2. A group is one transaction. A member that is refused has written nothing into it. When a
 *     write or the commit fails without the disk having failed, the transaction is abandoned and
 *     each member is tried alone, so no member suffers for another.
 * I3. A commit that fails as ERR_IO is final: is_failed is set before any member is answered,
 *     and no transaction is begun after it.
 * I4. An append holds its lease (lease_commit_begin) from before the transaction until it is
 *     decided. Deletes are never grouped with appends, and revoke the lease after their commit and
 *     before the next group, so no append that was built on a deleted conversation gets in.
 * I5. Everything that the thread and callers share is under `mutex`; it is not held across LMDB.
 */
#include "ledger/ledger_writer.h"

#include "base/fault.h"
#include "base/now.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    GROUP_MEMBERS_MAX = 64,
    GROUP_BYTES_MAX = 8 << 20,
    PURGE_PARTS_MAX = 256, /* a step stays within the reserve, and delays a commit by little */
    RESERVE_PAGES_MIN = 64,
    ALLOCATE_AHEAD_PAGES = 1024,
    MESSAGE_BYTES = 256,
};

struct job {
    struct ledger_apply *apply;
    enum err code;
    int is_settled; /* code is final; for the writer thread */
    int holds_lease;
    char message[MESSAGE_BYTES];
    ledger_done_fn *done; /* NULL: somebody waits in ledger_writer_run */
    void *context;
    int is_answered; /* under mutex */
    struct job *next;
};

/* An append that nobody waits for, in one allocation. */
struct submitted_job {
    struct job job;
    struct ledger_apply apply;
};

struct ledger_writer {
    struct ledger_db *db;
    struct lease_table *leases;
    size_t queue_max;
    pthread_t thread;
    int is_started;

    pthread_mutex_t mutex;
    pthread_cond_t work;     /* the queue has grown, or is_closing */
    pthread_cond_t answered; /* some job was */
    struct job *head;
    struct job **tail;
    size_t queued;
    int is_closing;
    int is_failed;
    char failure[MESSAGE_BYTES];
    uint64_t room_pages;   /* for appends, as of the last commit */
    uint64_t booked_pages; /* of those, by ledger_writer_room_take */
    uint64_t turns_committed;
    uint64_t commits;
    struct histogram commit_seconds;
    uint64_t groups_retried;
    uint64_t appends_refused;

    /* The thread's own: */
    uint64_t purge_from; /* tombstones below it need no purge */
    int purge_is_due;
    struct ledger_db_space space;
};

uint64_t ledger_writer_reserve_pages(uint64_t map_pages) {
    uint64_t share = map_pages / 50;
    return share > RESERVE_PAGES_MIN ? share : RESERVE_PAGES_MIN;
}

/* Room */

static uint64_t room_of(const struct ledger_db_space *space) {
    uint64_t limit = space->map_pages;
    uint64_t reserve = ledger_writer_reserve_pages(limit);
    uint64_t untouched = limit > space->used_pages ? limit - space->used_pages : 0;
    uint64_t room = untouched + space->ready_pages;
    return room > reserve ? room - reserve : 0;
}

/* Counts the pages again, after a commit. A failure keeps the last count. */
static enum err refresh_space(struct ledger_writer *writer) {
    struct ledger_db_space space;
    uint64_t reserve = ledger_writer_reserve_pages(writer->space.map_pages);
    enum err allocated = ledger_db_allocate(writer->db, reserve + ALLOCATE_AHEAD_PAGES);
    TRY(ledger_db_space(writer->db, &space));
    if (allocated != ERR_OK && space.allocated_pages < space.map_pages) {
        space.map_pages = space.allocated_pages; /* the disk is fuller than the map */
    }
    writer->space = space;
    pthread_mutex_lock(&writer->mutex);
    writer->room_pages = room_of(&space);
    pthread_mutex_unlock(&writer->mutex);
    return ERR_OK;
}

enum err ledger_writer_room_take(struct ledger_writer *writer, uint64_t pages) {
    pthread_mutex_lock(&writer->mutex);
    uint64_t free_pages =
        writer->room_pages > writer->booked_pages ? writer->room_pages - writer->booked_pages : 0;
    int has_room = pages <= free_pages;
    writer->booked_pages += has_room ? pages : 0;
    pthread_mutex_unlock(&writer->mutex);
    if (!has_room) {
        return err_fail(ERR_FULL, "the ledger has room for %llu pages, the turn may need %llu",
                        (unsigned long long)free_pages, (unsigned long long)pages);
    }
    return ERR_OK;
}

void ledger_writer_room_release(struct ledger_writer *writer, uint64_t pages) {
    pthread_mutex_lock(&writer->mutex);
    assert(pages <= writer->booked_pages);
    writer->booked_pages -= pages;
    pthread_mutex_unlock(&writer->mutex);
}

/* Committing */

static void settle(struct job *job, enum err code) {
    job->code = code;
    job->is_settled = 1;
    snprintf(job->message, sizeof job->message, "%s", code == ERR_OK ? "" : err_message());
}

static void settle_open(struct job *jobs, enum err code) {
    for (struct job *job = jobs; job != NULL; job = job->next) {
        if (!job->is_settled) {
            settle(job, code);
        }
    }
}

/* I3. The caller still answers the members. */
static void fail_for_good(struct ledger_writer *writer) {
    pthread_mutex_lock(&writer->mutex);
    writer->is_failed = 1;
    snprintf(writer->failure, sizeof writer->failure, "%s", err_message());
    pthread_mutex_unlock(&writer->mutex);
}

static enum err refuse_if_failed(struct ledger_writer *writer) {
    char failure[MESSAGE_BYTES];
    pthread_mutex_lock(&writer->mutex);
    int is_failed = writer->is_failed;
    memcpy(failure, writer->failure, sizeof failure);
    pthread_mutex_unlock(&writer->mutex);
    if (is_failed) {
        return err_fail(ERR_IO, "the ledger stopped for good, restart to go on: %s", failure);
    }
    return ERR_OK;
}

/* Ends TXN with a commit, and takes note if that failed for good. */
static enum err commit(struct ledger_writer *writer, struct ledger_db_txn *txn) {
    FAULT_KILL("ledger.commit.before");
    uint64_t begun_ns = now_monotonic_ns();
    enum err code = ledger_db_commit(txn);
    double seconds = (double)(now_monotonic_ns() - begun_ns) * 1e-9;
    FAULT_KILL("ledger.commit.after");
    if (code == ERR_IO) {
        fail_for_good(writer);
    }
    if (code == ERR_OK) {
        pthread_mutex_lock(&writer->mutex);
        writer->commits++;
        histogram_observe(&writer->commit_seconds, seconds);
        pthread_mutex_unlock(&writer->mutex);
    }
    return code;
}

/*
 * One transaction for those of FIRST and the next COUNT - 1 jobs that are not settled. Refused
 * ones are settled. If it returns other than ERR_OK, the rest is as before.
 */
static enum err attempt(struct ledger_writer *writer, struct job *first, size_t count) {
    struct ledger_db_txn txn CLEANUP(ledger_db_abort) = {0};
    TRY(refuse_if_failed(writer));
    TRY(ledger_db_begin(writer->db, 1, &txn));
    uint64_t pages_left = room_of(&writer->space);
    size_t written = 0;
    struct job *job = first;
    for (size_t i = 0; i < count; i++, job = job->next) {
        uint64_t pages;
        if (job->is_settled) {
            continue;
        }
        enum err code = ledger_apply_check(job->apply, &txn, pages_left, &pages);
        if (code != ERR_OK) {
            settle(job, code);
            continue;
        }
        TRY(ledger_apply_write(job->apply, &txn));
        pages_left -= pages < pages_left ? pages : pages_left;
        written++;
    }
    return written > 0 ? commit(writer, &txn) : ERR_OK;
}

static void finish(struct ledger_writer *writer, struct job *job) {
    const struct ledger_apply *apply = job->apply;
    const struct conversation_key *key;
    uint64_t generation;
    if (job->holds_lease && ledger_apply_lease(apply, &key, &generation)) {
        lease_commit_end(writer->leases, key, generation);
    }
    if (job->code == ERR_OK && apply->kind == LEDGER_APPLY_DELETE) { /* I4 */
        lease_revoke(writer->leases, &apply->key);
        writer->purge_is_due = 1;
        if (apply->serial < writer->purge_from) {
            writer->purge_from = apply->serial;
        }
    }
    pthread_mutex_lock(&writer->mutex);
    if (apply->kind == LEDGER_APPLY_APPEND) {
        writer->turns_committed += job->code == ERR_OK;
        writer->appends_refused += job->code != ERR_OK;
    }
    pthread_mutex_unlock(&writer->mutex);
}

static void run_group(struct ledger_writer *writer, struct job *jobs, size_t count) {
    for (struct job *job = jobs; job != NULL; job = job->next) { /* I4 */
        const struct conversation_key *key;
        uint64_t generation;
        if (ledger_apply_lease(job->apply, &key, &generation)) {
            enum err code = lease_commit_begin(writer->leases, key, generation);
            job->holds_lease = code == ERR_OK;
            if (code != ERR_OK) {
                settle(job, code);
            }
        }
    }
    enum err code = attempt(writer, jobs, count);
    if (code == ERR_OK || count == 1 || ledger_writer_is_failed(writer)) {
        settle_open(jobs, code);
    } else { /* I2 */
        pthread_mutex_lock(&writer->mutex);
        writer->groups_retried++;
        pthread_mutex_unlock(&writer->mutex);
        for (struct job *job = jobs; job != NULL; job = job->next) {
            if (!job->is_settled) {
                code = attempt(writer, job, 1);
                if (!job->is_settled) {
                    settle(job, code);
                }
                /* Pages copied by the one before are not free for the next. */
                enum err counted = refresh_space(writer);
                (void)counted;
            }
        }
    }
    for (struct job *job = jobs; job != NULL; job = job->next) {
        finish(writer, job);
    }
}

/* Purging: the turns of tombstones, a bounded number of parts in each transaction. */

static enum err purge_step(struct ledger_writer *writer, int *is_done) {
    struct ledger_db_txn txn CLEANUP(ledger_db_abort) = {0};
    struct ledger_record_tombstone tombstone;
    TRY(refuse_if_failed(writer));
    TRY(ledger_db_begin(writer->db, 1, &txn));
    uint64_t from = writer->purge_from;
    do {
        enum err code = ledger_table_tombstone_next(&txn, from, &tombstone);
        if (code == ERR_NOT_FOUND) {
            *is_done = 1;
            return ERR_OK;
        }
        TRY(code);
        from = tombstone.serial + 1;
    } while (tombstone.turns_are_removed);
    int is_empty;
    TRY(ledger_table_turns_remove(&txn, tombstone.serial, PURGE_PARTS_MAX, &is_empty));
    if (is_empty) {
        tombstone.turns_are_removed = 1;
        TRY(ledger_table_tombstone_put(&txn, &tombstone));
    }
    FAULT_KILL("ledger.purge.before");
    TRY(commit(writer, &txn));
    writer->purge_from = tombstone.serial;
    *is_done = 0;
    return ERR_OK;
}

static void purge(struct ledger_writer *writer) {
    int is_done = 1;
    /* A step that fails is tried again after the next delete or at the next start: the
     * conversation is gone already, only its room is not free yet. */
    enum err code = purge_step(writer, &is_done);
    writer->purge_is_due = code == ERR_OK && !is_done;
    if (code == ERR_OK && !is_done) {
        code = refresh_space(writer);
    }
    (void)code;
}

/* The thread */

/* Unlinks a group from the queue: jobs in their order that may share a transaction. */
static struct job *take_group(struct ledger_writer *writer, size_t *count) {
    struct job *first = writer->head;
    struct job *last = first;
    size_t bytes = 0;
    *count = 0;
    for (struct job *job = first; job != NULL && *count < GROUP_MEMBERS_MAX; job = job->next) {
        if (job->apply->kind == LEDGER_APPLY_APPEND) {
            bytes += job->apply->append->turn->messages_bytes +
                     job->apply->append->turn->response_bytes + job->apply->append->dialect_bytes;
        }
        int fits = job->apply->kind == first->apply->kind && bytes <= GROUP_BYTES_MAX;
        if (*count > 0 && !fits) {
            break;
        }
        last = job;
        (*count)++;
    }
    writer->head = last->next;
    if (writer->head == NULL) {
        writer->tail = &writer->head;
    }
    writer->queued -= *count;
    last->next = NULL;
    return first;
}

/* I1. A submitted job is freed; one that is waited for belongs to the waiter from here on. */
static void answer(struct ledger_writer *writer, struct job *jobs) {
    while (jobs != NULL) {
        struct job *job = jobs;
        jobs = job->next;
        if (job->done != NULL) {
            job->done(job->context, job->code, job->message,
                      job->code == ERR_OK ? &job->apply->appended : NULL);
            ledger_apply_done(job->apply);
            free(job);
            continue;
        }
        pthread_mutex_lock(&writer->mutex);
        job->is_answered = 1;
        pthread_cond_broadcast(&writer->answered);
        pthread_mutex_unlock(&writer->mutex);
    }
}

static void *thread_main(void *context) {
    struct ledger_writer *writer = context;
    pthread_mutex_lock(&writer->mutex);
    for (;;) {
        while (writer->head == NULL && !writer->is_closing && !writer->purge_is_due) {
            pthread_cond_wait(&writer->work, &writer->mutex);
        }
        if (writer->head == NULL && writer->is_closing) {
            break; /* what is left to purge waits for the next start */
        }
        size_t count = 0;
        struct job *jobs = writer->head != NULL ? take_group(writer, &count) : NULL;
        pthread_mutex_unlock(&writer->mutex);
        if (jobs != NULL) {
            run_group(writer, jobs, count);
            /* First, so that who was answered finds the room as his turn has left it. */
            enum err code = refresh_space(writer);
            (void)code;
            answer(writer, jobs);
        }
        if (writer->purge_is_due) {
            purge(writer);
        }
        pthread_mutex_lock(&writer->mutex);
    }
    pthread_mutex_unlock(&writer->mutex);
    return NULL;
}

enum err ledger_writer_create(struct ledger_db *db, struct lease_table *leases, size_t queue_max,
                              struct ledger_writer **out) {
    struct ledger_writer *writer = fault_fails("ledger.alloc") ? NULL : calloc(1, sizeof *writer);
    if (writer == NULL) {
        return err_fail(ERR_NOMEM, "ledger writer");
    }
    writer->db = db;
    writer->leases = leases;
    writer->queue_max = queue_max;
    writer->tail = &writer->head;
    writer->purge_is_due = 1; /* what a crash or a close has left */
    pthread_mutex_init(&writer->mutex, NULL);
    pthread_cond_init(&writer->work, NULL);
    pthread_cond_init(&writer->answered, NULL);
    enum err code = ledger_db_space(db, &writer->space);
    if (code == ERR_OK) {
        code = refresh_space(writer);
    }
    if (code == ERR_OK) {
        int result = fault_fails("ledger.thread")
                         ? 11
                         : pthread_create(&writer->thread, NULL, thread_main, writer);
        writer->is_started = result == 0;
        code = result == 0 ? ERR_OK : err_fail(ERR_IO, "ledger writer: %s", strerror(result));
    }
    if (code != ERR_OK) {
        ledger_writer_destroy(writer);
        return code;
    }
    *out = writer;
    return ERR_OK;
}

void ledger_writer_destroy(struct ledger_writer *writer) {
    if (writer == NULL) {
        return;
    }
    if (writer->is_started) {
        pthread_mutex_lock(&writer->mutex);
        writer->is_closing = 1;
        pthread_cond_signal(&writer->work);
        pthread_mutex_unlock(&writer->mutex);
        pthread_join(writer->thread, NULL);
    }
    assert(writer->head == NULL);
    pthread_cond_destroy(&writer->answered);
    pthread_cond_destroy(&writer->work);
    pthread_mutex_destroy(&writer->mutex);
    free(writer);
}

/* Callers */

static enum err enqueue(struct ledger_writer *writer, struct job *job) {
    enum err code = ERR_OK;
    TRY(refuse_if_failed(writer));
    pthread_mutex_lock(&writer->mutex);
    if (writer->is_closing) {
        code = ERR_CLOSED;
    } else if (writer->queued == writer->queue_max) {
        code = ERR_FULL;
    } else {
        *writer->tail = job;
        writer->tail = &job->next;
        writer->queued++;
        pthread_cond_signal(&writer->work);
    }
    pthread_mutex_unlock(&writer->mutex);
    if (code == ERR_FULL) {
        return err_fail(code, "%zu commits wait for the ledger", writer->queue_max);
    }
    return code == ERR_OK ? ERR_OK : err_fail(code, "the ledger is being closed");
}

enum err ledger_writer_run(struct ledger_writer *writer, struct ledger_apply *apply) {
    struct job job = {.apply = apply};
    TRY(enqueue(writer, &job));
    pthread_mutex_lock(&writer->mutex);
    while (!job.is_answered) {
        pthread_cond_wait(&writer->answered, &writer->mutex);
    }
    pthread_mutex_unlock(&writer->mutex);
    return job.code == ERR_OK ? ERR_OK : err_fail(job.code, "%s", job.message);
}

enum err ledger_writer_submit(struct ledger_writer *writer, const struct ledger_append *request,
                              ledger_done_fn *done, void *context) {
    struct submitted_job *submitted =
        fault_fails("ledger.alloc") ? NULL : calloc(1, sizeof *submitted);
    if (submitted == NULL) {
        return err_fail(ERR_NOMEM, "append");
    }
    ledger_apply_init(&submitted->apply, LEDGER_APPLY_APPEND);
    submitted->apply.append = request;
    submitted->job = (struct job){.apply = &submitted->apply, .done = done, .context = context};
    enum err code = enqueue(writer, &submitted->job);
    if (code != ERR_OK) {
        ledger_apply_done(&submitted->apply);
        free(submitted);
    }
    return code;
}

int ledger_writer_is_failed(struct ledger_writer *writer) {
    pthread_mutex_lock(&writer->mutex);
    int is_failed = writer->is_failed;
    pthread_mutex_unlock(&writer->mutex);
    return is_failed;
}

void ledger_writer_stats(struct ledger_writer *writer, struct ledger_stats *stats) {
    pthread_mutex_lock(&writer->mutex);
    uint64_t room =
        writer->room_pages > writer->booked_pages ? writer->room_pages - writer->booked_pages : 0;
    stats->room_bytes = room * LEDGER_TABLE_PART_BYTES;
    stats->turns_committed = writer->turns_committed;
    stats->commits = writer->commits;
    stats->commit_seconds = writer->commit_seconds;
    stats->groups_retried = writer->groups_retried;
    stats->appends_refused = writer->appends_refused;
    stats->queued = writer->queued;
    stats->is_failed = writer->is_failed;
    _Static_assert(sizeof stats->failure == MESSAGE_BYTES, "both hold one message");
    memcpy(stats->failure, writer->failure, sizeof stats->failure);
    pthread_mutex_unlock(&writer->mutex);
}
