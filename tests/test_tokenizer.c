/* The whole tokenizer, on the vocabularies and cases of tests/data/tokenizers. */
#include "engine/tokenizer.h"

#include "engine/utf8.h"
#include "tests/gguf/vocabulary_image.h"

#include <jansson.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const char *const folders[] = {"gpt-2", "dbrx", "llama-bpe", "default"};

enum { FOLDERS = ARRAY_LEN(folders), CASES_MIN = 500, DETOK_MIN = 90 };

static struct tokenizer *tokenizers[FOLDERS];

static struct gguf *open_vocabulary(const char *folder) {
    char path[512];
    struct gguf *file;
    snprintf(path, sizeof path, "%s/tokenizers/%s/vocab.gguf", TERN_TEST_DATA, folder);
    assert_int_equal(gguf_open(path, &file), ERR_OK);
    return file;
}

static int set_up(void **state) {
    (void)state;
    for (size_t i = 0; i < FOLDERS; i++) {
        struct gguf *file = open_vocabulary(folders[i]);
        assert_int_equal(tokenizer_create(file, &tokenizers[i]), ERR_OK);
        gguf_close(file);
    }
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    for (size_t i = 0; i < FOLDERS; i++) {
        tokenizer_destroy(tokenizers[i]);
    }
    return 0;
}

/* Calls CHECK with every line of a folder's file; returns the number of lines. */
static int each_line(size_t folder, const char *name,
                     void (*check)(const struct tokenizer *tokenizer, const json_t *line)) {
    char path[512];
    snprintf(path, sizeof path, "%s/tokenizers/%s/%s", TERN_TEST_DATA, folders[folder], name);
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    char *text = NULL;
    size_t capacity = 0;
    ssize_t len;
    int lines = 0;
    while ((len = getline(&text, &capacity, file)) >= 0) {
        json_t *line = json_loadb(text, (size_t)len, JSON_ALLOW_NUL, NULL);
        assert_non_null(line);
        check(tokenizers[folder], line);
        json_decref(line);
        lines++;
    }
    free(text);
    fclose(file);
    return lines;
}

static void check_case(const struct tokenizer *tokenizer, const json_t *line) {
    const json_t *text = json_object_get(line, "text");
    const json_t *ids = json_object_get(line, "ids");
    struct token_list list = {0};
    struct tokenizer_encode_params params = {
        .text = json_string_value(text),
        .len = json_string_length(text),
        .parse_special = json_is_true(json_object_get(line, "parse_special")),
        .add_bos = 1,
    };
    assert_int_equal(tokenizer_encode(tokenizer, &params, &list), ERR_OK);
    int is_equal = list.count == json_array_size(ids);
    for (size_t i = 0; is_equal && i < list.count; i++) {
        is_equal = list.ids[i] == json_integer_value(json_array_get(ids, i));
    }
    if (!is_equal) {
        fail_msg("other ids for '%s'", params.text);
    }
    /* Without BOS: the same ids but for the first. */
    size_t bos = json_is_true(json_object_get(line, "add_bos"));
    size_t count = list.count;
    params.add_bos = 0;
    assert_int_equal(tokenizer_encode(tokenizer, &params, &list), ERR_OK);
    assert_int_equal(list.count, count + count - bos);
    assert_memory_equal(list.ids + bos, list.ids + count, (count - bos) * sizeof *list.ids);
    token_list_done(&list);
}

static void test_tokenizer_gives_the_ids_of_the_reference(void **state) {
    (void)state;
    for (size_t i = 0; i < FOLDERS; i++) {
        assert_true(each_line(i, "cases.jsonl", check_case) > CASES_MIN);
    }
}

