#include "base/now.h"
#include "engine/model_digest.h"
#include "tests/gguf/gguf_builder.h"

#include <dirent.h>
#include <setjmp.h>
#include <sodium.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

enum { ENTRY_BYTES = 96, AT_DIGEST = 48, AT_CHECK = 80 };

/* A folder with a model file and a cache folder, and what the digest of the model must be. */
struct place {
    char folder[32];
    char model[64];
    char cache[64];
    uint8_t digest[MODEL_DIGEST_BYTES];
};

/* A clock far ahead: everything written lies long back. */
static uint64_t later_ms(void *context) {
    (void)context;
    struct timespec time;
    clock_gettime(CLOCK_REALTIME, &time);
    return (uint64_t)time.tv_sec * 1000 + 3600000;
}

static const struct now_clock later = {.wall_ms = later_ms};

static void write_file(const char *path, const void *bytes, size_t len) {
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, len, file), len);
    assert_int_equal(fclose(file), 0);
}

/* Another TAG, other bytes of the same number. */
static void write_model(struct place *place, uint32_t tag) {
    struct gguf_builder builder;
    gguf_builder_init(&builder);
    gguf_builder_sample(&builder);
    gguf_builder_u32(&builder, "tag", tag);
    size_t bytes;
    uint8_t *data = gguf_builder_file(&builder, &bytes);
    write_file(place->model, data, bytes);
    crypto_generichash(place->digest, sizeof place->digest, data, bytes, NULL, 0);
    free(data);
    gguf_builder_done(&builder);
}

static int make_place(void **state) {
    struct place *place = calloc(1, sizeof *place);
    assert_non_null(place);
    snprintf(place->folder, sizeof place->folder, "/tmp/test_digest_XXXXXX");
    assert_non_null(mkdtemp(place->folder));
    snprintf(place->model, sizeof place->model, "%s/model.gguf", place->folder);
    snprintf(place->cache, sizeof place->cache, "%s/cache", place->folder);
    assert_int_equal(mkdir(place->cache, 0700), 0);
    write_model(place, 1);
    now_set_clock(&later);
    *state = place;
    return 0;
}

/* Counts the entries of a folder and, if asked, removes them or gives the last one's path. */
static int visit(const char *folder, int is_removing, char *last, size_t last_bytes) {
    DIR *dir = opendir(folder);
    assert_non_null(dir);
    int count = 0;
    for (struct dirent *entry = readdir(dir); entry != NULL; entry = readdir(dir)) {
        char path[400];
        if (entry->d_name[0] == '.') {
            continue;
        }
        snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
        if (is_removing) {
            remove(path);
        }
        if (last != NULL) {
            snprintf(last, last_bytes, "%s", path);
        }
        count++;
    }
    closedir(dir);
    return count;
}

static int remove_place(void **state) {
    struct place *place = *state;
    now_set_clock(NULL);
    visit(place->cache, 1, NULL, 0);
    visit(place->folder, 1, NULL, 0);
    rmdir(place->folder);
    free(place);
    return 0;
}

static void get(const struct place *place, const char *cache_dir,
                uint8_t digest[MODEL_DIGEST_BYTES]) {
    struct gguf *file = NULL;
    assert_int_equal(gguf_open(place->model, &file), ERR_OK);
    assert_int_equal(model_digest_file(place->model, file, cache_dir, digest), ERR_OK);
    gguf_close(file);
}

static void assert_right(const struct place *place, const char *cache_dir) {
    uint8_t digest[MODEL_DIGEST_BYTES] = {0};
    get(place, cache_dir, digest);
    assert_memory_equal(digest, place->digest, sizeof digest);
}

/* Remembers the model and returns the path of its entry. */
static void remember(const struct place *place, char path[400]) {
    assert_right(place, place->cache);
    assert_int_equal(visit(place->cache, 0, path, 400), 1);
}

static void read_entry(const char *path, uint8_t entry[ENTRY_BYTES]) {
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    assert_int_equal(fread(entry, 1, ENTRY_BYTES, file), ENTRY_BYTES);
    assert_int_equal(fgetc(file), EOF);
    fclose(file);
}

