/*
 * A store directory as a server leaves it: the ledger of ledger_fixture.h, and beside it a state
 * environment with heads of those conversations. Every value of a head follows from its place, so
 * that what a tool makes of it can be checked. Also runs `tern` and keeps what it prints.
 */
#ifndef TERN_TESTS_STORE_DIR_FIXTURE_H
#define TERN_TESTS_STORE_DIR_FIXTURE_H

#include "tests/ledger_fixture.h"

#include "base/buf.h"
#include "engine/demo/demo_model.h"
#include "engine/model_shape.h"
#include "ledger/state_key.h"
#include "store/tier_disk.h"

#include <jansson.h>
#include <sys/wait.h>

enum { STORE_DIR_FIXTURE_CAP = 256 << 20 };

struct store_dir_fixture {
    struct ledger_fixture ledger;
    struct tier_disk *tier; /* NULL while closed */
    struct layout layout;   /* of the demo model */
};

/* --- values ------------------------------------------------------------------------------ */

static inline uint32_t store_dir_fixture_mix(uint32_t value) {
    value ^= value >> 16;
    value *= 0x7feb352du;
    value ^= value >> 15;
    value *= 0x846ca68bu;
    return value ^ value >> 16;
}

/* The F16 bits of K or V of one token in one conversation; finite. */
static inline uint16_t store_dir_fixture_kv(int name, const struct layout_kv *kv, int is_value,
                                            int head, int dim, uint64_t token) {
    uint32_t place =
        (uint32_t)(((name * 64 + kv->layer) * 2 + is_value) * 64 + head) * 1024 + (uint32_t)dim;
    return store_dir_fixture_mix(place * 65536u + (uint32_t)token) & 0xbbff;
}

/* A value of the terminal state after TURN. */
static inline float store_dir_fixture_state(int name, uint32_t turn, size_t index) {
    uint32_t bits = store_dir_fixture_mix((uint32_t)index * 64 + turn + (uint32_t)name * 16);
    return (float)(int32_t)bits / 65536.0f;
}

static inline void store_dir_fixture_fill_block(const struct layout *layout, int name,
                                                uint64_t first, size_t tokens, uint8_t *out) {
    size_t size = (size_t)layout->block_size;
    memset(out, 0, layout->block_bytes);
    for (int i = 0; i < layout->kv_count; i++) {
        const struct layout_kv *kv = &layout->kv[i];
        uint16_t *keys = (uint16_t *)(void *)(out + kv->key_offset_bytes);
        uint16_t *values = (uint16_t *)(void *)(out + kv->value_offset_bytes);
        for (int head = 0; head < kv->kv_heads; head++) {
            for (size_t token = 0; token < tokens; token++) {
                for (int dim = 0; dim < kv->key_size; dim++) {
                    keys[(size_t)(head * kv->key_size + dim) * size + token] =
                        store_dir_fixture_kv(name, kv, 0, head, dim, first + token);
                }
                for (int dim = 0; dim < kv->value_size; dim++) {
                    values[((size_t)head * size + token) * (size_t)kv->value_size + (size_t)dim] =
                        store_dir_fixture_kv(name, kv, 1, head, dim, first + token);
                }
            }
        }
    }
}

/* --- opening ----------------------------------------------------------------------------- */

static inline void store_dir_fixture_open(struct store_dir_fixture *fixture) {
    char *directory = NULL;
    ledger_fixture_open(&fixture->ledger);
    assert_true(asprintf(&directory, "%s/state", fixture->ledger.store) > 0);
    struct tier_disk_config config = {.dir = directory,
                                      .bytes_max = STORE_DIR_FIXTURE_CAP,
                                      .object_bytes_max = fixture->layout.slot_bytes};
    if (tier_disk_open(&config, NULL, &fixture->tier) != ERR_OK) {
        fail_msg("tier_disk_open: %s", err_message());
    }
    free(directory);
}

static inline void store_dir_fixture_close(struct store_dir_fixture *fixture) {
    tier_disk_close(fixture->tier, 1);
    fixture->tier = NULL;
    ledger_close(fixture->ledger.ledger);
    fixture->ledger.ledger = NULL;
}