static void check_detok(const struct tokenizer *tokenizer, const json_t *line) {
    const json_t *ids = json_object_get(line, "ids");
    const json_t *pieces = json_object_get(line, "pieces");
    const json_t *text = json_object_get(line, "text");
    int special = json_is_true(json_object_get(line, "special"));
    struct utf8_stream stream = {0};
    char *out = malloc(json_array_size(ids) * 512 + 64);
    size_t written = 0;
    assert_non_null(out);
    for (size_t i = 0; i < json_array_size(ids); i++) {
        const char *bytes;
        size_t len;
        int32_t id = (int32_t)json_integer_value(json_array_get(ids, i));
        const char *hex = json_string_value(json_array_get(pieces, i));
        assert_int_equal(tokenizer_piece(tokenizer, id, special, &bytes, &len), ERR_OK);
        assert_int_equal(len * 2, strlen(hex));
        assert_true(len < 128);
        for (size_t k = 0; k < len; k++) {
            char want[3];
            snprintf(want, sizeof want, "%02x", (unsigned)(uint8_t)bytes[k]);
            assert_memory_equal(hex + 2 * k, want, 2);
        }
        written += utf8_stream_push(&stream, bytes, len, out + written);
    }
    written += utf8_stream_finish(&stream, out + written);
    assert_int_equal(written, json_string_length(text));
    assert_memory_equal(out, json_string_value(text), written);
    free(out);
}

static void test_tokenizer_gives_the_text_of_the_reference(void **state) {
    (void)state;
    for (size_t i = 0; i < FOLDERS; i++) {
        assert_true(each_line(i, "detok.jsonl", check_detok) > DETOK_MIN);
    }
}

/* The pieces of TEXT's ids, special ones written out, are TEXT. */
static void check_round_trip(const struct tokenizer *tokenizer, const char *text, size_t len,
                             int parse_special) {
    struct token_list list = {0};
    struct tokenizer_encode_params params = {
        .text = text, .len = len, .parse_special = parse_special};
    assert_int_equal(tokenizer_encode(tokenizer, &params, &list), ERR_OK);
    size_t at = 0;
    for (size_t i = 0; i < list.count; i++) {
        const char *bytes;
        size_t piece;
        assert_int_equal(tokenizer_piece(tokenizer, list.ids[i], parse_special, &bytes, &piece),
                         ERR_OK);
        assert_true(piece > 0 && piece <= len - at);
        assert_memory_equal(text + at, bytes, piece);
        at += piece;
    }
    assert_int_equal(at, len);
    token_list_done(&list);
}

/* A character of a plane with much or little in it, as UTF-8. */
static size_t random_character(char out[4]) {
    static const uint32_t tops[] = {0x80, 0x80, 0x800, 0x3100, 0xd800, 0x110000};
    uint32_t point = (uint32_t)rand() % tops[(size_t)rand() % ARRAY_LEN(tops)];
    if (point >= 0xd800 && point <= 0xdfff) {
        point = 0x180e;
    }
    if (point < 0x80) {
        out[0] = (char)point;
        return 1;
    }
    size_t len = point < 0x800 ? 2 : point < 0x10000 ? 3 : 4;
    for (size_t i = len - 1; i > 0; i--) {
        out[i] = (char)(0x80 | (point & 0x3f));
        point >>= 6;
    }
    out[0] = (char)((0xf00u >> len & 0xffu) | point);
    return len;
}

/* Text of all sorts: bytes, characters, white space, words, special tokens and parts of them. */
static size_t random_text(char *out, size_t size) {
    static const char *const parts[] = {" ",
                                        "  ",
                                        "\r\n",
                                        "\t",
                                        "'s",
                                        "'LL",
                                        "'\xc5\xbf",
                                        "12345",
                                        "hello",
                                        " W\xc3\xb6rld",
                                        "<|bos|>",
                                        "<think>\n",
                                        "<sep>",
                                        "[PAD1]",
                                        "ENDTURN",
                                        "\xe1\xa0\x8e",
                                        "\xe3\x80\x80",
                                        "\xff\xfe",
                                        "\xe3\x83",
                                        "\xed\xa0\x80",
                                        ">>>>>>",
                                        "...",
                                        "\xc2\xa0",
                                        "<thin"};
    size_t len = 0;
    size_t wanted = (size_t)rand() % (size - 16);
    while (len < wanted) {
        switch (rand() % 3) {
        case 0:
            out[len++] = (char)rand();
            break;
        case 1:
            len += random_character(out + len);
            break;
        default: {
            const char *part = parts[(size_t)rand() % ARRAY_LEN(parts)];
            memcpy(out + len, part, strlen(part));
            len += strlen(part);
            break;
        }
        }
    }
    return len;
}