/* With a digest that no hashing gives: whoever returns it has read the entry. */
static void forge(const char *path, uint8_t entry[ENTRY_BYTES]) {
    memset(entry + AT_DIGEST, 0xaa, MODEL_DIGEST_BYTES);
    crypto_generichash(entry + AT_CHECK, ENTRY_BYTES - AT_CHECK, entry, AT_CHECK, NULL, 0);
    write_file(path, entry, ENTRY_BYTES);
}

static void assert_forged(const struct place *place) {
    uint8_t digest[MODEL_DIGEST_BYTES] = {0};
    uint8_t forged[MODEL_DIGEST_BYTES];
    memset(forged, 0xaa, sizeof forged);
    get(place, place->cache, digest);
    assert_memory_equal(digest, forged, sizeof digest);
}

static void test_model_digest_hashes_without_a_cache(void **state) {
    struct place *place = *state;
    assert_right(place, NULL);
    assert_int_equal(visit(place->cache, 0, NULL, 0), 0);
}

static void test_model_digest_hashes_memory(void **state) {
    struct place *place = *state;
    struct gguf_builder builder;
    gguf_builder_init(&builder);
    size_t bytes;
    uint8_t *data = gguf_builder_file(&builder, &bytes);
    gguf_builder_done(&builder);
    struct gguf *file = NULL;
    assert_int_equal(gguf_parse(data, bytes, &file), ERR_OK);
    uint8_t expected[MODEL_DIGEST_BYTES];
    uint8_t digest[MODEL_DIGEST_BYTES] = {0};
    crypto_generichash(expected, sizeof expected, data, bytes, NULL, 0);
    assert_int_equal(model_digest_file("memory", file, place->cache, digest), ERR_OK);
    assert_memory_equal(digest, expected, sizeof digest);
    assert_int_equal(visit(place->cache, 0, NULL, 0), 0);
    gguf_close(file);
    free(data);
}

static void test_model_digest_remembers(void **state) {
    struct place *place = *state;
    char path[400];
    remember(place, path);
    struct stat status;
    assert_int_equal(stat(path, &status), 0);
    assert_int_equal(status.st_mode & 07777, 0600);
    uint8_t entry[ENTRY_BYTES];
    read_entry(path, entry);
    assert_memory_equal(entry, "TERNWDG1", 8);
    assert_memory_equal(entry + AT_DIGEST, place->digest, MODEL_DIGEST_BYTES);
    assert_right(place, place->cache);
    forge(path, entry);
    assert_forged(place);
}

static void test_model_digest_rehashes_a_changed_file(void **state) {
    struct place *place = *state;
    char path[400];
    uint8_t entry[ENTRY_BYTES];
    remember(place, path);
    read_entry(path, entry);
    forge(path, entry);
    struct stat before;
    struct stat after;
    assert_int_equal(stat(place->model, &before), 0);
    do { /* until the file system's clock has moved on */
        write_model(place, 2);
        assert_int_equal(stat(place->model, &after), 0);
    } while (memcmp(&before.st_ctim, &after.st_ctim, sizeof before.st_ctim) == 0);
    assert_int_equal(after.st_ino, before.st_ino);
    assert_int_equal(after.st_size, before.st_size);
    assert_right(place, place->cache);
    /* The entry now tells of the new state. */
    assert_int_equal(visit(place->cache, 0, NULL, 0), 1);
    read_entry(path, entry);
    assert_memory_equal(entry + AT_DIGEST, place->digest, MODEL_DIGEST_BYTES);
}

static void test_model_digest_rehashes_when_a_field_differs(void **state) {
    struct place *place = *state;
    char path[400];
    remember(place, path);
    for (size_t at = 0; at < AT_DIGEST; at += 8) {
        uint8_t entry[ENTRY_BYTES];
        read_entry(path, entry);
        entry[at]++;
        forge(path, entry);
        assert_right(place, place->cache); /* and mends the entry */
    }
}

static void test_model_digest_rejects_flipped_bits(void **state) {
    struct place *place = *state;
    char path[400];
    remember(place, path);
    for (size_t i = 0; i < ENTRY_BYTES; i += 7) { /* at least once in every field */
        uint8_t entry[ENTRY_BYTES];
        read_entry(path, entry);
        entry[i] ^= (uint8_t)(1U << (i % 8));
        write_file(path, entry, sizeof entry);
        assert_right(place, place->cache);
    }
}

