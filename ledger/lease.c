/*
 * I1. An entry is in the table exactly while its key is leased; at most one entry has a key.
 * I2. Generations are (epoch << 32 | count) with count rising at each take: they rise within a
 *     table, and from table to table because epochs do.
 * I3. An entry with commits > 0 stays until the last commit ends; `is_ending` remembers a release
 * or a revocation that came meanwhile, and makes the generation stale at once.
 *
 * The table is open addressing over twice as many slots as leases; keys are keyed hashes, so their
 * first bytes are spread evenly and nobody can choose colliding ones.
 */
#include "ledger/lease.h"

#include "base/fault.h"
#include "ledger/record_frame.h"

#include <pthread.h>
#include <stdlib.h>

enum { EPOCH_SHIFT = 32 };

struct entry {
    struct conversation_key key;
    uint64_t generation; /* 0: the slot is free */
    uint32_t commits;
    int is_ending;
};

struct lease_table {
    pthread_mutex_t mutex;
    struct entry *slots;
    size_t slot_count; /* a power of two */
    size_t leases_max;
    size_t held;
    uint64_t last_generation;
};

enum err lease_table_create(uint64_t epoch, size_t leases_max, struct lease_table **out) {
    if (leases_max == 0 || leases_max > (size_t)1 << 24 || epoch >> EPOCH_SHIFT != 0) {
        return err_fail(ERR_INVALID, "lease table of %zu entries in epoch %llu", leases_max,
                        (unsigned long long)epoch);
    }
    struct lease_table *table = fault_fails("lease.alloc") ? NULL : calloc(1, sizeof *table);
    if (table == NULL) {
        return err_fail(ERR_NOMEM, "lease table");
    }
    pthread_mutex_init(&table->mutex, NULL);
    table->leases_max = leases_max;
    table->last_generation = epoch << EPOCH_SHIFT;
    table->slot_count = 1;
    while (table->slot_count < 2 * leases_max) {
        table->slot_count *= 2;
    }
    table->slots =
        fault_fails("lease.alloc") ? NULL : calloc(table->slot_count, sizeof *table->slots);
    if (table->slots == NULL) {
        lease_table_destroy(table);
        return err_fail(ERR_NOMEM, "lease table of %zu entries", leases_max);
    }
    *out = table;
    return ERR_OK;
}

void lease_table_destroy(struct lease_table *table) {
    if (table == NULL) {
        return;
    }
    pthread_mutex_destroy(&table->mutex);
    free(table->slots);
    free(table);
}

static size_t home_of(const struct lease_table *table, const struct conversation_key *key) {
    return (size_t)record_frame_load_u64(key->bytes) & (table->slot_count - 1);
}

/* The key's entry, or the free slot where it would go. Half of the slots are always free. */
static struct entry *find(struct lease_table *table, const struct conversation_key *key) {
    size_t slot = home_of(table, key);
    while (table->slots[slot].generation != 0 &&
           conversation_key_compare(&table->slots[slot].key, key) != 0) {
        slot = (slot + 1) & (table->slot_count - 1);
    }
    return &table->slots[slot];
}

static struct entry *find_generation(struct lease_table *table, const struct conversation_key *key,
                                     uint64_t generation) {
    struct entry *entry = find(table, key);
    return generation != 0 && entry->generation == generation ? entry : NULL;
}

/* Frees ENTRY's slot and moves up what probed past it, so that no search stops early. */
static void drop(struct lease_table *table, struct entry *entry) {
    size_t mask = table->slot_count - 1;
    size_t hole = (size_t)(entry - table->slots);
    for (size_t slot = (hole + 1) & mask; table->slots[slot].generation != 0;
         slot = (slot + 1) & mask) {
        size_t home = home_of(table, &table->slots[slot].key);
        if (((slot - home) & mask) >= ((slot - hole) & mask)) {
            table->slots[hole] = table->slots[slot];
            hole = slot;
        }
    }
    table->slots[hole] = (struct entry){.generation = 0};
    table->held--;
}

static void end(struct lease_table *table, struct entry *entry) {
    if (entry->commits > 0) {
        entry->is_ending = 1;
    } else {
        drop(table, entry);
    }
}

enum err lease_take(struct lease_table *table, const struct conversation_key *key,
                    uint64_t *generation) {
    enum err code = ERR_OK;
    pthread_mutex_lock(&table->mutex);
    struct entry *entry = find(table, key);
    if (entry->generation != 0) {
        code = ERR_BUSY;
    } else if (table->held == table->leases_max) {
        code = ERR_FULL;
    } else {
        *entry = (struct entry){.key = *key, .generation = ++table->last_generation};
        table->held++;
        *generation = entry->generation;
    }
    pthread_mutex_unlock(&table->mutex);
    if (code == ERR_BUSY) {
        return err_fail(code, "another request is advancing this conversation");
    }
    return code == ERR_FULL ? err_fail(code, "all %zu leases are taken", table->leases_max) : code;
}

void lease_release(struct lease_table *table, const struct conversation_key *key,
                   uint64_t generation) {
    pthread_mutex_lock(&table->mutex);
    struct entry *entry = find_generation(table, key, generation);
    if (entry != NULL) {
        end(table, entry);
    }
    pthread_mutex_unlock(&table->mutex);
}

int lease_is_current(struct lease_table *table, const struct conversation_key *key,
                     uint64_t generation) {
    pthread_mutex_lock(&table->mutex);
    struct entry *entry = find_generation(table, key, generation);
    int is_current = entry != NULL && !entry->is_ending;
    pthread_mutex_unlock(&table->mutex);
    return is_current;
}

void lease_revoke(struct lease_table *table, const struct conversation_key *key) {
    pthread_mutex_lock(&table->mutex);
    struct entry *entry = find(table, key);
    if (entry->generation != 0) {
        end(table, entry);
    }
    pthread_mutex_unlock(&table->mutex);
}

size_t lease_count(struct lease_table *table) {
    pthread_mutex_lock(&table->mutex);
    size_t held = table->held;
    pthread_mutex_unlock(&table->mutex);
    return held;
}

enum err lease_commit_begin(struct lease_table *table, const struct conversation_key *key,
                            uint64_t generation) {
    pthread_mutex_lock(&table->mutex);
    struct entry *entry = find_generation(table, key, generation);
    int is_current = entry != NULL && !entry->is_ending;
    if (is_current) {
        entry->commits++;
    }
    pthread_mutex_unlock(&table->mutex);
    if (!is_current) {
        return err_fail(ERR_CONFLICT, "generation %llu no longer holds the conversation's lease",
                        (unsigned long long)generation);
    }
    return ERR_OK;
}

void lease_commit_end(struct lease_table *table, const struct conversation_key *key,
                      uint64_t generation) {
    pthread_mutex_lock(&table->mutex);
    struct entry *entry = find_generation(table, key, generation);
    assert(entry != NULL && entry->commits > 0); /* I3 */
    entry->commits--;
    if (entry->commits == 0 && entry->is_ending) {
        drop(table, entry);
    }
    pthread_mutex_unlock(&table->mutex);
}
