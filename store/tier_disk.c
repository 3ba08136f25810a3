/*
 * I1: the writer thread is the only one that opens write transactions after tier_disk_open.
 * I2: tier->mutex guards the queue, the commands, the notes and the counters; it is never held
 *     across an LMDB call, a callback or a wait for anything but tier->work and tier->answered.
 * I3: commands run before jobs, and between groups of jobs; a command's struct lives on the stack
 *     of the thread that waits for it.
 * I4: a quarantined head is on tier->quarantined before its removal is asked for, and leaves that
 *     list only when the removal is durable.
 *
 * Where a job goes: queued (tier_disk_spill) -> taken (run_jobs) -> done; or queued -> superseded
 * (tier_disk_spill), or -> cancelled (tier_disk_remove_conversation, tier_disk_close).
 */
#include "store/tier_disk.h"

#include "base/fault.h"
#include "base/now.h"
#include "store/disk_writer.h"
#include "store/spill_queue.h"
#include "store/state_open.h"
#include "store/state_table.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
    JOBS_MAX_DEFAULT = 256,
    JOB_BYTES_MAX_DEFAULT = 256 * 1024 * 1024,
    TOUCHES_MAX = 256,
    TOUCH_AFTER_MS = 10 * 1000,
    TICK_MS = 1000, /* dead readers are looked for this often */
    QUARANTINED_MAX = 64,
    LOOKUP_HEADS_MAX = 16,
};

enum command_kind { REMOVE_HEAD, REMOVE_CONVERSATION, QUARANTINE, EVICT, DRAIN };

struct command {
    enum command_kind kind;
    struct record_head_key key; /* of a head, or its conversation alone */
    struct record_quarantine quarantine;
    uint64_t bytes;
    uint64_t heads_evicted;
    uint64_t sequence; /* DRAIN: when all jobs up to this one are done */
    enum err code;
    char message[SPILLER_MESSAGE_BYTES];
    int is_done;
    struct command *next;
};

struct tier_disk {
    struct tier_disk_config config;
    struct state_env *env;
    struct disk_writer *writer; /* the writer thread's */
    pthread_t thread;
    int has_thread;
    pthread_mutex_t mutex;
    pthread_cond_t work;     /* for the writer */
    pthread_cond_t answered; /* for those that wait for a command */
    struct spill_queue *queue;
    struct command *commands;
    struct command **commands_end;
    int is_closing;
    uint64_t lineage_next;
    struct disk_writer_touch touches[TOUCHES_MAX];
    size_t touch_count;
    uint64_t touched_ms;                                 /* monotonic: of the oldest note */
    struct record_head_key quarantined[QUARANTINED_MAX]; /* I4 */
    size_t quarantined_count;
    int is_garbage_left; /* the writer's hint that there is something to collect */
    struct tier_disk_stats counters;
};

const char *tier_disk_answer_name(enum tier_disk_answer answer) {
    static const char *const names[] = {
        [TIER_DISK_HIT] = "hit",
        [TIER_DISK_UNKNOWN] = "unknown",
        [TIER_DISK_INCOMPLETE] = "incomplete",
        [TIER_DISK_QUARANTINED] = "quarantined",
        [TIER_DISK_EXPIRED] = "expired",
        [TIER_DISK_UNREADABLE] = "unreadable",
    };
    return (unsigned)answer < ARRAY_LEN(names) ? names[answer] : "none";
}

static void lock(struct tier_disk *tier) {
    int rc = pthread_mutex_lock(&tier->mutex);
    assert(rc == 0);
    (void)rc;
}

static void unlock(struct tier_disk *tier) {
    int rc = pthread_mutex_unlock(&tier->mutex);
    assert(rc == 0);
    (void)rc;
}

/* --- the writer: jobs ------------------------------------------------------------------- */

/* Under the mutex. */
static void count_outcome(struct tier_disk *tier, enum spill_outcome outcome) {
    switch (outcome) {
    case SPILL_DURABLE:
        tier->counters.spills_durable++;
        break;
    case SPILL_SUPERSEDED:
        tier->counters.spills_superseded++;
        break;
    case SPILL_CANCELLED:
        tier->counters.spills_cancelled++;
        break;
    case SPILL_FAILED:
        tier->counters.spills_failed++;
        break;
    }
}

