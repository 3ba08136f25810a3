/*
 * The disk tier: committed heads in the LMDB environment of one directory. Takes spill jobs,
 * finds heads, reads them back verified, deletes conversations, and keeps all of it under a cap.
 * Knows keys, lineages and bytes; nothing of devices, tokens or ledgers.
 *
 * Any thread may call any function; each waits at most for short locks, except where a comment
 * says that it waits for the writer. A thread of the tier's own is the only writer of the
 * environment. Whoever opens holds the directory's LOCK (lock.h); one process opens an environment
 * at most once, and not across fork.
 */
#ifndef TERN_STORE_TIER_DISK_H
#define TERN_STORE_TIER_DISK_H

#include "store/head_reader.h"
#include "store/spill.h"
#include "store/state_walk.h"

struct tier_disk;

struct tier_disk_config {
    const char *dir;         /* of this environment alone; made with mode 0700 if missing */
    uint64_t bytes_max;      /* of all files in dir, at every moment after tier_disk_open */
    size_t object_bytes_max; /* raw, of the largest block or state that will be spilled or read */
    size_t jobs_max;         /* waiting spill jobs; 0: 256 */
    uint64_t job_bytes_max;  /* raw bytes of waiting jobs; 0: 256 MiB */
};

enum { TIER_DISK_BYTES_MIN = 1024 * 1024 };

struct tier_disk_opening {
    int is_fresh;           /* nothing was there */
    int is_begun_anew;      /* what lay there did not fit under the cap and was dropped whole */
    uint64_t heads_evicted; /* to meet a cap lower than what lay there */
};

/*
 * Opens or makes the environment. A format newer than this build: ERR_UNSUPPORTED, nothing is
 * touched. More on disk than bytes_max: heads are evicted and the file rewritten, or, where that
 * can't be, all state is dropped, before it returns. OPENING may be NULL.
 */
MUST_USE enum err tier_disk_open(const struct tier_disk_config *config,
                                 struct tier_disk_opening *opening, struct tier_disk **out);

/* Stops the writer and closes. Waiting jobs are written if IS_DRAINING, else only those with
 * SPILL_MUST_WRITE; the others are cancelled. Accepts NULL. */
void tier_disk_close(struct tier_disk *tier, int is_draining);

/* Host memory that the tier holds for itself, without readers. */
size_t tier_disk_memory_bytes(const struct tier_disk *tier);

/* --- lineages and spills ---------------------------------------------------------------- */

/* A lineage id that was never used in this environment and will not be again. */
uint64_t tier_disk_take_lineage(struct tier_disk *tier);

/*
 * Queues a job; *job is copied, what it points at is borrowed until job->done. ERR_FULL if the
 * queue is at its maximum, ERR_INVALID, ERR_CLOSED; then done is not called. Superseded jobs are
 * done before it returns. Jobs of one conversation must be pushed in the order of their turns.
 */
MUST_USE enum err tier_disk_spill(struct tier_disk *tier, const struct spill_job *job);

/* Waits until all jobs that were queued before are done. */
void tier_disk_drain(struct tier_disk *tier);

/* --- lookup and reading ------------------------------------------------------------------ */

enum tier_disk_answer {
    TIER_DISK_HIT,
    TIER_DISK_UNKNOWN,     /* no head of the conversation for this model and turn */
    TIER_DISK_INCOMPLETE,  /* there are heads, but none whose blocks are all there */
    TIER_DISK_QUARANTINED, /* there are heads, but all of them have failed a check */
    TIER_DISK_EXPIRED,
    TIER_DISK_UNREADABLE, /* the store can't be read; err_message says why */
};
const char *tier_disk_answer_name(enum tier_disk_answer answer);

/* The newest usable head of key's conversation, state digest and kind whose turn is at most
 * key->turn. *out is set on TIER_DISK_HIT. Chain digest and numerics class are for the caller to
 * compare. */
MUST_USE enum tier_disk_answer tier_disk_lookup(struct tier_disk *tier,
                                                const struct record_head_key *key,
                                                struct record_head *out);

/* Notes that the head was used; written later with others, and lost in a crash. */
void tier_disk_touch(struct tier_disk *tier, const struct record_head_key *key);

MUST_USE enum err tier_disk_plan(struct tier_disk *tier, const struct record_head *head,
                                 struct head_plan **out); /* head_plan_destroy */
MUST_USE enum err tier_disk_reader(struct tier_disk *tier,
                                   struct head_reader **out); /* head_reader_destroy */

/* Asks the system to read what is wanted ahead. A hint: errors cost only time. */
void tier_disk_will_need(struct tier_disk *tier, const struct head_plan *plan,
                         const struct head_want *want);

/*
 * Reads and verifies what is wanted, objects in order. ERR_CORRUPT with *failure set: an object is
 * missing or refused (see tier_disk_quarantine); ERR_NOT_FOUND: the head was removed meanwhile,
 * which is no fault. Several workers may read parts of one plan, each with a reader of its own.
 */
MUST_USE enum err tier_disk_read(struct tier_disk *tier, struct head_reader *reader,
                                 const struct head_plan *plan, const struct head_want *want,
                                 const struct head_sink *sink, struct head_failure *failure);

/* --- removing: these wait for the writer -------------------------------------------------- */

/* Takes a head that failed a check out of use, at once for lookups, and removes it with the bad
 * object. ERR_OK if it is gone already. */
MUST_USE enum err tier_disk_quarantine(struct tier_disk *tier, const struct record_head *head,
                                       const struct head_failure *failure);

/* Removes one head: garbage by the ledger, expired, or given up. */
MUST_USE enum err tier_disk_remove_head(struct tier_disk *tier, const struct record_head_key *key);

/* Withdraws the conversation's waiting jobs and removes its heads and lineages. Once it returns
 * ERR_OK nothing of it is found, also after a crash; its pages become free in the background. */
MUST_USE enum err tier_disk_remove_conversation(struct tier_disk *tier,
                                                const uint8_t *conversation);

/* Evicts the least worthy heads until BYTES more are free, for `tern evict`. */
MUST_USE enum err tier_disk_evict(struct tier_disk *tier, uint64_t bytes,
                                  uint64_t *heads_evicted_out);

/* --- looking at it ------------------------------------------------------------------------ */

struct tier_disk_stats {
    uint64_t bytes_max;
    uint64_t file_bytes; /* of the data file */
    uint64_t used_bytes; /* of those, in use */
    uint64_t free_bytes; /* in the file and up to the cap */
    uint64_t heads;
    uint64_t lineages;
    uint64_t runs;
    uint64_t garbage_entries;
    uint64_t jobs_waiting;
    uint64_t job_bytes_waiting;
    uint64_t oldest_job_ms; /* Unix time; 0: none waits */
    uint64_t spills_queued;
    uint64_t spills_durable;
    uint64_t spills_superseded;
    uint64_t spills_cancelled;
    uint64_t spills_failed;
    uint64_t spill_bytes; /* coded, written */
    uint64_t evictions;
    uint64_t quarantines;
    uint64_t readers_cleared;
    int blocking_reader_pid; /* a live reader that holds back freed pages; 0: none */
};
MUST_USE enum err tier_disk_get_stats(struct tier_disk *tier, struct tier_disk_stats *out);

/* The tier's environment, for state_walk_each_* and room_preview; valid until tier_disk_close. */
struct state_env *tier_disk_env(struct tier_disk *tier);

#endif
