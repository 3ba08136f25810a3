/*
 * A disk tier in a directory of its own, and heads whose bytes follow from their keys, so that what
 * is read back can be compared without keeping a copy. For test_tier_disk*.c.
 */
#ifndef TERN_TESTS_TIER_DISK_FIXTURE_H
#define TERN_TESTS_TIER_DISK_FIXTURE_H

#include "store/state_table.h"
#include "store/tier_disk.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <cmocka.h>

enum {
    BLOCK_SIZE = 32,
    BLOCK_BYTES = 6 * 1024, /* F16 */
    STATE_BYTES = 40 * 1024,
    BIG_STATE_BYTES = 12 * 1024 * 1024,
    SEGMENTS_MAX = 4,
    CAP_BYTES = 64 * 1024 * 1024,
};

struct fixture {
    char root[64];
    char dir[96];
    uint64_t cap_bytes;
    struct tier_disk *tier;
    struct tier_disk_opening opening;
};

/* One job and what became of it. */
struct spill_case {
    struct spill_job job;
    struct spill_segment segments[SEGMENTS_MAX];
    uint8_t *raw;
    pthread_mutex_t mutex;
    pthread_cond_t gate;
    int is_held; /* fetch waits while it is set */
    int fetches;
    int fail_fetch_at; /* 0: never */
    int done;
    enum spill_outcome outcome;
    enum err code;
    char message[256];
};

static inline uint64_t mix(uint64_t x) {
    x ^= x >> 33;
    x *= UINT64_C(0xff51afd7ed558ccd);
    x ^= x >> 33;
    x *= UINT64_C(0xc4ceb9fe1a85ec53);
    return x ^ x >> 33;
}

/* Noise in the mantissa, few exponents; different for every key. */
static inline void fill_object(const struct record_object_key *key, void *raw, size_t bytes,
                               size_t element_bytes) {
    uint8_t *at = raw;
    uint64_t seed = mix(key->lineage * 1000003 + key->index * 31 + (uint64_t)key->part);
    for (size_t i = 0; i + element_bytes <= bytes; i += element_bytes) {
        uint64_t noise = mix(seed + i);
        memcpy(at + i, &noise, element_bytes);
        at[i + element_bytes - 1] = (uint8_t)(0x3c + (noise >> 60 & 3));
    }
}

static inline size_t object_bytes(const struct record_head *head,
                                  const struct record_object_key *key) {
    return key->part == RECORD_STATE || key->part == RECORD_PROMPT_STATE ? head->state_bytes
                                                                         : head->block_bytes;
}

static inline size_t element_bytes(const struct record_object_key *key) {
    return key->part == RECORD_STATE || key->part == RECORD_PROMPT_STATE ? 4 : 2;
}

static inline enum err case_fetch(void *context, const struct record_object_key *key,
                                  const void **bytes) {
    struct spill_case *spill = context;
    pthread_mutex_lock(&spill->mutex);
    spill->fetches++;
    int is_failing = spill->fetches == spill->fail_fetch_at;
    while (spill->is_held) {
        pthread_cond_wait(&spill->gate, &spill->mutex);
    }
    pthread_mutex_unlock(&spill->mutex);
    if (is_failing) {
        return err_fail(ERR_DEVICE, "the copy failed");
    }
    fill_object(key, spill->raw, object_bytes(&spill->job.head, key), element_bytes(key));
    *bytes = spill->raw;
    return ERR_OK;
}

static inline void case_done(void *context, enum spill_outcome outcome, enum err code,
                             const char *message) {
    struct spill_case *spill = context;
    pthread_mutex_lock(&spill->mutex);
    spill->done++;
    spill->outcome = outcome;
    spill->code = code;
    snprintf(spill->message, sizeof spill->message, "%s", message);
    pthread_mutex_unlock(&spill->mutex);
}

static inline void case_hold(struct spill_case *spill, int is_held) {
    pthread_mutex_lock(&spill->mutex);
    spill->is_held = is_held;
    pthread_cond_broadcast(&spill->gate);
    pthread_mutex_unlock(&spill->mutex);
}

static inline void case_wait_fetch(struct spill_case *spill) {
    for (;;) {
        pthread_mutex_lock(&spill->mutex);
        int fetches = spill->fetches;
        pthread_mutex_unlock(&spill->mutex);
        if (fetches > 0) {
            return;
        }
        usleep(1000);
    }
}

static inline void name_conversation(uint8_t out[RECORD_CONVERSATION_BYTES], int conversation) {
    memset(out, conversation, RECORD_CONVERSATION_BYTES);
    out[0] = 'c';
}

static inline struct record_head_key head_key(int conversation, int model, uint64_t turn) {
    struct record_head_key key = {.kind = RECORD_TURN_END, .turn = turn};
    name_conversation(key.conversation, conversation);
    memset(key.state_digest, 0x40 + model, sizeof key.state_digest);
    return key;
}

