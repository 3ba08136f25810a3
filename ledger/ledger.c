/*
 * I1. Every read begins with the conversation record: what has none was deleted or never was, and
 *     its turns are not looked at, though they may still lie there.
 * I2. A read transaction begins and ends within one function.
 */
#include "ledger/ledger.h"

#include "base/fault.h"
#include "base/now.h"
#include "ledger/ledger_writer.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { LEASES_DEFAULT = 65536, QUEUE_DEFAULT = 4096 };

struct ledger {
    struct ledger_db *db;
    struct lease_table *leases;
    struct ledger_writer *writer; /* NULL: read-only */
};

/* Opening */

struct opening {
    const struct ledger_config *config;
    uint64_t epoch;
};

static enum err check_secret(const struct ledger_config *config,
                             const struct ledger_record_mark *mark) {
    uint8_t check[SECRET_CHECK_BYTES];
    if (config->secret == NULL) {
        return ERR_OK;
    }
    secret_check(config->secret, check);
    if (memcmp(check, mark->secret_check, sizeof check) != 0) {
        return err_fail(ERR_CONFLICT,
                        "%s was made with another secret; restore the file `secret` "
                        "that belongs to it",
                        config->directory);
    }
    return ERR_OK;
}

/* A new mark would give out serials again under which turns lie. */
static enum err check_empty(struct ledger_db_txn *txn) {
    uint64_t conversations;
    uint64_t parts;
    uint64_t tombstones;
    TRY(ledger_db_count(txn, LEDGER_DB_CONVERSATION, &conversations));
    TRY(ledger_db_count(txn, LEDGER_DB_TURN, &parts));
    TRY(ledger_db_count(txn, LEDGER_DB_TOMBSTONE, &tombstones));
    if (conversations + parts + tombstones > 0) {
        return err_fail(ERR_CORRUPT, "the ledger has %llu conversations but has lost its mark",
                        (unsigned long long)conversations);
    }
    return ERR_OK;
}

static enum err first_transaction(void *context, struct ledger_db_txn *txn) {
    struct opening *opening = context;
    struct ledger_record_mark mark;
    enum err code = ledger_table_mark_get(txn, &mark);
    if (code == ERR_NOT_FOUND && !opening->config->is_read_only) {
        TRY(check_empty(txn));
        mark = (struct ledger_record_mark){
            .format = LEDGER_RECORD_FORMAT, .next_serial = 1, .created_ms = now_wall_ms()};
        secret_check(opening->config->secret, mark.secret_check);
        code = ERR_OK;
    }
    TRY(code);
    TRY(check_secret(opening->config, &mark));
    if (opening->config->is_read_only) {
        return ERR_OK;
    }
    if (mark.epoch == UINT32_MAX) {
        return err_fail(ERR_FULL, "the ledger was opened too often");
    }
    mark.epoch++;
    opening->epoch = mark.epoch;
    return ledger_table_mark_put(txn, &mark);
}

static enum err sync_parent(const char *directory) {
    char *copy CLEANUP(object_free) = fault_fails("ledger.alloc") ? NULL : strdup(directory);
    if (copy == NULL) {
        return err_fail(ERR_NOMEM, "path of the ledger");
    }
    int fd = fault_fails("ledger.parent_sync") ? -1 : open(dirname(copy), O_RDONLY | O_DIRECTORY);
    int is_synced = fd >= 0 && fsync(fd) == 0;
    int cause = errno;
    if (fd >= 0) {
        close(fd);
    }
    return is_synced ? ERR_OK
                     : err_fail(ERR_IO, "the directory of %s cannot be synced: %s", directory,
                                strerror(cause));
}

static enum err make_directory(const struct ledger_config *config) {
    if (config->is_read_only) {
        return ERR_OK;
    }
    int result = fault_fails("ledger.mkdir") ? (errno = EIO, -1) : mkdir(config->directory, 0700);
    if (result != 0 && errno != EEXIST) {
        return err_fail(ERR_IO, "%s: %s", config->directory, strerror(errno));
    }
    return sync_parent(config->directory);
}