static void test_model_digest_rejects_entries_of_odd_form(void **state) {
    struct place *place = *state;
    char path[400];
    char other[464];
    uint8_t entry[ENTRY_BYTES + 1] = {0};
    remember(place, path);
    read_entry(path, entry);
    forge(path, entry);
    assert_forged(place);
    assert_int_equal(chmod(path, 0620), 0); /* others could have written it */
    assert_right(place, place->cache);

    read_entry(path, entry);
    forge(path, entry);
    write_file(path, entry, ENTRY_BYTES + 1);
    assert_right(place, place->cache);
    write_file(path, entry, ENTRY_BYTES - 1);
    assert_right(place, place->cache);
    write_file(path, entry, 0);
    assert_right(place, place->cache);

    snprintf(other, sizeof other, "%s/other", place->folder);
    forge(other, entry);
    assert_int_equal(chmod(other, 0600), 0);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(symlink(other, path), 0);
    assert_right(place, place->cache);

    assert_int_equal(unlink(path), 0);
    assert_int_equal(mkfifo(path, 0600), 0);
    assert_right(place, place->cache);
}

/* A change within the same tick of the file system's clock could not be seen afterwards. */
static void test_model_digest_does_not_remember_fresh_files(void **state) {
    struct place *place = *state;
    now_set_clock(NULL);
    write_model(place, 3);
    assert_right(place, place->cache);
    assert_int_equal(visit(place->cache, 0, NULL, 0), 0);
}

static void test_model_digest_does_not_remember_what_changed_meanwhile(void **state) {
    struct place *place = *state;
    struct gguf *file = NULL;
    uint8_t digest[MODEL_DIGEST_BYTES] = {0};
    char moved[80];
    snprintf(moved, sizeof moved, "%s/moved", place->folder);
    assert_int_equal(gguf_open(place->model, &file), ERR_OK);
    assert_int_equal(rename(place->model, moved), 0);
    uint8_t old[MODEL_DIGEST_BYTES];
    memcpy(old, place->digest, sizeof old);
    write_model(place, 4);
    assert_int_equal(model_digest_file(place->model, file, place->cache, digest), ERR_OK);
    assert_memory_equal(digest, old, sizeof old); /* of the file that is mapped */
    assert_int_equal(visit(place->cache, 0, NULL, 0), 0);
    gguf_close(file);
}

static void test_model_digest_works_without_its_folder(void **state) {
    struct place *place = *state;
    assert_right(place, "/nonexistent/folder");
    assert_right(place, place->model);
}

static void test_model_digest_names_too_long_a_folder(void **state) {
    struct place *place = *state;
    char *name = calloc(1, 5000);
    assert_non_null(name);
    memset(name, 'd', 4999);
    struct gguf *file = NULL;
    uint8_t digest[MODEL_DIGEST_BYTES] = {7};
    assert_int_equal(gguf_open(place->model, &file), ERR_OK);
    assert_int_equal(model_digest_file(place->model, file, name, digest), ERR_INVALID);
    assert_int_equal(digest[0], 7);
    assert_non_null(strstr(err_message(), "dddd"));
    gguf_close(file);
    free(name);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_model_digest_hashes_without_a_cache, make_place,
                                        remove_place),
        cmocka_unit_test_setup_teardown(test_model_digest_hashes_memory, make_place, remove_place),
        cmocka_unit_test_setup_teardown(test_model_digest_remembers, make_place, remove_place),
        cmocka_unit_test_setup_teardown(test_model_digest_rehashes_a_changed_file, make_place,
                                        remove_place),
        cmocka_unit_test_setup_teardown(test_model_digest_rehashes_when_a_field_differs, make_place,
                                        remove_place),
        cmocka_unit_test_setup_teardown(test_model_digest_rejects_flipped_bits, make_place,
                                        remove_place),
        cmocka_unit_test_setup_teardown(test_model_digest_rejects_entries_of_odd_form, make_place,
                                        remove_place),
        cmocka_unit_test_setup_teardown(test_model_digest_does_not_remember_fresh_files, make_place,
                                        remove_place),
        cmocka_unit_test_setup_teardown(test_model_digest_does_not_remember_what_changed_meanwhile,
                                        make_place, remove_place),
        cmocka_unit_test_setup_teardown(test_model_digest_works_without_its_folder, make_place,
                                        remove_place),
        cmocka_unit_test_setup_teardown(test_model_digest_names_too_long_a_folder, make_place,
                                        remove_place),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
