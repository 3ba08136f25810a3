#include "store/head_census.h"

#include "base/now.h"
#include "store/state_walk.h"

static void end_txn(struct state_txn **txn) {
    state_env_abort(*txn);
}

static int is_sound(struct state_bytes first_run, uint64_t raw_bytes, struct object_info *info) {
    return coded_object_inspect(first_run.data, first_run.len, info) == OBJECT_SOUND &&
           info->raw_bytes == raw_bytes &&
           info->coded_bytes <= coded_object_bound((size_t)raw_bytes);
}

static enum err count_object(struct state_txn *txn, const struct record_object_key *key,
                             uint64_t raw_bytes, struct head_census *census) {
    uint8_t encoded[RECORD_RUN_KEY_BYTES];
    struct state_bytes value;
    struct object_info info;
    record_run_key_encode(key, 0, encoded);
    struct state_bytes run_key = {.data = encoded, .len = sizeof encoded};
    census->objects++;
    enum err code = state_env_get(txn, STATE_OBJECTS, run_key, &value);
    if (code == ERR_NOT_FOUND || (code == ERR_OK && !is_sound(value, raw_bytes, &info))) {
        census->objects_missing++;
        return ERR_OK;
    }
    TRY(code);
    census->raw_bytes += info.raw_bytes;
    census->coded_bytes += info.coded_bytes;
    census->stored_bytes += coded_object_extent((size_t)info.coded_bytes).stored_bytes;
    return ERR_OK;
}

/* Counts blocks from *NEXT on for STATE_WALK_RENEW_MS in one transaction. */
static enum err count_blocks(struct state_env *env, const struct head_plan *plan, uint64_t *next,
                             struct head_census *census) {
    struct state_txn *txn CLEANUP(end_txn) = NULL;
    TRY(state_env_begin_read(env, &txn));
    uint64_t start_ms = now_monotonic_ms();
    while (*next < plan->head.block_count && now_monotonic_ms() - start_ms < STATE_WALK_RENEW_MS) {
        struct record_object_key key = head_plan_block(plan, *next);
        TRY(count_object(txn, &key, plan->head.block_bytes, census));
        ++*next;
    }
    return ERR_OK;
}

enum err head_census_count(struct state_env *env, const struct head_plan *plan,
                           struct head_census *out) {
    const struct record_head *head = &plan->head;
    struct head_census census = {0};
    uint64_t next = 0;
    while (head->block_bytes > 0 && next < head->block_count) {
        TRY(count_blocks(env, plan, &next, &census));
    }
    struct state_txn *txn CLEANUP(end_txn) = NULL;
    TRY(state_env_begin_read(env, &txn));
    if (head->tail_coded_bytes != 0) {
        struct record_object_key key = head_plan_tail(plan);
        TRY(count_object(txn, &key, head->block_bytes, &census));
    }
    if (head->state_coded_bytes != 0) {
        struct record_object_key key = head_plan_state(plan);
        TRY(count_object(txn, &key, head->state_bytes, &census));
    }
    *out = census;
    return ERR_OK;
}