static inline void store_dir_fixture_init(struct store_dir_fixture *fixture) {
    struct gguf *file;
    struct model_shape shape;
    size_t bytes;
    const void *data = demo_model_data(&bytes);
    *fixture = (struct store_dir_fixture){.tier = NULL};
    ledger_fixture_init(&fixture->ledger);
    assert_int_equal(gguf_parse(data, bytes, &file), ERR_OK);
    assert_int_equal(model_shape_read(file, &shape), ERR_OK);
    assert_int_equal(model_shape_layout(&shape, 32, DTYPE_F16, &fixture->layout), ERR_OK);
    model_shape_done(&shape);
    gguf_close(file);
    store_dir_fixture_open(fixture);
}

static inline void store_dir_fixture_done(struct store_dir_fixture *fixture) {
    store_dir_fixture_close(fixture);
    layout_done(&fixture->layout);
    ledger_fixture_done(&fixture->ledger);
}

/* --- heads ------------------------------------------------------------------------------- */

struct store_dir_fixture_job {
    struct spill_job job;
    struct spill_segment segment;
    struct store_dir_fixture *fixture;
    int name;
    uint8_t *raw;
    enum spill_outcome outcome;
    char message[256];
};

static inline enum err store_dir_fixture_fetch(void *context, const struct record_object_key *key,
                                               const void **bytes) {
    struct store_dir_fixture_job *made = context;
    const struct record_head *head = &made->job.head;
    const struct layout *layout = &made->fixture->layout;
    *bytes = made->raw;
    if (key->part == RECORD_STATE) {
        float *values = (float *)(void *)made->raw;
        for (size_t i = 0; i < layout->slot_bytes / sizeof *values; i++) {
            values[i] = store_dir_fixture_state(made->name, (uint32_t)head->key.turn, i);
        }
        return ERR_OK;
    }
    uint64_t block = key->part == RECORD_BLOCK ? key->index : head->block_count;
    size_t tokens = key->part == RECORD_BLOCK ? head->block_size : head->tail_tokens;
    store_dir_fixture_fill_block(layout, made->name, block * head->block_size, tokens, made->raw);
    return ERR_OK;
}

static inline void store_dir_fixture_spilled(void *context, enum spill_outcome outcome,
                                             enum err code, const char *message) {
    struct store_dir_fixture_job *made = context;
    (void)code;
    made->outcome = outcome;
    snprintf(made->message, sizeof made->message, "%s", message);
}

/* Writes the turn-end head after TURN of conversation NAME, in a lineage of the conversation's. */
static inline void store_dir_fixture_spill(struct store_dir_fixture *fixture, int name,
                                           uint32_t turn, uint64_t lineage) {
    const struct layout *layout = &fixture->layout;
    struct conversation_key key = ledger_fixture_key(&fixture->ledger, name);
    uint64_t serial = ledger_fixture_serial(&fixture->ledger, name);
    struct turn_record record;
    struct store_dir_fixture_job made = {.fixture = fixture, .name = name};
    struct record_head *head = &made.job.head;
    assert_int_equal(ledger_turn_read(fixture->ledger.ledger, &key, serial, turn, &record), ERR_OK);
    state_key_make(&key, serial, head->key.conversation);
    memset(head->key.state_digest, 0x5a, sizeof head->key.state_digest);
    head->key.kind = RECORD_TURN_END;
    head->key.turn = turn;
    snprintf(head->numerics_class, sizeof head->numerics_class, "host-1");
    head->length = record.end_tokens - record.pending_tokens;
    memcpy(head->chain_digest, record.head_digest, sizeof head->chain_digest);
    turn_record_done(&record);
    head->lineage = lineage;
    head->block_size = (uint32_t)layout->block_size;
    head->block_count = head->length / head->block_size;
    head->tail_tokens = (uint32_t)(head->length % head->block_size);
    head->block_bytes = layout->block_bytes;
    head->state_bytes = layout->slot_bytes;
    head->block_element = CODEC_F16;
    head->state_element = CODEC_F32;
    made.segment = (struct spill_segment){.lineage = lineage, .end_block = head->block_count};
    memcpy(made.segment.conversation, head->key.conversation, RECORD_CONVERSATION_BYTES);
    made.job.segments = &made.segment;
    made.job.segment_count = 1;
    made.job.flags = SPILL_MUST_WRITE;
    made.job.fetch = store_dir_fixture_fetch;
    made.job.done = store_dir_fixture_spilled;
    made.job.context = &made;
    made.raw = malloc(layout->slot_bytes + layout->block_bytes);
    assert_non_null(made.raw);
    assert_int_equal(tier_disk_spill(fixture->tier, &made.job), ERR_OK);
    tier_disk_drain(fixture->tier);
    if (made.outcome != SPILL_DURABLE) {
        fail_msg("spill: %s", made.message);
    }
    free(made.raw);
}

