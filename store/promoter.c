/*
 * I1: a job is on the list exactly while it has parts that nobody has claimed; the lock covers the
 *     list and the jobs' fields but those that never change.
 * I2: a job lives on the stack of its caller, who returns only when `unfinished` is 0; a worker
 *     touches it last under the lock, when it counts its part as finished.
 * I3: a reader is used by one thread at a time: an idle one lies in `readers`.
 */
#include "store/promoter.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/queue.h>

enum { BLOCKS_OF_PART = 8, MESSAGE_BYTES = 256 };

struct job {
    const struct head_plan *plan;
    const struct head_want *want;
    const struct head_sink *sink;
    uint64_t parts;
    uint64_t next; /* parts below this are claimed */
    uint64_t unfinished;
    uint64_t bytes_read;
    enum err code; /* of the part that failed first */
    struct head_failure failure;
    char message[MESSAGE_BYTES];
    STAILQ_ENTRY(job) link;
};

struct promoter {
    struct tier_disk *disk;
    pthread_mutex_t lock;
    pthread_cond_t work;     /* a job has come, or the end */
    pthread_cond_t finished; /* some job's last part has */
    STAILQ_HEAD(promoter_jobs, job) jobs;
    struct head_reader *readers[PROMOTER_THREADS_MAX];
    int reader_count;
    int is_stopping;
    int threads; /* started */
    pthread_t workers[PROMOTER_THREADS_MAX];
};

/* --- readers ---------------------------------------------------------------------------- */

static enum err take_reader(struct promoter *promoter, struct head_reader **out) {
    struct head_reader *reader = NULL;
    pthread_mutex_lock(&promoter->lock);
    if (promoter->reader_count > 0) {
        reader = promoter->readers[--promoter->reader_count];
    }
    pthread_mutex_unlock(&promoter->lock);
    if (reader == NULL) {
        return tier_disk_reader(promoter->disk, out);
    }
    *out = reader;
    return ERR_OK;
}

static void give_reader(struct promoter *promoter, struct head_reader *reader) {
    pthread_mutex_lock(&promoter->lock);
    if (promoter->reader_count < PROMOTER_THREADS_MAX) {
        promoter->readers[promoter->reader_count++] = reader;
        reader = NULL;
    }
    pthread_mutex_unlock(&promoter->lock);
    head_reader_destroy(reader);
}

/* --- parts ------------------------------------------------------------------------------ */

static uint64_t block_end(const struct job *job) {
    uint64_t count = job->plan->head.block_count;
    return job->want->end_block < count ? job->want->end_block : count;
}

static uint64_t block_parts(const struct job *job) {
    uint64_t end = block_end(job);
    uint64_t first = job->want->first_block;
    return end > first ? (end - first + BLOCKS_OF_PART - 1) / BLOCKS_OF_PART : 0;
}

/* The state first, which takes longest and can't be cut; then the tail, then the blocks. */
static struct head_want part_of(const struct job *job, uint64_t part) {
    if (part < 2) {
        return (struct head_want){.state = part == 0 && job->want->state,
                                  .tail = part == 1 && job->want->tail};
    }
    uint64_t first = job->want->first_block + (part - 2) * BLOCKS_OF_PART;
    uint64_t end = block_end(job);
    return (struct head_want){
        .first_block = first,
        .end_block = end - first < BLOCKS_OF_PART ? end : first + BLOCKS_OF_PART,
    };
}

static enum err read_part(struct promoter *promoter, const struct job *job, uint64_t part,
                          struct head_failure *failure, uint64_t *bytes_read) {
    struct head_want want = part_of(job, part);
    struct head_reader *reader = NULL;
    if (!want.state && !want.tail && want.end_block == 0) {
        return ERR_OK;
    }
    TRY(take_reader(promoter, &reader));
    uint64_t before = head_reader_bytes(reader);
    enum err code = tier_disk_read(promoter->disk, reader, job->plan, &want, job->sink, failure);
    *bytes_read = head_reader_bytes(reader) - before;
    give_reader(promoter, reader);
    return code;
}

/* Claims a part of JOB; the lock held. 0: none is left. */
static int claim(struct promoter *promoter, struct job *job, uint64_t *part) {
    if (job->next == job->parts) {
        return 0;
    }
    *part = job->next++;
    if (job->next == job->parts) {
        STAILQ_REMOVE(&promoter->jobs, job, job, link); /* I1 */
    }
    return 1;
}

/* Runs a claimed part, the lock held before and after; once a part has failed others are only
 * counted. */