static void test_tokenizer_brings_every_byte_back(void **state) {
    (void)state;
    srand(1);
    for (int round = 0; round < 3000; round++) {
        char text[160];
        size_t len = random_text(text, sizeof text);
        for (size_t i = 0; i < FOLDERS; i++) {
            check_round_trip(tokenizers[i], text, len, round % 2);
        }
    }
}

static size_t whole_text(const char *bytes, size_t len, char *out) {
    struct utf8_stream stream = {0};
    size_t written = utf8_stream_push(&stream, bytes, len, out);
    return written + utf8_stream_finish(&stream, out + written);
}

static void test_tokenizer_streams_what_it_writes_at_once(void **state) {
    (void)state;
    srand(2);
    for (int round = 0; round < 1000; round++) {
        const struct tokenizer *tokenizer = tokenizers[(size_t)round % FOLDERS];
        char bytes[4096];
        char want[3 * sizeof bytes + 16];
        char got[3 * sizeof bytes + 16];
        size_t len = 0;
        size_t written = 0;
        struct utf8_stream stream = {0};
        for (int i = 0; i < 40; i++) {
            const char *piece;
            size_t piece_len;
            int32_t id = rand() % tokenizer_vocabulary(tokenizer);
            assert_int_equal(tokenizer_piece(tokenizer, id, 1, &piece, &piece_len), ERR_OK);
            assert_true(piece_len < 100);
            memcpy(bytes + len, piece, piece_len);
            len += piece_len;
            size_t added = utf8_stream_push(&stream, piece, piece_len, got + written);
            assert_int_equal(utf8_valid_prefix(got + written, added), added);
            written += added;
        }
        written += utf8_stream_finish(&stream, got + written);
        assert_int_equal(whole_text(bytes, len, want), written);
        assert_memory_equal(got, want, written);
    }
}

/* Long pieces: a merge or a pattern that is quadratic would run for minutes. */
static void test_tokenizer_takes_long_pieces(void **state) {
    (void)state;
    enum { LONG_BYTES = 1 << 18 };
    static const char *const units[] = {"a",    " ",   ".",  "7", "\n",   "the ", "\xe4\xb8\xad",
                                        "\xff", " \n", "'s", "<", "ab1! "};
    char *text = malloc(LONG_BYTES);
    assert_non_null(text);
    for (size_t k = 0; k < ARRAY_LEN(units); k++) {
        size_t unit = strlen(units[k]);
        for (size_t i = 0; i < LONG_BYTES; i++) {
            text[i] = units[k][i % unit];
        }
        check_round_trip(tokenizers[k % FOLDERS], text, LONG_BYTES, 1);
    }
    free(text);
}

static void test_tokenizer_cuts_around_invalid_bytes(void **state) {
    (void)state;
    const struct tokenizer *tokenizer = tokenizers[0];
    struct token_list whole = {0};
    struct token_list parts = {0};
    const char *const texts[] = {"hello \xff\xfe world", "hello ", "\xff\xfe", " world"};
    for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
        struct tokenizer_encode_params params = {.text = texts[i], .len = strlen(texts[i])};
        assert_int_equal(tokenizer_encode(tokenizer, &params, i == 0 ? &whole : &parts), ERR_OK);
    }
    assert_int_equal(whole.count, parts.count);
    assert_memory_equal(whole.ids, parts.ids, parts.count * sizeof *parts.ids);
    token_list_done(&whole);
    token_list_done(&parts);
}

static void test_tokenizer_refuses_text_beyond_its_limit(void **state) {
    (void)state;
    struct token_list list = {0};
    struct tokenizer_encode_params params = {.text = "", .len = (size_t)INT32_MAX + 1};
    assert_int_equal(tokenizer_encode(tokenizers[0], &params, &list), ERR_INVALID);
    assert_int_equal(list.count, 0);
    params = (struct tokenizer_encode_params){.text = NULL, .len = 0};
    assert_int_equal(tokenizer_encode(tokenizers[0], &params, &list), ERR_OK);
    assert_int_equal(list.count, 0);
    token_list_done(&list);
}

