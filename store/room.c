/*
 * Pages freed by transaction n can be used from n + 2 on, if no reader is older. So "free" and
 * "ready" are told apart: when enough is free but not ready, two empty transactions make it so,
 * and if they don't, a reader stands in the way.
 */
#include "store/room.h"

#include "base/fault.h"
#include "base/now.h"
#include "store/coded_object.h"
#include "store/evict.h"
#include "store/state_drop.h"

#include <stdlib.h>
#include <string.h>

enum {
    RESERVE_SHARE = 50, /* 1/50 of the map: 2 % */
    RESERVE_PAGES_MIN = 32,
    ROUNDS_MAX = 4096,
    TICKS = 2,
};

struct victim {
    struct record_head head;
    uint64_t bytes; /* that its going frees, about */
    double worth;
    int is_refused; /* the record can't be read: only RAW_KEY is known */
    uint8_t raw_key[RECORD_HEAD_KEY_BYTES];
};

struct victims {
    struct victim items[ROOM_VICTIMS_MAX];
    double worths[ROOM_VICTIMS_MAX];
    struct evict_choice choice;
    const struct room_request *request;
    uint64_t now_ms;
};

static void end_txn(struct state_txn **txn) {
    state_env_abort(*txn);
}

static void close_cursor(struct state_cursor **cursor) {
    state_env_cursor_close(*cursor);
}

/* --- choosing -------------------------------------------------------------------------- */

static int is_protected(const struct room_request *request, const struct record_head *head) {
    for (size_t i = 0; request != NULL && i < request->job_count; i++) {
        const struct spill_job *job = request->jobs[i];
        if (memcmp(job->head.key.conversation, head->key.conversation, RECORD_CONVERSATION_BYTES) ==
            0) {
            return 1;
        }
        for (size_t j = 0; j < job->segment_count; j++) {
            if (job->segments[j].lineage == head->lineage) {
                return 1;
            }
        }
    }
    return 0;
}

static uint64_t extent_bytes(uint64_t coded_bytes) {
    return coded_bytes == 0 ? 0
                            : coded_object_extent((size_t)coded_bytes).pages * STATE_ENV_PAGE_BYTES;
}

static enum err offer(struct state_txn *txn, struct victims *victims,
                      const struct record_head *head, int is_superseded) {
    if (is_protected(victims->request, head)) {
        return ERR_OK;
    }
    uint64_t bytes = extent_bytes(head->tail_coded_bytes) + extent_bytes(head->state_coded_bytes);
    struct record_lineage lineage;
    if (!is_superseded && state_table_get_lineage(txn, head->lineage, &lineage) == ERR_OK &&
        lineage.stored_bytes > bytes) {
        bytes = lineage.stored_bytes;
    }
    struct evict_candidate candidate = {
        .tokens = head->length,
        .bytes = bytes,
        .age_ms = victims->now_ms > head->used_ms ? victims->now_ms - head->used_ms : 0,
        .hits = head->hits,
        .is_superseded = is_superseded,
        .is_expired = head->expires_ms != 0 && head->expires_ms <= victims->now_ms,
        .is_pinned = (head->flags & RECORD_HEAD_PINNED) != 0,
    };
    double worth = evict_worth(&candidate);
    size_t at = evict_offer(&victims->choice, worth);
    if (at < victims->choice.count_max) {
        victims->items[at] = (struct victim){.head = *head, .bytes = bytes, .worth = worth};
    }
    return ERR_OK;
}

static void offer_refused(struct victims *victims, struct state_bytes key) {
    size_t at = evict_offer(&victims->choice, -2.0);
    if (at < victims->choice.count_max && key.len == RECORD_HEAD_KEY_BYTES) {
        victims->items[at] = (struct victim){.worth = -2.0, .is_refused = 1};
        memcpy(victims->items[at].raw_key, key.data, RECORD_HEAD_KEY_BYTES);
    }
}

/* Scans all heads. Those of one line follow each other with rising turns, so a head is superseded
 * if the next one is of the same line. */