/* Ends a list of nodes that were never written. Without the mutex. */
static void end_nodes(struct tier_disk *tier, struct spill_node *nodes,
                      enum spill_outcome outcome) {
    while (nodes != NULL) {
        struct spill_node *node = nodes;
        nodes = node->next;
        lock(tier);
        count_outcome(tier, outcome); /* first: whoever was told finds it counted */
        unlock(tier);
        node->job.done(node->job.context, outcome,
                       outcome == SPILL_CANCELLED ? ERR_CANCELLED : ERR_OK,
                       spill_outcome_name(outcome));
        lock(tier);
        spill_queue_release(tier->queue, node);
        pthread_cond_signal(&tier->work); /* a drain may wait for it */
        unlock(tier);
    }
}

static void run_jobs(struct tier_disk *tier, struct spill_node *nodes) {
    struct spiller_task tasks[SPILLER_GROUP_MAX] = {0};
    struct spill_node *taken[SPILLER_GROUP_MAX];
    size_t count = 0;
    for (struct spill_node *node = nodes; node != NULL; node = node->next) {
        taken[count] = node;
        tasks[count++].job = &node->job;
    }
    disk_writer_spill(tier->writer, tasks, count);
    struct disk_writer_counts counts;
    disk_writer_counts(tier->writer, &counts);
    for (size_t i = 0; i < count; i++) {
        assert(tasks[i].is_finished);
        lock(tier);
        count_outcome(tier, tasks[i].outcome); /* first: whoever was told finds it counted */
        tier->counters.evictions = counts.evictions;
        tier->counters.spill_bytes = counts.spill_bytes;
        tier->is_garbage_left = 1;
        unlock(tier);
        taken[i]->job.done(taken[i]->job.context, tasks[i].outcome, tasks[i].code,
                           tasks[i].message);
        spiller_task_done(&tasks[i]);
        lock(tier);
        spill_queue_release(tier->queue, taken[i]);
        unlock(tier);
    }
}

/* --- the writer: commands --------------------------------------------------------------- */

static int same_head(const struct record_head_key *left, const struct record_head_key *right) {
    return left->kind == right->kind && left->turn == right->turn &&
           memcmp(left->conversation, right->conversation, RECORD_CONVERSATION_BYTES) == 0 &&
           memcmp(left->state_digest, right->state_digest, RECORD_DIGEST_BYTES) == 0;
}

static void forget_quarantined(struct tier_disk *tier, const struct record_head_key *key) {
    lock(tier);
    for (size_t i = 0; i < tier->quarantined_count; i++) {
        if (same_head(&tier->quarantined[i], key)) {
            tier->quarantined[i] = tier->quarantined[--tier->quarantined_count];
            break;
        }
    }
    unlock(tier);
}

static enum err run_command(struct tier_disk *tier, struct command *command) {
    switch (command->kind) {
    case REMOVE_HEAD:
        return disk_writer_remove_head(tier->writer, &command->key);
    case REMOVE_CONVERSATION:
        return disk_writer_remove_conversation(tier->writer, command->key.conversation);
    case QUARANTINE: {
        enum err code = disk_writer_quarantine(tier->writer, &command->key, &command->quarantine);
        if (code == ERR_OK) {
            forget_quarantined(tier, &command->key);
        }
        return code;
    }
    case EVICT:
        return disk_writer_evict(tier->writer, command->bytes, &command->heads_evicted);
    case DRAIN:
        return ERR_OK;
    }
    return err_fail(ERR_INVALID, "state: no such command");
}

/* Takes the first command that can run. Under the mutex. */
static struct command *take_command(struct tier_disk *tier) {
    for (struct command **link = &tier->commands; *link != NULL; link = &(*link)->next) {
        struct command *command = *link;
        if (command->kind == DRAIN && spill_queue_is_open(tier->queue, command->sequence)) {
            continue;
        }
        *link = command->next;
        if (*link == NULL) {
            tier->commands_end = link;
        }
        return command;
    }
    return NULL;
}

static void answer(struct tier_disk *tier, struct command *command) {
    enum err code = run_command(tier, command);
    struct disk_writer_counts counts;
    disk_writer_counts(tier->writer, &counts);
    lock(tier);
    tier->counters.evictions = counts.evictions;
    tier->is_garbage_left = 1;
    command->code = code;
    snprintf(command->message, sizeof command->message, "%s", code != ERR_OK ? err_message() : "");
    command->is_done = 1;
    pthread_cond_broadcast(&tier->answered);
    unlock(tier);
}

/* --- the writer: what is done between ----------------------------------------------------- */