static void run_claimed(struct promoter *promoter, struct job *job, uint64_t part) {
    int is_given_up = job->code != ERR_OK;
    struct head_failure failure = {0};
    uint64_t bytes_read = 0;
    enum err code = ERR_OK;
    pthread_mutex_unlock(&promoter->lock);
    if (!is_given_up) {
        code = read_part(promoter, job, part, &failure, &bytes_read);
    }
    pthread_mutex_lock(&promoter->lock);
    job->bytes_read += bytes_read;
    if (code != ERR_OK && job->code == ERR_OK) {
        job->code = code;
        job->failure = failure;
        snprintf(job->message, sizeof job->message, "%s", err_message());
    }
    if (--job->unfinished == 0) {
        pthread_cond_broadcast(&promoter->finished); /* I2: the job is not ours any more */
    }
}

/* --- threads ---------------------------------------------------------------------------- */

static void *work(void *context) {
    struct promoter *promoter = context;
    pthread_mutex_lock(&promoter->lock);
    while (!promoter->is_stopping) {
        struct job *job = STAILQ_FIRST(&promoter->jobs);
        uint64_t part = 0;
        if (job == NULL) {
            pthread_cond_wait(&promoter->work, &promoter->lock);
        } else if (claim(promoter, job, &part)) {
            run_claimed(promoter, job, part);
        }
    }
    pthread_mutex_unlock(&promoter->lock);
    return NULL;
}

enum err promoter_create(struct tier_disk *disk, int threads, struct promoter **out) {
    if (threads < 1 || threads > PROMOTER_THREADS_MAX) {
        return err_fail(ERR_INVALID, "a promoter of %d threads; 1 to %d are possible", threads,
                        PROMOTER_THREADS_MAX);
    }
    struct promoter *promoter = calloc(1, sizeof *promoter);
    if (promoter == NULL) {
        return err_fail(ERR_NOMEM, "promoter");
    }
    promoter->disk = disk;
    STAILQ_INIT(&promoter->jobs);
    pthread_mutex_init(&promoter->lock, NULL);
    pthread_cond_init(&promoter->work, NULL);
    pthread_cond_init(&promoter->finished, NULL);
    for (int i = 0; i < threads - 1; i++) {
        if (pthread_create(&promoter->workers[i], NULL, work, promoter) != 0) {
            promoter_destroy(promoter);
            return err_fail(ERR_NOMEM, "promoter: thread %d of %d", i + 1, threads - 1);
        }
        promoter->threads = i + 1;
    }
    *out = promoter;
    return ERR_OK;
}

void promoter_destroy(struct promoter *promoter) {
    if (promoter == NULL) {
        return;
    }
    pthread_mutex_lock(&promoter->lock);
    assert(STAILQ_EMPTY(&promoter->jobs));
    promoter->is_stopping = 1;
    pthread_cond_broadcast(&promoter->work);
    pthread_mutex_unlock(&promoter->lock);
    for (int i = 0; i < promoter->threads; i++) {
        pthread_join(promoter->workers[i], NULL);
    }
    for (int i = 0; i < promoter->reader_count; i++) {
        head_reader_destroy(promoter->readers[i]);
    }
    pthread_cond_destroy(&promoter->finished);
    pthread_cond_destroy(&promoter->work);
    pthread_mutex_destroy(&promoter->lock);
    free(promoter);
}

void promoter_warm(struct promoter *promoter) {
    struct head_reader *reader = NULL;
    if (take_reader(promoter, &reader) != ERR_OK) {
        err_clear(); /* the read that needs one will say so */
        return;
    }
    head_reader_warm(reader);
    give_reader(promoter, reader);
}

/* --- a read ----------------------------------------------------------------------------- */

enum err promoter_read(struct promoter *promoter, const struct head_plan *plan,
                       const struct head_want *want, const struct head_sink *sink,
                       struct head_failure *failure, uint64_t *bytes_read) {
    struct job job = {.plan = plan, .want = want, .sink = sink};
    uint64_t part = 0;
    job.parts = 2 + block_parts(&job);
    job.unfinished = job.parts;
    pthread_mutex_lock(&promoter->lock);
    STAILQ_INSERT_TAIL(&promoter->jobs, &job, link);
    pthread_cond_broadcast(&promoter->work);
    while (claim(promoter, &job, &part)) {
        run_claimed(promoter, &job, part);
    }
    while (job.unfinished > 0) {
        pthread_cond_wait(&promoter->finished, &promoter->lock);
    }
    pthread_mutex_unlock(&promoter->lock);
    *bytes_read += job.bytes_read;
    if (job.code == ERR_OK) {
        return ERR_OK;
    }
    *failure = job.failure;
    return err_fail(job.code, "%s", job.message);
}