static void *encode_again_and_again(void *context) {
    struct token_list *list = context;
    char text[120];
    unsigned seed = 5;
    for (int round = 0; round < 200; round++) {
        for (size_t i = 0; i < sizeof text; i++) {
            text[i] = (char)(32 + rand_r(&seed) % 90);
        }
        struct tokenizer_encode_params params = {.text = text, .len = sizeof text};
        if (tokenizer_encode(tokenizers[(size_t)round % FOLDERS], &params, list) != ERR_OK) {
            return context;
        }
    }
    return NULL;
}

static void test_tokenizer_serves_many_threads(void **state) {
    (void)state;
    enum { THREADS = 4 };
    pthread_t threads[THREADS];
    struct token_list lists[THREADS] = {0};
    for (int i = 0; i < THREADS; i++) {
        assert_int_equal(pthread_create(&threads[i], NULL, encode_again_and_again, &lists[i]), 0);
    }
    for (int i = 0; i < THREADS; i++) {
        void *failed;
        assert_int_equal(pthread_join(threads[i], &failed), 0);
        assert_null(failed);
        assert_int_equal(lists[i].count, lists[0].count);
        assert_memory_equal(lists[i].ids, lists[0].ids, lists[0].count * sizeof *lists[0].ids);
    }
    for (int i = 0; i < THREADS; i++) {
        token_list_done(&lists[i]);
    }
}

/* What a change of the vocabulary or its flags does to the digest and to the ends. */

static void add_ends(struct gguf_builder *builder) {
    gguf_builder_u32(builder, "tokenizer.ggml.bos_token_id", 256);
    gguf_builder_u32(builder, "tokenizer.ggml.eos_token_id", 257);
    gguf_builder_u32(builder, "tokenizer.ggml.eot_token_id", 258);
    gguf_builder_u32(builder, "tokenizer.ggml.eom_token_id", 259);
}

static void add_ends_and_eos(struct gguf_builder *builder) {
    add_ends(builder);
    gguf_builder_bool(builder, "tokenizer.ggml.add_bos_token", 0);
    gguf_builder_bool(builder, "tokenizer.ggml.add_eos_token", 1);
}

static const struct vocabulary_image_token end_tokens[] = {{"<s>", 3},   {"</s>", 3}, {"<end>", 3},
                                                           {"<eom>", 3}, {"ab", 1},   {"bc", 1}};

static const char *const end_merges[] = {"a b", "b c"};

static struct vocabulary_image ends(void) {
    return (struct vocabulary_image){
        .model = "gpt2",
        .pre = "llama-bpe",
        .tokens = end_tokens,
        .token_count = ARRAY_LEN(end_tokens),
        .merges = end_merges,
        .merge_count = ARRAY_LEN(end_merges),
        .leaves_out_byte = -1,
        .add = add_ends,
    };
}

static void test_tokenizer_knows_where_generation_ends(void **state) {
    (void)state;
    struct vocabulary_image spec = ends();
    struct tokenizer *tokenizer;
    assert_int_equal(vocabulary_image_load(&spec, &tokenizer), ERR_OK);
    assert_int_equal(tokenizer_bos(tokenizer), 256);
    assert_int_equal(tokenizer_eos(tokenizer), 257);
    for (int32_t id = -1; id < tokenizer_vocabulary(tokenizer); id++) {
        assert_int_equal(tokenizer_ends_generation(tokenizer, id), id >= 257 && id <= 259);
    }
    tokenizer_destroy(tokenizer);
    spec.add = NULL;
    assert_int_equal(vocabulary_image_load(&spec, &tokenizer), ERR_OK);
    assert_int_equal(tokenizer_bos(tokenizer), -1);
    assert_int_equal(tokenizer_eos(tokenizer), -1);
    assert_false(tokenizer_ends_generation(tokenizer, -1));
    tokenizer_destroy(tokenizer);
}