/* A head of TOKENS tokens in a lineage of its own. */
static inline void case_init(struct spill_case *spill, int conversation, uint64_t lineage,
                             uint64_t turn, uint64_t tokens) {
    memset(spill, 0, sizeof *spill);
    pthread_mutex_init(&spill->mutex, NULL);
    pthread_cond_init(&spill->gate, NULL);
    struct record_head *head = &spill->job.head;
    head->key = head_key(conversation, 1, turn);
    snprintf(head->numerics_class, sizeof head->numerics_class, "host-1");
    head->length = tokens;
    memset(head->chain_digest, (int)tokens, sizeof head->chain_digest);
    head->lineage = lineage;
    head->block_size = BLOCK_SIZE;
    head->block_count = tokens / BLOCK_SIZE;
    head->tail_tokens = (uint32_t)(tokens % BLOCK_SIZE);
    head->block_bytes = BLOCK_BYTES;
    head->state_bytes = STATE_BYTES;
    head->block_element = CODEC_F16;
    head->state_element = CODEC_F32;
    spill->segments[0] = (struct spill_segment){.lineage = lineage, .end_block = head->block_count};
    memcpy(spill->segments[0].conversation, head->key.conversation, RECORD_CONVERSATION_BYTES);
    spill->job.segments = spill->segments;
    spill->job.segment_count = 1;
    spill->job.fetch = case_fetch;
    spill->job.done = case_done;
    spill->job.context = spill;
    spill->raw = malloc(BIG_STATE_BYTES);
    assert_non_null(spill->raw);
}

/* Puts LINEAGE of CONVERSATION under it as the parent, up to block COUNT. */
static inline void case_add_parent(struct spill_case *spill, int conversation, uint64_t lineage,
                                   uint64_t count) {
    spill->segments[1] = spill->segments[0];
    spill->segments[1].first_block = count;
    spill->segments[0].lineage = lineage;
    spill->segments[0].end_block = count;
    name_conversation(spill->segments[0].conversation, conversation);
    spill->job.segment_count = 2;
}

static inline void case_free(struct spill_case *spill) {
    free(spill->raw);
    pthread_cond_destroy(&spill->gate);
    pthread_mutex_destroy(&spill->mutex);
}

static inline struct tier_disk_config fixture_config(const struct fixture *fixture) {
    return (struct tier_disk_config){.dir = fixture->dir,
                                     .bytes_max = fixture->cap_bytes,
                                     .object_bytes_max = BIG_STATE_BYTES,
                                     .jobs_max = 8};
}

static inline enum err fixture_try_open(struct fixture *fixture) {
    struct tier_disk_config config = fixture_config(fixture);
    return tier_disk_open(&config, &fixture->opening, &fixture->tier);
}

static inline void fixture_open(struct fixture *fixture) {
    enum err code = fixture_try_open(fixture);
    if (code != ERR_OK) {
        print_error("open: %s\n", err_message());
    }
    assert_int_equal(code, ERR_OK);
}

static inline void fixture_close(struct fixture *fixture) {
    tier_disk_close(fixture->tier, 1);
    fixture->tier = NULL;
}

/* Memory where there is enough of it: syncs cost these tests most of their time, and none of them
 * cuts the power. */
static inline const char *fixture_place(void) {
    struct statvfs stat_buf;
    int is_roomy = statvfs("/dev/shm", &stat_buf) == 0 && access("/dev/shm", W_OK) == 0 &&
                   stat_buf.f_bavail * stat_buf.f_bsize > UINT64_C(512) * 1024 * 1024;
    return is_roomy ? "/dev/shm" : "/tmp";
}

static inline int fixture_setup(void **state) {
    struct fixture *fixture = calloc(1, sizeof *fixture);
    snprintf(fixture->root, sizeof fixture->root, "%s/tern-disk-XXXXXX", fixture_place());
    if (mkdtemp(fixture->root) == NULL) {
        return -1;
    }
    snprintf(fixture->dir, sizeof fixture->dir, "%s/state", fixture->root);
    fixture->cap_bytes = CAP_BYTES;
    *state = fixture;
    return 0;
}

static inline int fixture_teardown(void **state) {
    struct fixture *fixture = *state;
    tier_disk_close(fixture->tier, 0);
    char command[160];
    snprintf(command, sizeof command, "rm -rf %s", fixture->root);
    int rc = system(command);
    free(fixture);
    return rc;
}

/* --- shorthand --------------------------------------------------------------------------- */

/* Spills and waits for the outcome. */
static inline enum spill_outcome spill_now(struct fixture *fixture, struct spill_case *spill) {
    assert_int_equal(tier_disk_spill(fixture->tier, &spill->job), ERR_OK);
    tier_disk_drain(fixture->tier);
    assert_int_equal(spill->done, 1);
    return spill->outcome;
}

