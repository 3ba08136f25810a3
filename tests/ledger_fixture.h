/*
 * A ledger in a folder of its own, and turns whose whole content follows from (conversation, turn),
 * so that what is read back can be checked without keeping it. For the tests of ledger/.
 */
#ifndef TERN_TESTS_LEDGER_FIXTURE_H
#define TERN_TESTS_LEDGER_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "ledger/ledger.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct ledger_fixture {
    char store[64];     /* a folder of its own, removed at the end */
    char directory[96]; /* of the ledger, inside it */
    struct secret secret;
    struct ledger_config config;
    struct ledger *ledger; /* NULL while closed */
};

enum { LEDGER_FIXTURE_TEXT_BYTES = 6000, LEDGER_FIXTURE_MAP_BYTES = 16 << 20 };

static inline void ledger_fixture_remove(const char *path) {
    DIR *directory = opendir(path);
    struct dirent *entry;
    while (directory != NULL && (entry = readdir(directory)) != NULL) {
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0) {
            char *name = NULL;
            assert_true(asprintf(&name, "%s/%s", path, entry->d_name) > 0);
            if (entry->d_type == DT_DIR) {
                ledger_fixture_remove(name);
            } else {
                unlink(name);
            }
            free(name);
        }
    }
    if (directory != NULL) {
        closedir(directory);
    }
    rmdir(path);
}

