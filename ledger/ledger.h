/*
 * The ledger: the durable list of conversations and turns, and the source of truth. A turn is
 * committed by one transaction, and whoever waits for it is told after that is on stable
 * storage. One writer thread groups the commits that wait; readers never wait for it.
 *
 * All functions may be called from any thread; those marked "blocks" wait for the writer thread and
 * a disk sync, so not from the event loop. Only one process opens a ledger for writing (the
 * server's LOCK file sees to that), once, and not before a fork. Records handed out are owned
 * copies.
 *
 * Knows nothing of models, HTTP or state: messages, responses and dialects are opaque bytes.
 */
#ifndef TERN_LEDGER_LEDGER_H
#define TERN_LEDGER_LEDGER_H

#include "base/histogram.h"
#include "ledger/conversation_key.h"
#include "ledger/lease.h"
#include "ledger/ledger_record.h"
#include "ledger/turn_record.h"

struct ledger;
struct ledger_db;

struct ledger_config {
    const char *directory;       /* made with mode 0700 if missing; its parent must exist */
    const struct secret *secret; /* that made this ledger's keys; NULL only if read-only */
    uint64_t map_bytes;          /* the most that the ledger may hold on disk; at least 1 MiB */
    uint64_t reserve_bytes;      /* of those, allocated at open; at most map_bytes */
    size_t leases_max;           /* held at once; 0: 65536 */
    size_t queue_max;            /* commits waiting at once; 0: 4096 */
    int is_read_only; /* for tools beside a server: all that commits is ERR_UNSUPPORTED */
};

/*
 * ERR_UNSUPPORTED for a ledger of another format, ERR_CONFLICT if SECRET is not the one that it was
 * made with. Opening for writing begins a new epoch of leases, durably. The config is copied.
 */
MUST_USE enum err ledger_open(const struct ledger_config *config, struct ledger **out);

/* Commits what waits, then closes. No other call may be running or follow. Accepts NULL. */
void ledger_close(struct ledger *ledger);

/* Its environment, for ledger_walk; lives as long as the ledger. */
struct ledger_db *ledger_environment(struct ledger *ledger);

/* The leases that appends are checked against; lives as long as the ledger. NULL if read-only. */
struct lease_table *ledger_leases(struct ledger *ledger);

/* Appending */

struct ledger_append {
    struct conversation_key key;
    uint64_t generation;    /* of the lease held on KEY */
    uint32_t expected_turn; /* the turn it was built on; 0 creates the conversation */
    /*
     * turn, end_tokens, generation, committed_ms and the three digests are set by the ledger.
     * parent_turn is expected_turn and base_tokens the line's length, unless the turn replaces
     * the line from base_tokens on; then parent_turn is the last turn that ends at or before
     * base_tokens and stays.
     */
    const struct turn_record *turn;
    uint64_t expires_ms; /* of the conversation, replaces what it had; 0: never */
    uint32_t flags;      /* of the conversation, replace what it had */
    /* Until when the turn's idempotency_hash (unless zero) is remembered. */
    uint64_t idempotency_expires_ms;
    /* Read where the line begins anew (base_tokens 0), else the recorded ones stay: */
    uint8_t dialect_digest[TURN_RECORD_DIGEST_BYTES];
    const uint8_t *dialect; /* template arguments and tools, opaque */
    size_t dialect_bytes;
    /* Read at creation only: the names that the key was made of. */
    struct conversation_identity identity;
};

struct ledger_appended {
    uint64_t serial;
    uint32_t turn;
    int is_created;
    uint64_t end_tokens;
    uint64_t committed_ms;
    uint8_t chain_digest[TOKEN_CHAIN_DIGEST_BYTES]; /* at end_tokens */
    uint8_t head_digest[TOKEN_CHAIN_DIGEST_BYTES];  /* at end_tokens - pending_tokens */
    uint8_t prompt_end_digest[TOKEN_CHAIN_DIGEST_BYTES];
};

/*
 * Appends one turn, wholly or not at all. Blocks. ERR_OK: it is durable.
 *   ERR_CONFLICT   the generation is stale, the committed turn is not expected_turn, or the
 *                  idempotency hash was committed already; reading the conversation tells which
 *   ERR_NOT_FOUND  expected_turn is above 0 and there is no such conversation
 *   ERR_FULL       no room (or the queue is full); nothing was written
 *   ERR_INVALID    the request contradicts itself or the line
 *   ERR_IO         the disk failed: whether the turn is there shows at the next start, and the
 * ledger refuses turns until then (ledger_is_failed)
 */
MUST_USE enum err ledger_append(struct ledger *ledger, const struct ledger_append *request,
                                struct ledger_appended *out);

/*
 * As ledger_append, but returns at once. DONE is called exactly once, on the writer thread, if
 * and only if this returns ERR_OK; it must not block or call the ledger. RESULT is NULL unless CODE
 * is ERR_OK. REQUEST and all it points to must live until then.
 */
typedef void ledger_done_fn(void *context, enum err code, const char *message,
                            const struct ledger_appended *result);
MUST_USE enum err ledger_append_submit(struct ledger *ledger, const struct ledger_append *request,
                                       ledger_done_fn *done, void *context);

/* Forking */

struct ledger_fork {
    struct conversation_key source;
    uint64_t source_serial;
    uint32_t source_turn;        /* the last turn that the fork has; from 1 */
    struct conversation_key key; /* of the new conversation, whose lease is held */
    uint64_t generation;
    uint64_t expires_ms;
    uint32_t flags;
    struct conversation_identity identity; /* the names that KEY was made of */
};

