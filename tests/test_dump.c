#include "tests/store_dir_fixture.h"

enum { NAME = 1, OTHER = 2, TURNS = 3 };

/* A safetensors file in memory. */
struct dumped {
    uint8_t *bytes;
    size_t len;
    json_t *header;
    const uint8_t *data;
};

static void read_dump(const struct store_dir_fixture *fixture, struct dumped *out) {
    char path[128];
    struct stat status;
    uint64_t header_bytes = 0;
    snprintf(path, sizeof path, "%s/head.safetensors", fixture->ledger.store);
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    assert_int_equal(fstat(fileno(file), &status), 0);
    assert_int_equal(status.st_mode & 0777, 0600);
    out->len = (size_t)status.st_size;
    out->bytes = malloc(out->len);
    assert_int_equal(fread(out->bytes, 1, out->len, file), out->len);
    fclose(file);
    for (int i = 7; i >= 0; i--) {
        header_bytes = header_bytes << 8 | out->bytes[i];
    }
    assert_int_equal(header_bytes % 8, 0);
    assert_true(header_bytes + 8 <= out->len);
    out->header = json_loadb((const char *)out->bytes + 8, header_bytes, 0, NULL);
    assert_non_null(out->header);
    out->data = out->bytes + 8 + header_bytes;
}

static void free_dump(struct dumped *dumped) {
    json_decref(dumped->header);
    free(dumped->bytes);
}

/* The bytes of a tensor, whose type and shape are checked. */
static const void *tensor_of(const struct dumped *dumped, const char *name, const char *dtype,
                             const uint64_t *dims, size_t dim_count) {
    const json_t *tensor = json_object_get(dumped->header, name);
    if (tensor == NULL) {
        fail_msg("no tensor %s", name);
    }
    const json_t *shape = json_object_get(tensor, "shape");
    const json_t *offsets = json_object_get(tensor, "data_offsets");
    uint64_t bytes = strcmp(dtype, "F16") == 0 ? 2 : 4;
    assert_string_equal(json_string_value(json_object_get(tensor, "dtype")), dtype);
    assert_int_equal(json_array_size(shape), dim_count);
    for (size_t i = 0; i < dim_count; i++) {
        assert_int_equal(json_integer_value(json_array_get(shape, i)), dims[i]);
        bytes *= dims[i];
    }
    uint64_t begin = (uint64_t)json_integer_value(json_array_get(offsets, 0));
    uint64_t end = (uint64_t)json_integer_value(json_array_get(offsets, 1));
    assert_int_equal(end - begin, bytes);
    assert_true(dumped->data + end <= dumped->bytes + dumped->len);
    return dumped->data + begin;
}

static void check_attention(const struct dumped *dumped, const struct layout *layout,
                            uint64_t length) {
    for (int i = 0; i < layout->kv_count; i++) {
        const struct layout_kv *kv = &layout->kv[i];
        for (int is_value = 0; is_value < 2; is_value++) {
            char name[64];
            int size = is_value ? kv->value_size : kv->key_size;
            snprintf(name, sizeof name, "blk.%d.attn.%s", kv->layer, is_value ? "value" : "key");
            const uint64_t dims[] = {length, (uint64_t)kv->kv_heads, (uint64_t)size};
            const uint8_t *at = tensor_of(dumped, name, "F16", dims, 3);
            for (uint64_t token = 0; token < length; token++) {
                for (int head = 0; head < kv->kv_heads; head++) {
                    for (int dim = 0; dim < size; dim++, at += 2) {
                        uint16_t value;
                        memcpy(&value, at, sizeof value);
                        assert_int_equal(
                            value, store_dir_fixture_kv(NAME, kv, is_value, head, dim, token));
                    }
                }
            }
        }
    }
}

static void check_state(const struct dumped *dumped, const struct layout *layout, uint32_t turn) {
    for (int i = 0; i < layout->state_count; i++) {
        const struct layout_state *state = &layout->states[i];
        int is_conv = strcmp(state->part, "conv") == 0;
        char name[64];
        const uint64_t dims[] = {(uint64_t)state->dims[0], (uint64_t)state->dims[1],
                                 (uint64_t)state->dims[2]};
        snprintf(name, sizeof name, "blk.%d.%s", state->layer, state->part);
        const uint8_t *at = tensor_of(dumped, name, "F32", dims + is_conv, (size_t)(3 - is_conv));
        for (size_t v = 0; v < state->bytes / 4; v++) {
            float value;
            memcpy(&value, at + 4 * v, sizeof value);
            assert_true(value == store_dir_fixture_state(NAME, turn, state->offset_bytes / 4 + v));
        }
    }
}