static enum err choose(struct state_env *env, struct victims *victims) {
    struct state_txn *txn CLEANUP(end_txn) = NULL;
    TRY(state_env_begin_read(env, &txn));
    struct state_cursor *cursor CLEANUP(close_cursor) = NULL;
    TRY(state_env_cursor_open(txn, STATE_HEADS, &cursor));
    struct state_bytes key;
    struct state_bytes value;
    struct record_head before;
    int has_before = 0;
    enum err code = state_env_first(cursor, &key, &value);
    while (code == ERR_OK) {
        struct record_head head;
        if (record_head_decode(key.data, key.len, value.data, value.len, &head) != ERR_OK) {
            offer_refused(victims, key);
        } else {
            if (has_before) {
                TRY(offer(txn, victims, &before,
                          record_head_key_matches(key.data, key.len, &before.key, 1)));
            }
            before = head;
            has_before = 1;
        }
        code = state_env_next(cursor, &key, &value);
    }
    if (code != ERR_NOT_FOUND) {
        return code;
    }
    return has_before ? offer(txn, victims, &before, 0) : ERR_OK;
}

static int compare_worth(const void *left, const void *right) {
    double a = ((const struct victim *)left)->worth;
    double b = ((const struct victim *)right)->worth;
    return (a > b) - (a < b);
}

static enum err choose_sorted(struct state_env *env, const struct room_request *request,
                              struct victims *victims) {
    victims->choice =
        (struct evict_choice){.worths = victims->worths, .count_max = ARRAY_LEN(victims->items)};
    victims->request = request;
    victims->now_ms = now_wall_ms();
    TRY(choose(env, victims));
    qsort(victims->items, victims->choice.count, sizeof victims->items[0], compare_worth);
    return ERR_OK;
}

enum err room_preview(struct state_env *env,
                      void (*visit)(void *context, const struct record_head *head, double worth),
                      void *context) {
    struct victims *victims CLEANUP(object_free) = calloc(1, sizeof *victims);
    if (victims == NULL) {
        return err_fail(ERR_NOMEM, "state: no memory to choose heads");
    }
    TRY(choose_sorted(env, NULL, victims));
    for (size_t i = 0; i < victims->choice.count; i++) {
        if (!victims->items[i].is_refused) {
            visit(context, &victims->items[i].head, victims->items[i].worth);
        }
    }
    return ERR_OK;
}

/* --- evicting -------------------------------------------------------------------------- */

static enum err drop_victim(struct state_txn *txn, const struct victim *victim) {
    if (victim->is_refused) {
        return state_env_remove(txn, STATE_HEADS,
                                (struct state_bytes){victim->raw_key, RECORD_HEAD_KEY_BYTES});
    }
    return state_drop_head(txn, &victim->head);
}

/* Drops the least worthy heads until about BYTES are freed; *count_out may be 0. */
static enum err evict_some(struct state_env *env, const struct room_request *request,
                           uint64_t bytes, size_t *count_out) {
    struct victims *victims CLEANUP(object_free) =
        fault_fails("room.alloc") ? NULL : calloc(1, sizeof *victims);
    if (victims == NULL) {
        return err_fail(ERR_NOMEM, "state: no memory to choose heads");
    }
    TRY(choose_sorted(env, request, victims));
    *count_out = 0;
    if (victims->choice.count == 0) {
        return ERR_OK;
    }
    FAULT_KILL("evict.before");
    struct state_txn *txn;
    TRY(state_env_begin_write(env, &txn));
    uint64_t freed = 0;
    size_t count = 0;
    while (count < victims->choice.count && freed < bytes) {
        enum err code = drop_victim(txn, &victims->items[count]);
        if (code != ERR_OK) {
            state_env_abort(txn);
            return code;
        }
        freed += victims->items[count].bytes;
        count++;
    }
    TRY(state_env_commit(txn));
    FAULT_KILL("evict.after");
    *count_out = count;
    return ERR_OK;
}

static enum err collect_some(struct state_env *env, struct room_result *result, int *is_any_out) {
    struct state_drop_step step = {.bytes_max = ROOM_STEP_BYTES};
    struct state_drop_result collected = {0};
    TRY(state_drop_collect_step(env, &step, &collected));
    result->freed_bytes += collected.freed_bytes;
    *is_any_out = collected.entries > 0 || collected.freed_bytes > 0;
    return ERR_OK;
}