/* Recency is a hint: notes that can't be written are lost. */
static void write_touches(struct tier_disk *tier) {
    struct disk_writer_touch touches[TOUCHES_MAX];
    lock(tier);
    size_t count = tier->touch_count;
    memcpy(touches, tier->touches, count * sizeof touches[0]);
    tier->touch_count = 0;
    unlock(tier);
    if (count > 0 && disk_writer_touch(tier->writer, touches, count) != ERR_OK) {
        err_clear();
    }
}

static void look_at_readers(struct tier_disk *tier) {
    int cleared = 0;
    if (state_env_clear_readers(tier->env, &cleared) != ERR_OK) {
        err_clear();
    }
    int pid = 0;
    uint64_t txn_id = 0;
    struct state_env_usage usage = {0};
    int is_blocking = state_env_oldest_reader(tier->env, &pid, &txn_id) == ERR_OK && pid != 0 &&
                      state_env_usage(tier->env, &usage) == ERR_OK &&
                      (usage.free_pages - usage.ready_pages) * 4 > usage.map_pages;
    lock(tier);
    tier->counters.readers_cleared += (uint64_t)(cleared > 0 ? cleared : 0);
    tier->counters.blocking_reader_pid = is_blocking ? pid : 0;
    unlock(tier);
}

static void collect(struct tier_disk *tier) {
    int is_done = 0;
    if (disk_writer_collect(tier->writer, &is_done) != ERR_OK) {
        err_clear();
        is_done = 1; /* tried again when there is more */
    }
    lock(tier);
    tier->is_garbage_left = !is_done;
    unlock(tier);
}

/* Waits for work up to a tick. Under the mutex. */
static void wait_for_work(struct tier_disk *tier) {
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += TICK_MS / 1000;
    (void)pthread_cond_timedwait(&tier->work, &tier->mutex, &until);
}

struct work {
    struct command *command;
    struct spill_node *jobs;
    int is_collecting;
    int is_touching;
    int is_over;
};

/* What to do next; nothing at all after a tick without work. */
static struct work next_work(struct tier_disk *tier) {
    struct work work = {0};
    lock(tier);
    for (int turn = 0; turn < 2; turn++) {
        work.command = take_command(tier);
        if (work.command == NULL) {
            work.jobs = spill_queue_take(tier->queue, SPILLER_STEP_BYTES, SPILLER_GROUP_MAX);
        }
        work.is_touching =
            tier->touch_count > TOUCHES_MAX / 2 ||
            (tier->touch_count > 0 && now_monotonic_ms() - tier->touched_ms >= TOUCH_AFTER_MS);
        work.is_collecting = work.command == NULL && work.jobs == NULL && tier->is_garbage_left;
        work.is_over = work.command == NULL && work.jobs == NULL && tier->is_closing;
        if (work.command != NULL || work.jobs != NULL || work.is_collecting || work.is_over ||
            turn == 1) {
            break;
        }
        wait_for_work(tier);
    }
    unlock(tier);
    return work;
}

static void *run_writer(void *context) {
    struct tier_disk *tier = context;
    uint64_t ticked_ms = now_monotonic_ms();
    for (;;) {
        struct work work = next_work(tier);
        if (work.command != NULL) {
            answer(tier, work.command);
        }
        if (work.jobs != NULL) {
            run_jobs(tier, work.jobs);
        }
        if (work.is_touching || work.is_over) {
            write_touches(tier);
        }
        if (work.is_over) {
            return NULL;
        }
        if (work.is_collecting) {
            collect(tier);
        }
        if (now_monotonic_ms() - ticked_ms >= TICK_MS) {
            look_at_readers(tier);
            ticked_ms = now_monotonic_ms();
        }
    }
}

/* Hands a command to the writer and waits for its answer. */
static enum err ask(struct tier_disk *tier, struct command *command) {
    lock(tier);
    if (command->kind == DRAIN) {
        command->sequence = spill_queue_sequence(tier->queue);
    }
    *tier->commands_end = command;
    tier->commands_end = &command->next;
    pthread_cond_signal(&tier->work);
    while (!command->is_done) {
        pthread_cond_wait(&tier->answered, &tier->mutex);
    }
    unlock(tier);
    return command->code != ERR_OK ? err_fail(command->code, "%s", command->message) : ERR_OK;
}

/* --- opening and closing ------------------------------------------------------------------ */