/*
 * Makes a conversation of copies of another's turns 1 to source_turn, under the same turn numbers
 * and with the source's present dialect; wholly or not at all. Blocks. The copies have no
 * idempotency hashes. ERR_CONFLICT if KEY exists or the generation is stale, ERR_NOT_FOUND if the
 * source does not or has no such turn, otherwise as ledger_append.
 */
MUST_USE enum err ledger_fork(struct ledger *ledger, const struct ledger_fork *request,
                              struct ledger_appended *out);

/* Room */

/*
 * Books room for a turn of about BYTES (ids, messages and response together) before any work is
 * done for it; ERR_FULL if it might not fit. Room that deletes need is never given out. Release it
 * with the same BYTES once the turn is committed or given up.
 */
MUST_USE enum err ledger_room_take(struct ledger *ledger, uint64_t bytes);
void ledger_room_release(struct ledger *ledger, uint64_t bytes);

/* Reading */

/* ERR_NOT_FOUND for a conversation that never was, was deleted, or has another name. */
MUST_USE enum err ledger_conversation_read(struct ledger *ledger,
                                           const struct conversation_key *key,
                                           struct conversation_record *out);

/*
 * Up to MAX conversations of all tenants in the order of their keys, from behind AFTER (NULL: from
 * the first). *count below MAX means the end. Records that cannot be read are left out, and
 * counted in *skipped (which may be NULL). The caller ends each with turn_record_conversation_done.
 */
MUST_USE enum err ledger_conversations_list(struct ledger *ledger,
                                            const struct conversation_key *after, size_t max,
                                            struct conversation_record *out, size_t *count,
                                            size_t *skipped);

/*
 * The three below take the serial that ledger_conversation_read gave, and return ERR_NOT_FOUND once
 * that conversation was deleted, even if its name was used again. TURN is at most its turn.
 */
MUST_USE enum err ledger_turn_read(struct ledger *ledger, const struct conversation_key *key,
                                   uint64_t serial, uint32_t turn, struct turn_record *out);

/* All ids of the line after TURN, checked against its chain digest; the caller frees *ids. */
MUST_USE enum err ledger_ids_read(struct ledger *ledger, const struct conversation_key *key,
                                  uint64_t serial, uint32_t turn, int32_t **ids, size_t *count);

/* The dialect's text, put into the empty buffer OUT. */
MUST_USE enum err ledger_dialect_read(struct ledger *ledger, const struct conversation_key *key,
                                      uint64_t serial, struct buf *out);

/* Idempotency */

/*
 * The turn that was committed with this hash; its record holds the response to replay.
 * ERR_NOT_FOUND if there is none, if it expired by NOW_MS, or if the conversation was deleted.
 */
MUST_USE enum err ledger_idempotency_find(struct ledger *ledger,
                                          const struct conversation_key *hash, uint64_t now_ms,
                                          struct ledger_record_idempotency *out);

/* Forgets some of those that expired by NOW_MS; *removed is 0 once none is left. Blocks. */
MUST_USE enum err ledger_idempotency_expire(struct ledger *ledger, uint64_t now_ms,
                                            size_t *removed);

/* Deleting */

/*
 * From its return on, also after a crash, no function finds the conversation; whoever holds its
 * lease has lost it. The turns' records are removed in the background. Works in a full ledger.
 * *serial (may be NULL) names the tombstone. Blocks.
 */
MUST_USE enum err ledger_delete(struct ledger *ledger, const struct conversation_key *key,
                                uint64_t *serial);

/*
 * Tombstones in the order of serials, from behind AFTER (0: from the first): what the state store
 * has to remove. *count below MAX means the end.
 */
MUST_USE enum err ledger_tombstones_list(struct ledger *ledger, uint64_t after, size_t max,
                                         struct ledger_record_tombstone *out, size_t *count);

/*
 * Forgets a tombstone, once the state store has removed what it names. ERR_BUSY while the turns
 * are still being removed: try again later. Blocks.
 */
MUST_USE enum err ledger_tombstone_remove(struct ledger *ledger, uint64_t serial);

/* Health */

/* True once a commit failed on disk: appends and deletes are ERR_IO until the ledger is reopened.
 */
int ledger_is_failed(struct ledger *ledger);

/* Clears reader slots of processes that died; to be called every second. *dead may be NULL. */
MUST_USE enum err ledger_readers_check(struct ledger *ledger, int *dead);

struct ledger_stats {
    uint64_t conversations;
    uint64_t tombstones;
    uint64_t idempotency_entries;
    uint64_t map_bytes;              /* the cap */
    uint64_t used_bytes;             /* of it, ever used */
    uint64_t free_bytes;             /* of the used ones, free again */
    uint64_t allocated_bytes;        /* of the file, ahead */
    uint64_t room_bytes;             /* that ledger_room_take would give out now */
    uint64_t turns_committed;        /* since open, as all below */
    uint64_t commits;                /* transactions */
    struct histogram commit_seconds; /* of these, until they are on disk */
    uint64_t groups_retried;         /* groups whose members were committed one by one */
    uint64_t appends_refused;        /* for any reason */
    size_t queued;                   /* now */
    int is_failed;
    char failure[256]; /* what failed; empty if nothing did */
};

MUST_USE enum err ledger_stats_read(struct ledger *ledger, struct ledger_stats *out);

#endif