/* --- room ------------------------------------------------------------------------------ */

/* Enough is free: waits out the two transactions until it is ready. */
static enum err make_ready(struct state_env *env, uint64_t wanted, uint64_t needed) {
    struct state_env_usage usage;
    for (int tick = 0;; tick++) {
        TRY(state_env_usage(env, &usage));
        uint64_t ready = usage.map_pages - usage.file_pages + usage.ready_pages;
        if (ready >= wanted || (tick >= TICKS && ready >= needed)) {
            return ERR_OK;
        }
        if (tick >= TICKS) {
            break;
        }
        TRY(state_env_tick(env));
    }
    int pid = 0;
    uint64_t txn_id = 0;
    TRY(state_env_oldest_reader(env, &pid, &txn_id));
    if (pid != 0) {
        return err_fail(ERR_BUSY,
                        "state: process %d reads since transaction %llu and holds back the pages "
                        "that were freed since",
                        pid, (unsigned long long)txn_id);
    }
    return err_fail(ERR_FULL, "state: %llu pages are free, but not yet usable",
                    (unsigned long long)usage.free_pages);
}

enum err room_make(struct state_env *env, const struct room_request *request,
                   struct room_result *result) {
    for (int round = 0; round < ROUNDS_MAX; round++) {
        struct state_env_usage usage;
        TRY(state_env_usage(env, &usage));
        uint64_t least = usage.map_pages / RESERVE_SHARE + RESERVE_PAGES_MIN;
        uint64_t reserve = 2 * request->largest_pages > least ? 2 * request->largest_pages : least;
        reserve = reserve < usage.map_pages / 4 ? reserve : usage.map_pages / 4;
        uint64_t available = usage.map_pages - usage.file_pages + usage.free_pages;
        if (request->pages + least > usage.map_pages) {
            return err_fail(ERR_FULL, "state: %llu pages are needed, the disk cap allows %llu",
                            (unsigned long long)request->pages,
                            (unsigned long long)usage.map_pages);
        }
        uint64_t wanted = request->pages + reserve;
        if (available >= wanted) {
            return make_ready(env, wanted, request->pages + least);
        }
        int is_any = 0;
        TRY(collect_some(env, result, &is_any));
        if (is_any) {
            continue;
        }
        size_t count = 0;
        uint64_t bytes = (wanted - available) * STATE_ENV_PAGE_BYTES;
        TRY(evict_some(env, request, bytes < ROOM_STEP_BYTES ? bytes : ROOM_STEP_BYTES, &count));
        result->heads_evicted += count;
        if (count == 0) {
            if (available >= request->pages + least) {
                return make_ready(env, wanted, request->pages + least);
            }
            return err_fail(ERR_FULL,
                            "state: %llu pages are needed, %llu are free and nothing is left to "
                            "evict",
                            (unsigned long long)(request->pages + least),
                            (unsigned long long)available);
        }
    }
    return err_fail(ERR_FULL, "state: no room after %d rounds of eviction", ROUNDS_MAX);
}

enum err room_shrink(struct state_env *env, uint64_t pages, struct room_result *result) {
    for (;;) {
        struct state_env_usage usage;
        TRY(state_env_usage(env, &usage));
        uint64_t used = usage.file_pages - usage.free_pages;
        if (used <= pages) {
            return ERR_OK;
        }
        int is_any = 0;
        TRY(collect_some(env, result, &is_any));
        if (is_any) {
            continue;
        }
        size_t count = 0;
        uint64_t bytes = (used - pages) * STATE_ENV_PAGE_BYTES;
        TRY(evict_some(env, NULL, bytes < ROOM_STEP_BYTES ? bytes : ROOM_STEP_BYTES, &count));
        result->heads_evicted += count;
        if (count == 0) {
            return err_fail(ERR_FULL, "state: %llu pages stay in use", (unsigned long long)used);
        }
    }
}