static enum err init_sync(struct tier_disk *tier) {
    pthread_condattr_t attributes;
    if (pthread_mutex_init(&tier->mutex, NULL) != 0 || pthread_condattr_init(&attributes) != 0) {
        return err_fail(ERR_NOMEM, "state: no memory for a lock");
    }
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    int rc = pthread_cond_init(&tier->work, &attributes);
    rc |= pthread_cond_init(&tier->answered, NULL);
    pthread_condattr_destroy(&attributes);
    return rc != 0 ? err_fail(ERR_NOMEM, "state: no memory for a condition") : ERR_OK;
}

static enum err start(struct tier_disk *tier, struct tier_disk_opening *opening) {
    struct state_open_result opened;
    TRY(state_open(
        &(struct state_open_config){.dir = tier->config.dir, .bytes_max = tier->config.bytes_max},
        &opened, &tier->env));
    tier->lineage_next = opened.lineage_first;
    tier->counters.evictions = opened.heads_evicted;
    tier->is_garbage_left = 1; /* an earlier run may have left some */
    TRY(disk_writer_create(
        &(struct disk_writer_config){.env = tier->env,
                                     .object_bytes_max = tier->config.object_bytes_max,
                                     .largest_pages = opened.largest_pages},
        &tier->writer));
    TRY(spill_queue_create(&(struct spill_queue_config){.jobs_max = tier->config.jobs_max,
                                                        .bytes_max = tier->config.job_bytes_max},
                           &tier->queue));
    if (fault_fails("tier_disk.thread") ||
        pthread_create(&tier->thread, NULL, run_writer, tier) != 0) {
        return err_fail(ERR_NOMEM, "state: no thread for the writer");
    }
    tier->has_thread = 1;
    if (opening != NULL) {
        *opening = (struct tier_disk_opening){.is_fresh = opened.is_fresh,
                                              .is_begun_anew = opened.is_begun_anew,
                                              .heads_evicted = opened.heads_evicted};
    }
    return ERR_OK;
}

enum err tier_disk_open(const struct tier_disk_config *config, struct tier_disk_opening *opening,
                        struct tier_disk **out) {
    if (config->bytes_max < TIER_DISK_BYTES_MIN || config->object_bytes_max == 0) {
        return err_fail(ERR_INVALID, "state: a cap of %llu bytes, the least is %d",
                        (unsigned long long)config->bytes_max, TIER_DISK_BYTES_MIN);
    }
    struct tier_disk *tier = fault_fails("tier_disk.alloc") ? NULL : calloc(1, sizeof *tier);
    if (tier == NULL) {
        return err_fail(ERR_NOMEM, "state: no memory for the disk tier");
    }
    enum err code = init_sync(tier);
    if (code != ERR_OK) {
        free(tier);
        return code;
    }
    tier->config = *config;
    tier->config.jobs_max = config->jobs_max != 0 ? config->jobs_max : JOBS_MAX_DEFAULT;
    tier->config.job_bytes_max =
        config->job_bytes_max != 0 ? config->job_bytes_max : JOB_BYTES_MAX_DEFAULT;
    tier->commands_end = &tier->commands;
    code = start(tier, opening);
    tier->config.dir = NULL; /* the caller's string was borrowed for the call */
    if (code != ERR_OK) {
        tier_disk_close(tier, 0);
        return code;
    }
    *out = tier;
    return ERR_OK;
}

void tier_disk_close(struct tier_disk *tier, int is_draining) {
    if (tier == NULL) {
        return;
    }
    if (tier->has_thread) {
        lock(tier);
        tier->is_closing = 1; /* the writer ends when the queue is empty */
        struct spill_node *left =
            is_draining ? NULL : spill_queue_withdraw(tier->queue, NULL, SPILL_MUST_WRITE);
        pthread_cond_signal(&tier->work);
        unlock(tier);
        end_nodes(tier, left, SPILL_CANCELLED);
        pthread_join(tier->thread, NULL);
    }
    spill_queue_destroy(tier->queue);
    disk_writer_destroy(tier->writer);
    state_env_close(tier->env);
    pthread_cond_destroy(&tier->answered);
    pthread_cond_destroy(&tier->work);
    pthread_mutex_destroy(&tier->mutex);
    free(tier);
}

size_t tier_disk_memory_bytes(const struct tier_disk *tier) {
    return sizeof *tier + disk_writer_memory_bytes(tier->writer) +
           tier->config.jobs_max * sizeof(struct spill_node);
}