static const char *metadata(const struct dumped *dumped, const char *key) {
    const json_t *texts = json_object_get(dumped->header, "__metadata__");
    const char *value = json_string_value(json_object_get(texts, key));
    if (value == NULL) {
        fail_msg("no metadata '%s'", key);
    }
    return value;
}

static void check_metadata(const struct store_dir_fixture *fixture, const struct dumped *dumped,
                           uint32_t turn, uint64_t length) {
    struct conversation_key key = ledger_fixture_key(&fixture->ledger, NAME);
    uint64_t serial = ledger_fixture_serial((struct ledger_fixture *)&fixture->ledger, NAME);
    int32_t *ids;
    size_t count;
    assert_string_equal(metadata(dumped, "conversation_id"), "conversation-1");
    assert_string_equal(metadata(dumped, "numerics_class"), "host-1");
    assert_string_equal(metadata(dumped, "architecture"), "granitehybrid");
    assert_string_equal(metadata(dumped, "block_size"), "32");
    assert_string_equal(metadata(dumped, "kv_type"), "F16");
    assert_int_equal(strlen(metadata(dumped, "state_digest")), 64);
    assert_int_equal(strlen(metadata(dumped, "chain_digest")), 64);
    assert_int_equal(atoi(metadata(dumped, "turn")), turn);
    assert_int_equal(atoi(metadata(dumped, "length")), length);
    json_t *tokens = json_loads(metadata(dumped, "tokens"), 0, NULL);
    assert_int_equal(json_array_size(tokens), length);
    assert_int_equal(ledger_ids_read(fixture->ledger.ledger, &key, serial, turn, &ids, &count),
                     ERR_OK);
    for (size_t i = 0; i < length; i++) {
        assert_int_equal(json_integer_value(json_array_get(tokens, i)), ids[i]);
    }
    free(ids);
    json_decref(tokens);
}

static struct store_dir_fixture_ran dump(const struct store_dir_fixture *fixture,
                                         const char *options) {
    char arguments[512];
    snprintf(arguments, sizeof arguments,
             "dump --tenant acme --conversation conversation-1 --out '%s/head.safetensors' %s",
             fixture->ledger.store, options);
    return store_dir_fixture_run(fixture, arguments);
}

static void dump_well(const struct store_dir_fixture *fixture, const char *options) {
    struct store_dir_fixture_ran ran = dump(fixture, options);
    if (ran.code != 0) {
        fail_msg("tern dump %s: %s", options, ran.error);
    }
    free(ran.out);
    free(ran.error);
}

static int exists(const struct store_dir_fixture *fixture, const char *name) {
    char path[128];
    snprintf(path, sizeof path, "%s/%s", fixture->ledger.store, name);
    return access(path, F_OK) == 0;
}

/* Refused with PART in the message, and no file is there. */
static void dump_refused(const struct store_dir_fixture *fixture, const char *options,
                         const char *part) {
    struct store_dir_fixture_ran ran = dump(fixture, options);
    if (ran.code != 1 || strstr(ran.error, part) == NULL) {
        fail_msg("tern dump %s: %d, expected 1 with '%s': %s", options, ran.code, part, ran.error);
    }
    assert_string_equal(ran.out, "");
    assert_false(exists(fixture, "head.safetensors"));
    assert_false(exists(fixture, "head.safetensors.part"));
    free(ran.out);
    free(ran.error);
}

static void make_store(struct store_dir_fixture *fixture) {
    store_dir_fixture_init(fixture);
    for (uint32_t turn = 1; turn <= TURNS; turn++) {
        assert_int_equal(ledger_fixture_append(&fixture->ledger, NAME, turn), ERR_OK);
    }
    store_dir_fixture_spill(fixture, NAME, 2, 1);
    store_dir_fixture_spill(fixture, NAME, 3, 1);
}

static void check_dump(const struct store_dir_fixture *fixture, uint32_t turn) {
    uint64_t length = ledger_fixture_length(NAME, turn) - 3;
    struct dumped dumped;
    read_dump(fixture, &dumped);
    assert_int_equal(json_object_size(dumped.header),
                     1 + 2 * fixture->layout.kv_count + fixture->layout.state_count);
    check_attention(&dumped, &fixture->layout, length);
    check_state(&dumped, &fixture->layout, turn);
    check_metadata(fixture, &dumped, turn, length);
    free_dump(&dumped);
}