/* Makes a folder; in memory where that can be had, since no test here cuts the power. */
static inline void ledger_fixture_make_store(char path[64]) {
    snprintf(path, 64, "%s/tern-ledger-XXXXXX",
             access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
    assert_non_null(mkdtemp(path));
}

static inline void ledger_fixture_init(struct ledger_fixture *fixture) {
    *fixture = (struct ledger_fixture){.ledger = NULL};
    ledger_fixture_make_store(fixture->store);
    snprintf(fixture->directory, sizeof fixture->directory, "%s/ledger", fixture->store);
    assert_int_equal(secret_load(fixture->store, 1, &fixture->secret), ERR_OK);
    fixture->config = (struct ledger_config){
        .directory = fixture->directory,
        .secret = &fixture->secret,
        .map_bytes = LEDGER_FIXTURE_MAP_BYTES,
        .leases_max = 64,
        .queue_max = 256,
    };
}

static inline void ledger_fixture_done(struct ledger_fixture *fixture) {
    ledger_close(fixture->ledger);
    ledger_fixture_remove(fixture->store);
}

static inline void ledger_fixture_open(struct ledger_fixture *fixture) {
    enum err code = ledger_open(&fixture->config, &fixture->ledger);
    if (code != ERR_OK) {
        fail_msg("ledger_open: %s: %s", err_name(code), err_message());
    }
}

static inline void ledger_fixture_reopen(struct ledger_fixture *fixture) {
    ledger_close(fixture->ledger);
    fixture->ledger = NULL;
    ledger_fixture_open(fixture);
}

static inline struct conversation_key ledger_fixture_key(const struct ledger_fixture *fixture,
                                                         int name) {
    char id[32];
    struct conversation_key key;
    snprintf(id, sizeof id, "conversation-%d", name);
    struct conversation_identity identity = {
        .tenant = "acme", .tenant_bytes = 4, .id = id, .id_bytes = strlen(id)};
    assert_int_equal(conversation_key_make(&fixture->secret, &identity, &key), ERR_OK);
    return key;
}

/* One turn's request with all that it points to. */
struct ledger_fixture_turn {
    struct ledger_append request;
    struct turn_record turn;
    char id[32];
    int32_t prompt[40];
    int32_t generated[16];
    int32_t closing[2];
    uint8_t messages[LEDGER_FIXTURE_TEXT_BYTES];
    uint8_t response[64];
    char dialect[64];
};

enum { LEDGER_FIXTURE_TURN_TOKENS_MAX = 58 };

/* How many ids turn TURN of conversation NAME adds; differs from turn to turn. */
static inline size_t ledger_fixture_prompt_count(int name, uint32_t turn) {
    return 20 + (size_t)(name * 7 + (int)turn * 3) % 20;
}

static inline uint64_t ledger_fixture_length(int name, uint32_t turn) {
    uint64_t length = 0;
    for (uint32_t i = 1; i <= turn; i++) {
        length += ledger_fixture_prompt_count(name, i) + 16 + 2;
    }
    return length;
}

static inline void ledger_fixture_turn_init(struct ledger_fixture_turn *made,
                                            const struct ledger_fixture *fixture, int name,
                                            uint32_t turn, uint64_t generation) {
    memset(made, 0, sizeof *made);
    for (size_t i = 0; i < ARRAY_LEN(made->prompt); i++) {
        made->prompt[i] = (int32_t)(name * 100000 + (int)turn * 100 + (int)i);
    }
    for (size_t i = 0; i < ARRAY_LEN(made->generated); i++) {
        made->generated[i] = (int32_t)(name * 100000 + (int)turn * 100 + 50 + (int)i);
    }
    made->closing[0] = name;
    made->closing[1] = (int32_t)turn;
    for (size_t i = 0; i < sizeof made->messages; i++) {
        made->messages[i] = (uint8_t)((size_t)name * 31 + turn * 17 + i);
    }
    snprintf((char *)made->response, sizeof made->response, "answer %u of %d", turn, name);
    snprintf(made->id, sizeof made->id, "conversation-%d", name);
    snprintf(made->dialect, sizeof made->dialect, "{\"dialect\": %d}", name);
    size_t prompt_count = ledger_fixture_prompt_count(name, turn);
    uint64_t base = ledger_fixture_length(name, turn - 1);
    made->turn = (struct turn_record){
        .parent_turn = turn - 1,
        .base_tokens = base,
        .prompt_end_tokens = base + prompt_count - 3,
        .pending_tokens = 3,
        .finish = TURN_RECORD_FINISH_STOP,
        .started_ms = 1000 + turn,
        .prompt_ids = made->prompt,
        .prompt_count = prompt_count,
        .generated_ids = made->generated,
        .generated_count = ARRAY_LEN(made->generated),
        .closing_ids = made->closing,
        .closing_count = ARRAY_LEN(made->closing),
        .messages = made->messages,
        .messages_bytes = 100 + turn * 1300 % (LEDGER_FIXTURE_TEXT_BYTES - 100),
        .response = made->response,
        .response_bytes = sizeof made->response,
    };
    made->request = (struct ledger_append){
        .key = ledger_fixture_key(fixture, name),
        .generation = generation,
        .expected_turn = turn - 1,
        .turn = &made->turn,
        .flags = (uint32_t)name,
        .dialect = (const uint8_t *)made->dialect,
        .dialect_bytes = strlen(made->dialect),
        .identity = {.tenant = "acme", .tenant_bytes = 4, .id = made->id},
    };
    made->request.identity.id_bytes = strlen(made->id);
    memset(made->request.dialect_digest, name, TURN_RECORD_DIGEST_BYTES);
}

/* Takes the lease, appends turn TURN, gives the lease back. */
static inline enum err ledger_fixture_append(struct ledger_fixture *fixture, int name,
                                             uint32_t turn) {
    struct ledger_fixture_turn made;
    struct ledger_appended appended;
    uint64_t generation;
    struct conversation_key key = ledger_fixture_key(fixture, name);
    TRY(lease_take(ledger_leases(fixture->ledger), &key, &generation));
    ledger_fixture_turn_init(&made, fixture, name, turn, generation);
    enum err code = ledger_append(fixture->ledger, &made.request, &appended);
    lease_release(ledger_leases(fixture->ledger), &key, generation);
    return code;
}

/* The committed turn of a conversation, 0 if there is none. */
static inline uint32_t ledger_fixture_turns(struct ledger_fixture *fixture, int name) {
    struct conversation_key key = ledger_fixture_key(fixture, name);
    struct conversation_record conversation;
    enum err code = ledger_conversation_read(fixture->ledger, &key, &conversation);
    if (code == ERR_NOT_FOUND) {
        return 0;
    }
    assert_int_equal(code, ERR_OK);
    uint32_t turn = conversation.turn;
    turn_record_conversation_done(&conversation);
    return turn;
}

/* Checks that the conversation has exactly TURNS turns, every byte of each, and the line. */
static inline void ledger_fixture_check(struct ledger_fixture *fixture, int name, uint32_t turns) {
    struct conversation_key key = ledger_fixture_key(fixture, name);
    struct conversation_record conversation;
    struct ledger_fixture_turn *made = malloc(sizeof *made);
    assert_non_null(made);
    assert_int_equal(ledger_conversation_read(fixture->ledger, &key, &conversation), ERR_OK);
    assert_int_equal(conversation.turn, turns);
    assert_int_equal(conversation.chain.length_tokens, ledger_fixture_length(name, turns));
    assert_int_equal(conversation.pending_tokens, 3);
    int32_t *ids;
    size_t count;
    assert_int_equal(
        ledger_ids_read(fixture->ledger, &key, conversation.serial, turns, &ids, &count), ERR_OK);
    assert_int_equal(count, ledger_fixture_length(name, turns));
    uint8_t digest[TOKEN_CHAIN_DIGEST_BYTES];
    uint8_t running[TOKEN_CHAIN_DIGEST_BYTES];
    token_chain_digest_of(ids, count, digest);
    token_chain_digest(&conversation.chain, running);
    assert_memory_equal(digest, running, sizeof digest);
    for (uint32_t turn = 1; turn <= turns; turn++) {
        struct turn_record read;
        ledger_fixture_turn_init(made, fixture, name, turn, 0);
        assert_int_equal(ledger_turn_read(fixture->ledger, &key, conversation.serial, turn, &read),
                         ERR_OK);
        assert_int_equal(read.turn, turn);
        assert_int_equal(read.prompt_count, made->turn.prompt_count);
        assert_memory_equal(read.prompt_ids, made->prompt, 4 * read.prompt_count);
        assert_int_equal(read.generated_count, made->turn.generated_count);
        assert_memory_equal(read.generated_ids, made->generated, 4 * read.generated_count);
        assert_memory_equal(read.closing_ids, made->closing, sizeof made->closing);
        assert_int_equal(read.messages_bytes, made->turn.messages_bytes);
        assert_memory_equal(read.messages, made->messages, read.messages_bytes);
        assert_memory_equal(read.response, made->response, sizeof made->response);
        assert_int_equal(read.end_tokens, ledger_fixture_length(name, turn));
        token_chain_digest_of(ids, (size_t)read.end_tokens, digest);
        assert_memory_equal(read.chain_digest, digest, sizeof digest);
        token_chain_digest_of(ids, (size_t)(read.end_tokens - 3), digest);
        assert_memory_equal(read.head_digest, digest, sizeof digest);
        token_chain_digest_of(ids, (size_t)read.prompt_end_tokens, digest);
        assert_memory_equal(read.prompt_end_digest, digest, sizeof digest);
        assert_memory_equal(ids + read.base_tokens, made->prompt, 4 * read.prompt_count);
        turn_record_done(&read);
    }
    free(ids);
    free(made);
    turn_record_conversation_done(&conversation);
}

/* Appends that the fixture's content does not fit: a turn of its own, under a lease of its own. */
static inline enum err ledger_fixture_append_made(struct ledger_fixture *fixture,
                                                  struct ledger_fixture_turn *made,
                                                  struct ledger_appended *appended) {
    struct conversation_key key = made->request.key;
    TRY(lease_take(ledger_leases(fixture->ledger), &key, &made->request.generation));
    enum err code = ledger_append(fixture->ledger, &made->request, appended);
    lease_release(ledger_leases(fixture->ledger), &key, made->request.generation);
    return code;
}

static inline uint64_t ledger_fixture_serial(struct ledger_fixture *fixture, int name) {
    struct conversation_key key = ledger_fixture_key(fixture, name);
    struct conversation_record conversation;
    assert_int_equal(ledger_conversation_read(fixture->ledger, &key, &conversation), ERR_OK);
    uint64_t serial = conversation.serial;
    turn_record_conversation_done(&conversation);
    return serial;
}

/* Waits until the turns of all tombstones are gone; gives up after some seconds. */
static inline void ledger_fixture_wait_for_purge(struct ledger_fixture *fixture) {
    for (int tries = 0; tries < 5000; tries++) {
        struct ledger_record_tombstone tombstones[16];
        size_t count;
        size_t purged = 0;
        assert_int_equal(ledger_tombstones_list(fixture->ledger, 0, 16, tombstones, &count),
                         ERR_OK);
        for (size_t i = 0; i < count; i++) {
            purged += tombstones[i].turns_are_removed != 0;
        }
        if (purged == count) {
            return;
        }
        usleep(1000);
    }
    fail_msg("turns of a deleted conversation were not removed");
}

#endif