struct state_env *tier_disk_env(struct tier_disk *tier) {
    return tier->env;
}

/* --- spills ---------------------------------------------------------------------------- */

uint64_t tier_disk_take_lineage(struct tier_disk *tier) {
    lock(tier);
    uint64_t lineage = tier->lineage_next++;
    unlock(tier);
    return lineage;
}

enum err tier_disk_spill(struct tier_disk *tier, const struct spill_job *job) {
    TRY(spill_check(job));
    struct spill_node *superseded = NULL;
    lock(tier);
    enum err code = tier->is_closing
                        ? err_fail(ERR_CLOSED, "spill: the disk tier is closing")
                        : spill_queue_push(tier->queue, job, now_wall_ms(), &superseded);
    if (code == ERR_OK) {
        tier->counters.spills_queued++;
        pthread_cond_signal(&tier->work);
    }
    unlock(tier);
    end_nodes(tier, superseded, SPILL_SUPERSEDED);
    return code;
}

void tier_disk_drain(struct tier_disk *tier) {
    struct command command = {.kind = DRAIN};
    if (ask(tier, &command) != ERR_OK) {
        err_clear(); /* waiting can't fail */
    }
}

/* --- lookup and reading ------------------------------------------------------------------ */

static int is_quarantined(struct tier_disk *tier, const struct record_head_key *key) {
    int is_found = 0;
    lock(tier);
    for (size_t i = 0; i < tier->quarantined_count; i++) {
        is_found |= same_head(&tier->quarantined[i], key);
    }
    unlock(tier);
    return is_found;
}

static void end_txn(struct state_txn **txn) {
    state_env_abort(*txn);
}

/* The first of HEADS that is usable; why the last one was not, if none is. */
static enum tier_disk_answer pick(struct tier_disk *tier, struct state_txn *txn,
                                  const struct record_head *heads, size_t count,
                                  struct record_head *out) {
    enum tier_disk_answer answer = TIER_DISK_UNKNOWN;
    for (size_t i = 0; i < count; i++) {
        enum err code = ERR_OK;
        if (is_quarantined(tier, &heads[i].key)) {
            answer = TIER_DISK_QUARANTINED;
        } else if (heads[i].expires_ms != 0 && heads[i].expires_ms <= now_wall_ms()) {
            answer = TIER_DISK_EXPIRED;
        } else if ((code = head_plan_check(txn, &heads[i])) == ERR_OK) {
            *out = heads[i];
            return TIER_DISK_HIT;
        } else {
            answer = code == ERR_NOT_FOUND || code == ERR_CORRUPT ? TIER_DISK_INCOMPLETE
                                                                  : TIER_DISK_UNREADABLE;
        }
    }
    return answer;
}

enum tier_disk_answer tier_disk_lookup(struct tier_disk *tier, const struct record_head_key *key,
                                       struct record_head *out) {
    struct state_txn *txn CLEANUP(end_txn) = NULL;
    struct record_head heads[LOOKUP_HEADS_MAX];
    size_t count = 0;
    if (state_env_begin_read(tier->env, &txn) != ERR_OK ||
        state_table_list_heads(txn, key, heads, ARRAY_LEN(heads), &count, NULL) != ERR_OK) {
        return TIER_DISK_UNREADABLE;
    }
    return pick(tier, txn, heads, count, out);
}

void tier_disk_touch(struct tier_disk *tier, const struct record_head_key *key) {
    lock(tier);
    size_t i = 0;
    while (i < tier->touch_count && !same_head(&tier->touches[i].key, key)) {
        i++;
    }
    if (i < TOUCHES_MAX) { /* more than that at once: the rest is not noted */
        if (i == tier->touch_count) {
            tier->touched_ms = i == 0 ? now_monotonic_ms() : tier->touched_ms;
            tier->touches[tier->touch_count++] = (struct disk_writer_touch){.key = *key};
        }
        tier->touches[i].used_ms = now_wall_ms();
        tier->touches[i].hits++;
    }
    unlock(tier);
}

enum err tier_disk_plan(struct tier_disk *tier, const struct record_head *head,
                        struct head_plan **out) {
    return head_plan_create(tier->env, head, out);
}

enum err tier_disk_reader(struct tier_disk *tier, struct head_reader **out) {
    return head_reader_create(tier->env, tier->config.object_bytes_max, out);
}