enum err ledger_open(const struct ledger_config *config, struct ledger **out) {
    if (config->secret == NULL && !config->is_read_only) {
        return err_fail(ERR_INVALID, "a ledger is not written without its secret");
    }
    TRY(make_directory(config));
    struct ledger *ledger = fault_fails("ledger.alloc") ? NULL : calloc(1, sizeof *ledger);
    if (ledger == NULL) {
        return err_fail(ERR_NOMEM, "ledger");
    }
    struct opening opening = {.config = config};
    uint64_t page_bytes = (uint64_t)sysconf(_SC_PAGESIZE);
    struct ledger_db_params params = {
        .directory = config->directory,
        .map_bytes = config->map_bytes,
        .allocate_bytes = config->reserve_bytes,
        .reserve_pages = ledger_writer_reserve_pages(config->map_bytes / page_bytes),
        .is_read_only = config->is_read_only,
        .first = first_transaction,
        .context = &opening,
    };
    enum err code = ledger_db_open(&params, &ledger->db);
    if (code == ERR_OK && !config->is_read_only) {
        code = lease_table_create(opening.epoch,
                                  config->leases_max > 0 ? config->leases_max : LEASES_DEFAULT,
                                  &ledger->leases);
    }
    if (code == ERR_OK && !config->is_read_only) {
        code = ledger_writer_create(ledger->db, ledger->leases,
                                    config->queue_max > 0 ? config->queue_max : QUEUE_DEFAULT,
                                    &ledger->writer);
    }
    if (code != ERR_OK) {
        ledger_close(ledger);
        return code;
    }
    *out = ledger;
    return ERR_OK;
}

void ledger_close(struct ledger *ledger) {
    if (ledger == NULL) {
        return;
    }
    ledger_writer_destroy(ledger->writer);
    lease_table_destroy(ledger->leases);
    ledger_db_close(ledger->db);
    free(ledger);
}

struct ledger_db *ledger_environment(struct ledger *ledger) {
    return ledger->db;
}

struct lease_table *ledger_leases(struct ledger *ledger) {
    return ledger->leases;
}

/* Committing */

static enum err check_writable(const struct ledger *ledger) {
    return ledger->writer != NULL ? ERR_OK
                                  : err_fail(ERR_UNSUPPORTED, "the ledger was opened read-only");
}

enum err ledger_append(struct ledger *ledger, const struct ledger_append *request,
                       struct ledger_appended *out) {
    struct ledger_apply apply CLEANUP(ledger_apply_done);
    ledger_apply_init(&apply, LEDGER_APPLY_APPEND);
    apply.append = request;
    TRY(check_writable(ledger));
    TRY(ledger_apply_validate(request));
    TRY(ledger_writer_run(ledger->writer, &apply));
    *out = apply.appended;
    return ERR_OK;
}

enum err ledger_append_submit(struct ledger *ledger, const struct ledger_append *request,
                              ledger_done_fn *done, void *context) {
    TRY(check_writable(ledger));
    TRY(ledger_apply_validate(request));
    return ledger_writer_submit(ledger->writer, request, done, context);
}

enum err ledger_fork(struct ledger *ledger, const struct ledger_fork *request,
                     struct ledger_appended *out) {
    struct ledger_apply apply CLEANUP(ledger_apply_done);
    ledger_apply_init(&apply, LEDGER_APPLY_FORK);
    apply.fork = request;
    TRY(check_writable(ledger));
    TRY(ledger_writer_run(ledger->writer, &apply));
    *out = apply.appended;
    return ERR_OK;
}

enum err ledger_delete(struct ledger *ledger, const struct conversation_key *key,
                       uint64_t *serial) {
    struct ledger_apply apply CLEANUP(ledger_apply_done);
    ledger_apply_init(&apply, LEDGER_APPLY_DELETE);
    apply.key = *key;
    TRY(check_writable(ledger));
    TRY(ledger_writer_run(ledger->writer, &apply));
    if (serial != NULL) {
        *serial = apply.serial;
    }
    return ERR_OK;
}

enum err ledger_tombstone_remove(struct ledger *ledger, uint64_t serial) {
    struct ledger_apply apply CLEANUP(ledger_apply_done);
    ledger_apply_init(&apply, LEDGER_APPLY_TOMBSTONE_REMOVE);
    apply.serial = serial;
    TRY(check_writable(ledger));
    return ledger_writer_run(ledger->writer, &apply);
}