/* --- running tern ------------------------------------------------------------------------ */

struct store_dir_fixture_ran {
    int code;
    char *out; /* owned: free both */
    char *error;
};

static inline char *store_dir_fixture_slurp(const char *path) {
    struct buf buf;
    const char *text;
    uint8_t *part;
    char piece[4096];
    size_t count;
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    buf_init(&buf, 64 << 20);
    while ((count = fread(piece, 1, sizeof piece, file)) > 0) {
        assert_int_equal(buf_extend(&buf, count, &part), ERR_OK);
        memcpy(part, piece, count);
    }
    fclose(file);
    assert_int_equal(buf_text(&buf, &text), ERR_OK);
    char *copy = strdup(text);
    buf_done(&buf);
    return copy;
}

/* Runs `tern ARGUMENTS --store DIR` as another process; ARGUMENTS are words of the shell. */
static inline struct store_dir_fixture_ran
store_dir_fixture_run(const struct store_dir_fixture *fixture, const char *arguments) {
    struct store_dir_fixture_ran ran;
    char *command = NULL;
    char out[128];
    char error[128];
    snprintf(out, sizeof out, "%s/out.txt", fixture->ledger.store);
    snprintf(error, sizeof error, "%s/error.txt", fixture->ledger.store);
    assert_true(asprintf(&command, "'%s' %s --store '%s' >'%s' 2>'%s'", TERN_BINARY, arguments,
                         fixture->ledger.store, out, error) > 0);
    int status = system(command);
    assert_true(WIFEXITED(status));
    ran.code = WEXITSTATUS(status);
    ran.out = store_dir_fixture_slurp(out);
    ran.error = store_dir_fixture_slurp(error);
    free(command);
    return ran;
}

/* Runs it, which must succeed, and parses what it prints. The caller drops the result. */
static inline json_t *store_dir_fixture_json(const struct store_dir_fixture *fixture,
                                             const char *arguments) {
    struct store_dir_fixture_ran ran = store_dir_fixture_run(fixture, arguments);
    if (ran.code != 0) {
        fail_msg("tern %s: %d: %s", arguments, ran.code, ran.error);
    }
    json_error_t error;
    json_t *root = json_loads(ran.out, JSON_ALLOW_NUL, &error);
    if (root == NULL) {
        fail_msg("tern %s: %s in: %s", arguments, error.text, ran.out);
    }
    free(ran.out);
    free(ran.error);
    return root;
}

/* Runs it, which must fail with CODE and a message that holds PART, and print nothing else. */
static inline void store_dir_fixture_refused(const struct store_dir_fixture *fixture,
                                             const char *arguments, int code, const char *part) {
    struct store_dir_fixture_ran ran = store_dir_fixture_run(fixture, arguments);
    if (ran.code != code || strstr(ran.error, part) == NULL) {
        fail_msg("tern %s: %d, expected %d with '%s': %s", arguments, ran.code, code, part,
                 ran.error);
    }
    assert_string_equal(ran.out, "");
    free(ran.out);
    free(ran.error);
}

#endif