static inline enum spill_outcome spill_simple(struct fixture *fixture, int conversation,
                                              uint64_t lineage, uint64_t turn, uint64_t tokens) {
    struct spill_case spill;
    case_init(&spill, conversation, lineage, turn, tokens);
    enum spill_outcome outcome = spill_now(fixture, &spill);
    if (outcome == SPILL_FAILED) {
        print_message("spill: %s\n", spill.message);
    }
    case_free(&spill);
    return outcome;
}

static inline enum tier_disk_answer look(struct fixture *fixture, int conversation, uint64_t turn,
                                         struct record_head *out) {
    struct record_head_key key = head_key(conversation, 1, turn);
    return tier_disk_lookup(fixture->tier, &key, out);
}

/* Where a read puts objects, and how many were right. */
struct check {
    const struct record_head *head;
    uint8_t *raw;
    size_t placed;
    size_t wrong;
};

static inline enum err check_place(void *context, const struct record_object_key *key,
                                   void **destination) {
    struct check *check = context;
    memset(check->raw, 0xee, object_bytes(check->head, key));
    *destination = check->raw;
    return ERR_OK;
}

static inline enum err check_placed(void *context, const struct record_object_key *key) {
    struct check *check = context;
    size_t bytes = object_bytes(check->head, key);
    uint8_t *expected = malloc(bytes);
    fill_object(key, expected, bytes, element_bytes(key));
    check->wrong += memcmp(expected, check->raw, bytes) != 0;
    check->placed++;
    free(expected);
    return ERR_OK;
}

/* Reads the whole head and compares every byte; *placed_out is the number of objects. */
static inline enum err read_whole(struct fixture *fixture, const struct record_head *head,
                                  size_t *placed_out, struct head_failure *failure) {
    struct head_plan *plan;
    struct head_reader *reader;
    TRY(tier_disk_plan(fixture->tier, head, &plan));
    enum err code = tier_disk_reader(fixture->tier, &reader);
    if (code != ERR_OK) {
        head_plan_destroy(plan);
        return code;
    }
    struct check check = {.head = head, .raw = malloc(BIG_STATE_BYTES)};
    struct head_want want = {.end_block = head->block_count, .tail = 1, .state = 1};
    struct head_sink sink = {.place = check_place, .placed = check_placed, .context = &check};
    tier_disk_will_need(fixture->tier, plan, &want);
    code = tier_disk_read(fixture->tier, reader, plan, &want, &sink, failure);
    assert_int_equal(check.wrong, 0);
    *placed_out = check.placed;
    free(check.raw);
    head_reader_destroy(reader);
    head_plan_destroy(plan);
    return code;
}

static inline void assert_reads(struct fixture *fixture, int conversation, uint64_t turn_max,
                                uint64_t turn, size_t objects) {
    struct record_head head;
    struct head_failure failure;
    size_t placed = 0;
    assert_int_equal(look(fixture, conversation, turn_max, &head), TIER_DISK_HIT);
    assert_int_equal(head.key.turn, turn);
    assert_int_equal(read_whole(fixture, &head, &placed, &failure), ERR_OK);
    assert_int_equal(placed, objects);
}

/* Changes one byte of the first run of an object behind the tier's back. */
static inline void damage_object(struct fixture *fixture, const struct record_object_key *key) {
    struct state_txn *txn;
    uint8_t encoded[RECORD_RUN_KEY_BYTES];
    uint8_t copy[OBJECT_RUN_LARGE_BYTES];
    struct state_bytes value;
    record_run_key_encode(key, 0, encoded);
    struct state_bytes run_key = {encoded, sizeof encoded};
    assert_int_equal(state_env_begin_write(tier_disk_env(fixture->tier), &txn), ERR_OK);
    assert_int_equal(state_env_get(txn, STATE_OBJECTS, run_key, &value), ERR_OK);
    memcpy(copy, value.data, value.len);
    copy[200] ^= 4;
    assert_int_equal(
        state_env_put(txn, STATE_OBJECTS, run_key, (struct state_bytes){copy, value.len}), ERR_OK);
    assert_int_equal(state_env_commit(txn), ERR_OK);
}

static inline uint64_t dir_bytes(const struct fixture *fixture) {
    static const char *const names[] = {"data.mdb", "lock.mdb", "data.mdb.copy", "data.mdb.aside"};
    uint64_t total = 0;
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        char path[160];
        struct stat stat_buf;
        snprintf(path, sizeof path, "%s/%s", fixture->dir, names[i]);
        total += stat(path, &stat_buf) == 0 ? (uint64_t)stat_buf.st_size : 0;
    }
    return total;
}

#endif