void tier_disk_will_need(struct tier_disk *tier, const struct head_plan *plan,
                         const struct head_want *want) {
    if (head_reader_will_need(tier->env, plan, want) != ERR_OK) {
        err_clear();
    }
}

enum err tier_disk_read(struct tier_disk *tier, struct head_reader *reader,
                        const struct head_plan *plan, const struct head_want *want,
                        const struct head_sink *sink, struct head_failure *failure) {
    FAULT_KILL("promote.before");
    enum err code = head_reader_stream(reader, plan, want, sink, failure);
    if (code != ERR_CORRUPT) {
        FAULT_KILL("promote.after");
        return code;
    }
    char message[SPILLER_MESSAGE_BYTES];
    snprintf(message, sizeof message, "%s", err_message());
    struct state_txn *txn CLEANUP(end_txn) = NULL;
    TRY(state_env_begin_read(tier->env, &txn));
    struct record_head head;
    if (state_table_get_head(txn, &plan->head.key, &head) == ERR_NOT_FOUND ||
        head.lineage != plan->head.lineage) {
        return err_fail(ERR_NOT_FOUND, "state: the head was removed while it was read");
    }
    return err_fail(ERR_CORRUPT, "%s", message);
}

/* --- removing -------------------------------------------------------------------------- */

enum err tier_disk_quarantine(struct tier_disk *tier, const struct record_head *head,
                              const struct head_failure *failure) {
    lock(tier);
    /* Full only if many removals have failed; then this one must succeed to be of use. */
    if (tier->quarantined_count < QUARANTINED_MAX) {
        tier->quarantined[tier->quarantined_count++] = head->key;
    }
    tier->counters.quarantines++;
    unlock(tier);
    struct command command = {.kind = QUARANTINE,
                              .key = head->key,
                              .quarantine = {.wall_ms = now_wall_ms(),
                                             .verdict = (uint32_t)failure->verdict,
                                             .object = failure->key}};
    return ask(tier, &command);
}

enum err tier_disk_remove_head(struct tier_disk *tier, const struct record_head_key *key) {
    struct command command = {.kind = REMOVE_HEAD, .key = *key};
    return ask(tier, &command);
}

enum err tier_disk_remove_conversation(struct tier_disk *tier, const uint8_t *conversation) {
    lock(tier);
    struct spill_node *withdrawn = spill_queue_withdraw(tier->queue, conversation, 0);
    unlock(tier);
    end_nodes(tier, withdrawn, SPILL_CANCELLED);
    struct command command = {.kind = REMOVE_CONVERSATION};
    memcpy(command.key.conversation, conversation, RECORD_CONVERSATION_BYTES);
    return ask(tier, &command);
}

enum err tier_disk_evict(struct tier_disk *tier, uint64_t bytes, uint64_t *heads_evicted_out) {
    struct command command = {.kind = EVICT, .bytes = bytes};
    TRY(ask(tier, &command));
    *heads_evicted_out = command.heads_evicted;
    return ERR_OK;
}

/* --- figures ---------------------------------------------------------------------------- */

enum err tier_disk_get_stats(struct tier_disk *tier, struct tier_disk_stats *out) {
    struct state_env_usage usage;
    TRY(state_env_usage(tier->env, &usage));
    lock(tier);
    struct tier_disk_stats stats = tier->counters;
    stats.jobs_waiting = spill_queue_count(tier->queue);
    stats.job_bytes_waiting = spill_queue_bytes(tier->queue);
    stats.oldest_job_ms = spill_queue_oldest_ms(tier->queue);
    unlock(tier);
    struct state_txn *txn CLEANUP(end_txn) = NULL;
    TRY(state_env_begin_read(tier->env, &txn));
    TRY(state_env_count(txn, STATE_HEADS, &stats.heads));
    TRY(state_env_count(txn, STATE_LINEAGES, &stats.lineages));
    TRY(state_env_count(txn, STATE_OBJECTS, &stats.runs));
    TRY(state_env_count(txn, STATE_GARBAGE, &stats.garbage_entries));
    stats.bytes_max = tier->config.bytes_max;
    stats.file_bytes = usage.file_pages * STATE_ENV_PAGE_BYTES;
    stats.used_bytes = (usage.file_pages - usage.free_pages) * STATE_ENV_PAGE_BYTES;
    stats.free_bytes = usage.map_pages * STATE_ENV_PAGE_BYTES - stats.used_bytes;
    *out = stats;
    return ERR_OK;
}