enum err ledger_idempotency_expire(struct ledger *ledger, uint64_t now_ms, size_t *removed) {
    struct ledger_apply apply CLEANUP(ledger_apply_done);
    ledger_apply_init(&apply, LEDGER_APPLY_EXPIRE);
    apply.now_ms = now_ms;
    TRY(check_writable(ledger));
    TRY(ledger_writer_run(ledger->writer, &apply));
    *removed = apply.removed;
    return ERR_OK;
}

enum err ledger_room_take(struct ledger *ledger, uint64_t bytes) {
    TRY(check_writable(ledger));
    if (ledger_writer_is_failed(ledger->writer)) {
        return err_fail(ERR_IO, "the ledger stopped for good, restart to go on");
    }
    return ledger_writer_room_take(ledger->writer, ledger_apply_pages(bytes));
}

void ledger_room_release(struct ledger *ledger, uint64_t bytes) {
    ledger_writer_room_release(ledger->writer, ledger_apply_pages(bytes));
}

/* Reading */

enum err ledger_conversation_read(struct ledger *ledger, const struct conversation_key *key,
                                  struct conversation_record *out) {
    struct ledger_db_txn txn CLEANUP(ledger_db_abort) = {0};
    TRY(ledger_db_begin(ledger->db, 0, &txn));
    return ledger_table_conversation_get(&txn, key, out);
}

enum err ledger_conversations_list(struct ledger *ledger, const struct conversation_key *after,
                                   size_t max, struct conversation_record *out, size_t *count,
                                   size_t *skipped) {
    struct ledger_db_txn txn CLEANUP(ledger_db_abort) = {0};
    TRY(ledger_db_begin(ledger->db, 0, &txn));
    struct conversation_key key;
    const struct conversation_key *previous = after;
    size_t listed = 0;
    size_t unreadable = 0;
    enum err code = ERR_OK;
    while (listed < max) {
        struct ledger_db_bytes record;
        code = ledger_table_conversation_next(&txn, previous, &key, &record);
        if (code != ERR_OK) {
            break;
        }
        previous = &key;
        code = turn_record_decode_conversation(record.data, record.len, &key, &out[listed]);
        if (code == ERR_NOMEM) {
            break;
        }
        listed += code == ERR_OK;
        unreadable += code != ERR_OK;
        code = ERR_OK;
    }
    if (code != ERR_OK && code != ERR_NOT_FOUND) {
        while (listed > 0) {
            turn_record_conversation_done(&out[--listed]);
        }
        return code;
    }
    *count = listed;
    if (skipped != NULL) {
        *skipped = unreadable;
    }
    return ERR_OK;
}

/* I1. Finds the conversation with SERIAL, and that TURN is one of its own. */
static enum err check_served(struct ledger_db_txn *txn, const struct conversation_key *key,
                             uint64_t serial, uint32_t turn) {
    struct conversation_record conversation;
    TRY(ledger_table_conversation_same(txn, key, serial, &conversation));
    uint32_t last = conversation.turn;
    turn_record_conversation_done(&conversation);
    if (turn > last) {
        return err_fail(ERR_NOT_FOUND, "the conversation has no turn %u, its last is %u", turn,
                        last);
    }
    return ERR_OK;
}

enum err ledger_turn_read(struct ledger *ledger, const struct conversation_key *key,
                          uint64_t serial, uint32_t turn, struct turn_record *out) {
    struct ledger_db_txn txn CLEANUP(ledger_db_abort) = {0};
    if (turn == 0) {
        return err_fail(ERR_NOT_FOUND, "turns are numbered from 1");
    }
    TRY(ledger_db_begin(ledger->db, 0, &txn));
    TRY(check_served(&txn, key, serial, turn));
    return ledger_table_turn_get(&txn, (struct turn_record_place){serial, turn}, out);
}

