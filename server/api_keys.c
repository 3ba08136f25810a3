#include "server/api_keys.h"

#include <errno.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { KEYS_MAX = 4096, LINE_MAX_BYTES = 1024, HASH_BYTES = 32 };

struct entry {
    uint8_t hash[HASH_BYTES];
    char *tenant;
};

struct api_keys {
    size_t count;
    struct entry entries[KEYS_MAX];
};

static void hash_key(const char *key, size_t len, uint8_t out[HASH_BYTES]) {
    crypto_generichash(out, HASH_BYTES, (const unsigned char *)key, len, NULL, 0);
}

/* One line, without its end. */
static enum err read_line(struct api_keys *keys, char *line, const char *path, int number) {
    static const char blanks[] = " \t\r\n";
    char *rest = NULL;
    char *key = strtok_r(line, blanks, &rest);
    if (key == NULL || key[0] == '#') {
        return ERR_OK;
    }
    char *tenant = strtok_r(NULL, blanks, &rest);
    if (tenant == NULL || strtok_r(NULL, blanks, &rest) != NULL) {
        return err_fail(ERR_FORMAT, "--api-keys %s: line %d: 'KEY TENANT' expected", path, number);
    }
    if (keys->count == KEYS_MAX) {
        return err_fail(ERR_FORMAT, "--api-keys %s: more than %d keys", path, KEYS_MAX);
    }
    struct entry *entry = &keys->entries[keys->count];
    hash_key(key, strlen(key), entry->hash);
    entry->tenant = strdup(tenant);
    if (entry->tenant == NULL) {
        return err_fail(ERR_NOMEM, "API keys");
    }
    keys->count++;
    return ERR_OK;
}

static enum err read_file(struct api_keys *keys, FILE *file, const char *path) {
    char line[LINE_MAX_BYTES];
    enum err code = ERR_OK;
    for (int number = 1; code == ERR_OK && fgets(line, sizeof line, file) != NULL; number++) {
        size_t len = strlen(line);
        if (len == sizeof line - 1 && line[len - 1] != '\n') {
            code = err_fail(ERR_FORMAT, "--api-keys %s: line %d is too long", path, number);
        } else {
            code = read_line(keys, line, path, number);
        }
    }
    if (code == ERR_OK && ferror(file)) {
        code = err_fail(ERR_IO, "--api-keys %s: %s", path, strerror(errno));
    }
    if (code == ERR_OK && keys->count == 0) {
        code = err_fail(ERR_FORMAT, "--api-keys %s: no key in it", path);
    }
    sodium_memzero(line, sizeof line);
    return code;
}

enum err api_keys_load(const char *path, struct api_keys **out) {
    FILE *file = fopen(path, "re");
    if (file == NULL) {
        return err_fail(ERR_IO, "--api-keys %s: %s", path, strerror(errno));
    }
    struct api_keys *keys = calloc(1, sizeof *keys);
    enum err code = keys == NULL ? err_fail(ERR_NOMEM, "API keys") : read_file(keys, file, path);
    fclose(file);
    if (code != ERR_OK) {
        api_keys_destroy(keys);
        return code;
    }
    *out = keys;
    return ERR_OK;
}

void api_keys_destroy(struct api_keys *keys) {
    if (keys == NULL) {
        return;
    }
    for (size_t i = 0; i < keys->count; i++) {
        free(keys->entries[i].tenant);
    }
    sodium_memzero(keys, sizeof *keys);
    free(keys);
}

const char *api_keys_tenant(const struct api_keys *keys, const char *authorization) {
    static const char scheme[] = "bearer ";
    if (authorization == NULL || strncasecmp(authorization, scheme, sizeof scheme - 1) != 0) {
        return NULL;
    }
    const char *key = authorization + sizeof scheme - 1;
    key += strspn(key, " ");
    uint8_t hash[HASH_BYTES];
    hash_key(key, strlen(key), hash);
    /* All are compared, whichever fits: the time tells nothing. */
    const char *tenant = NULL;
    for (size_t i = 0; i < keys->count; i++) {
        if (sodium_memcmp(hash, keys->entries[i].hash, sizeof hash) == 0) {
            tenant = keys->entries[i].tenant;
        }
    }
    return tenant;
}