static void expect_ids(const struct vocabulary_image *spec, const int32_t *ids, size_t count) {
    struct tokenizer *tokenizer;
    struct token_list list = {0};
    struct tokenizer_encode_params params = {.text = "x", .len = 1, .add_bos = 1};
    assert_int_equal(vocabulary_image_load(spec, &tokenizer), ERR_OK);
    assert_int_equal(tokenizer_encode(tokenizer, &params, &list), ERR_OK);
    assert_int_equal(list.count, count);
    assert_memory_equal(list.ids, ids, count * sizeof *ids);
    token_list_done(&list);
    tokenizer_destroy(tokenizer);
}

static void test_tokenizer_adds_bos_and_eos_as_the_file_says(void **state) {
    (void)state;
    struct vocabulary_image spec = ends();
    expect_ids(&spec, (const int32_t[]){256, 'x'}, 2); /* by the pre-tokenizer's name */
    spec.add = add_ends_and_eos;
    expect_ids(&spec, (const int32_t[]){'x', 257}, 2);
    spec.add = NULL; /* the name asks for BOS, but there is none */
    expect_ids(&spec, (const int32_t[]){'x'}, 1);
    spec.add = add_ends;
    spec.pre = "dbrx";
    expect_ids(&spec, (const int32_t[]){'x'}, 1);
}

static void digest_of(const struct vocabulary_image *spec, uint8_t out[32]) {
    struct tokenizer *tokenizer;
    assert_int_equal(vocabulary_image_load(spec, &tokenizer), ERR_OK);
    tokenizer_digest(tokenizer, out);
    tokenizer_destroy(tokenizer);
}

static void test_tokenizer_digest_changes_with_every_part(void **state) {
    (void)state;
    static const struct vocabulary_image_token other_text[] = {
        {"<s>", 3}, {"</s>", 3}, {"<end>", 3}, {"<eon>", 3}, {"ab", 1}, {"bc", 1}};
    static const struct vocabulary_image_token other_type[] = {
        {"<s>", 3}, {"</s>", 3}, {"<end>", 3}, {"<eom>", 4}, {"ab", 1}, {"bc", 1}};
    static const char *const other_merges[] = {"b c", "a b"};
    struct vocabulary_image specs[8];
    for (size_t i = 0; i < ARRAY_LEN(specs); i++) {
        specs[i] = ends();
    }
    specs[1].pre = "dbrx"; /* same pattern, other flags */
    specs[2].tokens = other_text;
    specs[3].tokens = other_type;
    specs[4].merges = other_merges;
    specs[5].merge_count = 1;
    specs[6].add = add_ends_and_eos;
    specs[7].add = NULL;
    uint8_t digests[ARRAY_LEN(specs)][32];
    for (size_t i = 0; i < ARRAY_LEN(specs); i++) {
        digest_of(&specs[i], digests[i]);
        for (size_t k = 0; k < i; k++) {
            assert_memory_not_equal(digests[i], digests[k], 32);
        }
    }
    uint8_t again[32];
    specs[0].pre = "lfm2"; /* another name of the same thing */
    digest_of(&specs[0], again);
    assert_memory_equal(again, digests[0], 32);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tokenizer_gives_the_ids_of_the_reference),
        cmocka_unit_test(test_tokenizer_gives_the_text_of_the_reference),
        cmocka_unit_test(test_tokenizer_brings_every_byte_back),
        cmocka_unit_test(test_tokenizer_streams_what_it_writes_at_once),
        cmocka_unit_test(test_tokenizer_takes_long_pieces),
        cmocka_unit_test(test_tokenizer_cuts_around_invalid_bytes),
        cmocka_unit_test(test_tokenizer_refuses_text_beyond_its_limit),
        cmocka_unit_test(test_tokenizer_serves_many_threads),
        cmocka_unit_test(test_tokenizer_knows_where_generation_ends),
        cmocka_unit_test(test_tokenizer_adds_bos_and_eos_as_the_file_says),
        cmocka_unit_test(test_tokenizer_digest_changes_with_every_part),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