enum err ledger_ids_read(struct ledger *ledger, const struct conversation_key *key, uint64_t serial,
                         uint32_t turn, int32_t **ids, size_t *count) {
    struct ledger_db_txn txn CLEANUP(ledger_db_abort) = {0};
    TRY(ledger_db_begin(ledger->db, 0, &txn));
    TRY(check_served(&txn, key, serial, turn));
    return ledger_table_line_get(&txn, (struct turn_record_place){serial, turn}, ids, count);
}

enum err ledger_dialect_read(struct ledger *ledger, const struct conversation_key *key,
                             uint64_t serial, struct buf *out) {
    struct ledger_db_txn txn CLEANUP(ledger_db_abort) = {0};
    struct buf record CLEANUP(buf_done);
    const uint8_t *text;
    size_t text_bytes;
    buf_init(&record, TURN_RECORD_BYTES_MAX);
    TRY(ledger_db_begin(ledger->db, 0, &txn));
    TRY(check_served(&txn, key, serial, 0));
    TRY(ledger_table_parts_get(&txn, (struct turn_record_place){serial, 0}, &record));
    TRY(turn_record_decode_dialect(record.data, record.len, serial, &text, &text_bytes));
    return buf_append(out, text, text_bytes);
}

enum err ledger_idempotency_find(struct ledger *ledger, const struct conversation_key *hash,
                                 uint64_t now_ms, struct ledger_record_idempotency *out) {
    struct ledger_db_txn txn CLEANUP(ledger_db_abort) = {0};
    struct ledger_record_idempotency entry;
    TRY(ledger_db_begin(ledger->db, 0, &txn));
    TRY(ledger_table_idempotency_get(&txn, hash, &entry));
    if (entry.expires_ms <= now_ms) {
        return err_fail(ERR_NOT_FOUND, "the idempotency key has expired");
    }
    TRY(check_served(&txn, &entry.key, entry.serial, entry.turn));
    *out = entry;
    return ERR_OK;
}

enum err ledger_tombstones_list(struct ledger *ledger, uint64_t after, size_t max,
                                struct ledger_record_tombstone *out, size_t *count) {
    struct ledger_db_txn txn CLEANUP(ledger_db_abort) = {0};
    TRY(ledger_db_begin(ledger->db, 0, &txn));
    size_t listed = 0;
    for (uint64_t from = after + 1; listed < max; from = out[listed++].serial + 1) {
        enum err code = ledger_table_tombstone_next(&txn, from, &out[listed]);
        if (code == ERR_NOT_FOUND) {
            break;
        }
        TRY(code);
    }
    *count = listed;
    return ERR_OK;
}

/* Health */

int ledger_is_failed(struct ledger *ledger) {
    return ledger->writer != NULL && ledger_writer_is_failed(ledger->writer);
}

enum err ledger_readers_check(struct ledger *ledger, int *dead) {
    int count;
    TRY(ledger_db_readers_check(ledger->db, &count));
    if (dead != NULL) {
        *dead = count;
    }
    return ERR_OK;
}

static enum err count_entries(struct ledger *ledger, struct ledger_stats *stats) {
    struct ledger_db_txn txn CLEANUP(ledger_db_abort) = {0};
    TRY(ledger_db_begin(ledger->db, 0, &txn));
    TRY(ledger_db_count(&txn, LEDGER_DB_CONVERSATION, &stats->conversations));
    TRY(ledger_db_count(&txn, LEDGER_DB_TOMBSTONE, &stats->tombstones));
    return ledger_db_count(&txn, LEDGER_DB_IDEMPOTENCY, &stats->idempotency_entries);
}

enum err ledger_stats_read(struct ledger *ledger, struct ledger_stats *out) {
    struct ledger_stats stats = {0};
    struct ledger_db_space space;
    TRY(count_entries(ledger, &stats));
    TRY(ledger_db_space(ledger->db, &space));
    stats.map_bytes = space.map_pages * space.page_bytes;
    stats.used_bytes = space.used_pages * space.page_bytes;
    stats.free_bytes = space.free_pages * space.page_bytes;
    stats.allocated_bytes = space.allocated_pages * space.page_bytes;
    if (ledger->writer != NULL) {
        ledger_writer_stats(ledger->writer, &stats);
    }
    *out = stats;
    return ERR_OK;
}