static void test_dump_holds_every_value_of_the_newest_head(void **state) {
    (void)state;
    struct store_dir_fixture fixture;
    make_store(&fixture);
    assert_int_not_equal((ledger_fixture_length(NAME, 3) - 3) % 32, 0); /* there is a tail */
    dump_well(&fixture, "");
    check_dump(&fixture, 3);
    assert_false(exists(&fixture, "head.safetensors.part"));
    store_dir_fixture_done(&fixture);
}

static void test_dump_takes_the_turn_that_was_asked_for(void **state) {
    (void)state;
    struct store_dir_fixture fixture;
    make_store(&fixture);
    dump_well(&fixture, "--turn 2");
    check_dump(&fixture, 2);
    dump_well(&fixture, "--turn 3 --model demo"); /* in place of the file that is there */
    check_dump(&fixture, 3);
    store_dir_fixture_done(&fixture);
}

static void test_dump_refuses_heads_that_are_not_there(void **state) {
    (void)state;
    struct store_dir_fixture fixture;
    make_store(&fixture);
    dump_refused(&fixture, "--turn 1", "turn-end head of turn 1");
    dump_refused(&fixture, "--conversation nobody", "no conversation 'nobody'");
    assert_int_equal(ledger_fixture_append(&fixture.ledger, OTHER, 1), ERR_OK);
    dump_refused(&fixture, "--conversation conversation-2", "no turn-end head");
    store_dir_fixture_done(&fixture);
}

static void test_dump_refuses_another_model(void **state) {
    (void)state;
    struct store_dir_fixture fixture;
    make_store(&fixture);
    dump_refused(&fixture,
                 "--model '" TERN_TEST_DATA "/reference/granitehybrid-dense/model-f32.gguf'",
                 "another --model is needed");
    store_dir_fixture_done(&fixture);
}

/* A head whose tokens are not those of the ledger is none of this conversation's. */
static void test_dump_refuses_a_head_that_the_ledger_does_not_know(void **state) {
    (void)state;
    struct store_dir_fixture fixture;
    struct ledger_fixture_turn made;
    struct ledger_appended appended;
    make_store(&fixture);
    store_dir_fixture_close(&fixture);
    /* The same conversation again in a ledger that was begun anew, with another turn 3. */
    ledger_fixture_remove(fixture.ledger.directory);
    store_dir_fixture_open(&fixture);
    for (uint32_t turn = 1; turn <= 2; turn++) {
        assert_int_equal(ledger_fixture_append(&fixture.ledger, NAME, turn), ERR_OK);
    }
    dump_refused(&fixture, "", "the head is of turn 3, the ledger ends with 2");
    ledger_fixture_turn_init(&made, &fixture.ledger, NAME, 3, 0);
    made.prompt[0]++;
    assert_int_equal(ledger_fixture_append_made(&fixture.ledger, &made, &appended), ERR_OK);
    dump_refused(&fixture, "", "chain digest");
    store_dir_fixture_done(&fixture);
}

/* One bit of one byte of the data file, wherever it hits an object of the head. */
static void test_dump_refuses_a_damaged_object(void **state) {
    (void)state;
    struct store_dir_fixture fixture;
    char path[128];
    uint8_t page[4096];
    make_store(&fixture);
    store_dir_fixture_close(&fixture);
    snprintf(path, sizeof path, "%s/state/data.mdb", fixture.ledger.store);
    FILE *file = fopen(path, "r+b");
    assert_non_null(file);
    size_t damaged = 0;
    for (long at = 0; fread(page, 1, sizeof page, file) == sizeof page; at += 4096) {
        /* The first page of a run of 16 or 4 pages: its header, then the coded object's. */
        if (memcmp(page + 16, "TNOB", 4) == 0) {
            page[2000] ^= 1;
            assert_int_equal(fseek(file, at, SEEK_SET), 0);
            assert_int_equal(fwrite(page, 1, sizeof page, file), sizeof page);
            assert_int_equal(fseek(file, at + 4096, SEEK_SET), 0);
            damaged++;
        }
    }
    fclose(file);
    assert_true(damaged > 0);
    store_dir_fixture_open(&fixture);
    dump_refused(&fixture, "", "checksum");
    store_dir_fixture_done(&fixture);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_dump_holds_every_value_of_the_newest_head),
        cmocka_unit_test(test_dump_takes_the_turn_that_was_asked_for),
        cmocka_unit_test(test_dump_refuses_heads_that_are_not_there),
        cmocka_unit_test(test_dump_refuses_another_model),
        cmocka_unit_test(test_dump_refuses_a_head_that_the_ledger_does_not_know),
        cmocka_unit_test(test_dump_refuses_a_damaged_object),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
