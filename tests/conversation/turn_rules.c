/*
 * What a turn may do to its conversation and what it may not: leases, expected
 * turns, cancelling, deleting, restarts, names; and that every way to go on with a
 * conversation gives the logits of the same ids run from nothing.
 *
 *   turn_rules MODEL [--every N]    N > 1: only every Nth length
 */
#include "engine/engine.h"
#include "ledger/state_key.h"
#include "store/store_state.h"
#include "tests/conversation/talk.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int passed, failed;

static void expect(int is_good, const char *where, const char *what) {
    passed += is_good;
    failed += !is_good;
    if (!is_good) {
        printf("FAIL %s: %s\n", where, what);
    }
}

static void expect_ok(const struct talk_answer *answer, const char *where) {
    expect(!answer->is_failed, where, answer->is_failed ? answer->text : "");
}

static void expect_refused(const struct talk_answer *answer, int status, const char *code,
                           const char *where) {
    char what[256];
    snprintf(what, sizeof what, "%d %s instead of %d %s",
             answer->is_failed ? answer->http_status : 200, answer->code, status, code);
    expect(answer->is_failed && answer->http_status == status && strcmp(answer->code, code) == 0,
           where, what);
}

static void expect_same(const struct talk_answer *left, const struct talk_answer *right,
                        const char *where) {
    expect(!left->is_failed && !right->is_failed &&
               memcmp(left->result.logits_digest, right->result.logits_digest, 32) == 0,
           where, "other logits");
}

static struct talk_answer say(struct stack *stack, const char *id, const char *text) {
    struct talk_request request = talk_default(id, text);
    return talk_run(stack, &request);
}

/* WORDS words; others for another SALT. */
static void words_of(int words, int salt, size_t room, char *out) {
    static const char *const some[] = {"tea", "Oslo", "cello", "red", "name", "code", "live", "my"};
    size_t used = 0;
    out[0] = '\0';
    for (int i = 0; i < words && used + 16 < room; i++) {
        used += (size_t)snprintf(out + used, room - used, "%s%s", i > 0 ? " " : "",
                                 some[(i * 5 + salt) % 8]);
    }
}

/* --- looking inside -----------------------------------------------------------------------------
 */

static struct conversation_key key_of(struct stack *stack, const char *id) {
    struct conversation_key key = {{0}};
    struct conversation_identity identity = {
        .tenant = "", .salt = "", .id = id, .id_bytes = strlen(id)};
    if (conversation_key_make(&stack->secret, &identity, &key) != ERR_OK) {
        abort();
    }
    return key;
}

/* The committed turn; 0: there is no such conversation. *serial names it. */
static uint32_t committed_turn(struct stack *stack, const char *id, uint64_t *serial) {
    struct conversation_key key = key_of(stack, id);
    struct conversation_record record;
    if (ledger_conversation_read(stack->ledger, &key, &record) != ERR_OK) {
        return 0;
    }
    uint32_t turn = record.turn;
    *serial = record.serial;
    turn_record_conversation_done(&record);
    return turn;
}

static void state_key_of(struct stack *stack, const char *id, uint8_t out[STORE_KEY_BYTES]) {
    struct conversation_key key = key_of(stack, id);
    uint64_t serial = 0;
    if (committed_turn(stack, id, &serial) == 0) {
        abort();
    }
    state_key_make(&key, serial, out);
}

/* Every head of the conversation goes, from every tier. */
static void lose_state(struct stack *stack, const char *id) {
    uint8_t key[STORE_KEY_BYTES];
    state_key_of(stack, id, key);
    if (store_drain(stack->store, 10000) != ERR_OK || store_delete(stack->store, key) != ERR_OK) {
        abort();
    }
}

/* The head behind the answer goes, the one in front of it stays. */
static void lose_turn_end(struct stack *stack, const char *id) {
    uint8_t key[STORE_KEY_BYTES];
    struct store *store = stack->store;
    struct store_head *doomed = NULL;
    state_key_of(stack, id, key);
    if (store_drain(store, 10000) != ERR_OK) {
        abort();
    }
    pthread_mutex_lock(&store->lock);
    struct store_head *head = head_index_first(&store->index, key);
    while (head != NULL) {
        struct store_head *next = head_index_next(head);
        if (head->kind == STORE_KIND_TURN_END) {
            store_state_unlink(store, head, &doomed);
        }
        head = next;
    }
    pthread_mutex_unlock(&store->lock);
    store_state_bury(store, doomed);
    if (tier_disk_remove_conversation(store->disk, key) != ERR_OK) {
        abort();
    }
}

static void push_to_host(struct stack *stack) {
    struct pool_usage usage;
    if (store_drain(stack->store, 10000) != ERR_OK) {
        abort();
    }
    pool_get_usage(stack->pool, &usage);
    for (int i = 0; i < 1000 && !store_reclaim(stack->store, usage.blocks, usage.slots); i++) {
        usleep(1000);
    }
}

/* With no turn under way and every head gone, nothing holds a block, a slot or a lease. */
static void expect_nothing_held(struct stack *stack, const char *where) {
    struct pool_usage usage;
    for (int i = 0; i < 2000 && turn_service_active(stack->turns) > 0; i++) {
        usleep(1000);
    }
    push_to_host(stack);
    pool_get_usage(stack->pool, &usage);
    expect(usage.blocks == usage.blocks_free && usage.slots == usage.slots_free, where,
           "blocks or slots are held");
    expect(lease_count(ledger_leases(stack->ledger)) == 0, where, "a lease is held");
}

/* --- leases and turn numbers -------------------------------------------------------------------
 */

static void check_busy(struct stack *stack) {
    struct talk_request request = talk_default("busy", "hello");
    request.max_tokens = 200;
    struct talk *talk = talk_begin(stack, &request);
    talk_wait_text(talk);
    struct talk_answer second = say(stack, "busy", "hello");
    expect_refused(&second, 409, "conversation_busy", "a second request");
    struct talk_answer first = talk_end(talk);
    expect_ok(&first, "the first request");
    struct talk_answer third = say(stack, "busy", "hello");
    expect_ok(&third, "a request after the first");
    expect(third.result.turn == 2, "a request after the first", "is not turn 2");
}

static void check_expected_turn(struct stack *stack) {
    uint64_t serial = 0;
    struct talk_request request = talk_default("expected", "hello");
    request.expected_turn = 1;
    struct talk_answer answer = talk_run(stack, &request);
    expect_refused(&answer, 404, "conversation_not_found", "turn 1 expected of nothing");
    expect(committed_turn(stack, "expected", &serial) == 0, "turn 1 expected of nothing",
           "the conversation was created");
    request.expected_turn = 0;
    answer = talk_run(stack, &request);
    expect_ok(&answer, "turn 0 expected of nothing");
    answer = talk_run(stack, &request); /* what a client sends again that saw no answer */
    expect_refused(&answer, 409, "conversation_turn_conflict", "turn 0 expected at turn 1");
    request.expected_turn = 2;
    answer = talk_run(stack, &request);
    expect_refused(&answer, 409, "conversation_turn_conflict", "turn 2 expected at turn 1");
    expect(committed_turn(stack, "expected", &serial) == 1, "expected turns", "not at turn 1");
    request.expected_turn = 1;
    answer = talk_run(stack, &request);
    expect_ok(&answer, "turn 1 expected at turn 1");
    expect(answer.result.turn == 2 && !answer.result.is_created, "turn 1 expected at turn 1",
           "is not turn 2");
}

static void check_require_cache(struct stack *stack) {
    uint64_t serial = 0;
    struct talk_request request = talk_default("required", "hello");
    request.requires_cache = 1;
    struct talk_answer answer = talk_run(stack, &request);
    expect_refused(&answer, 404, "conversation_not_found", "state required of nothing");
    expect(committed_turn(stack, "required", &serial) == 0, "state required of nothing",
           "the conversation was created");
    answer = say(stack, "required", "hello");
    expect(!answer.is_failed && answer.result.is_created, "a new conversation", "not said");
    answer = talk_run(stack, &request);
    expect_ok(&answer, "state required and there");
    lose_state(stack, "required");
    answer = talk_run(stack, &request);
    expect_refused(&answer, 409, "conversation_state_missing", "state required and gone");
    answer = say(stack, "required", "hello");
    expect_ok(&answer, "state gone");
    expect(answer.result.is_rebuilt && answer.result.reason != NULL &&
               answer.result.tokens_reused == 0 && answer.result.turn == 3,
           "state gone", "it is not said that the turn was rebuilt");
    expect_nothing_held(stack, "state required");
}

/* --- what is true when the client is told -------------------------------------------------------
 */

struct at_finish {
    struct stack *stack;
    const char *id;
    uint32_t turn;
    int leases;
    int is_durable;
    int is_found;
};

static void look(void *context) {
    struct at_finish *at = context;
    struct stack *stack = at->stack;
    struct conversation_key key = key_of(stack, at->id);
    uint64_t serial = 0;
    at->leases = (int)lease_count(ledger_leases(stack->ledger));
    at->is_durable = committed_turn(stack, at->id, &serial) == at->turn;
    struct turn_record record;
    if (!at->is_durable ||
        ledger_turn_read(stack->ledger, &key, serial, at->turn, &record) != ERR_OK) {
        return;
    }
    struct store_candidate candidate = {
        .kind = STORE_KIND_TURN_END,
        .turn = record.turn,
        .length = (int)(record.end_tokens - record.pending_tokens),
    };
    memcpy(candidate.chain_digest, record.head_digest, sizeof candidate.chain_digest);
    turn_record_done(&record);
    struct store_want want = {.candidates = &candidate, .candidate_count = 1};
    struct store_found found;
    state_key_make(&key, serial, want.key);
    store_find(stack->store, &want, &found);
    at->is_found = found.head != NULL;
    store_head_release(found.head);
}

static void check_finish(struct stack *stack) {
    for (uint32_t turn = 1; turn <= 4; turn++) {
        struct at_finish at = {.stack = stack, .id = "finish", .turn = turn};
        struct talk_request request = talk_default("finish", "hello");
        request.waits_for_state = turn > 2;
        request.at_finish = look;
        request.context = &at;
        struct talk_answer answer = talk_run(stack, &request);
        expect_ok(&answer, "told at the end");
        expect(at.leases == 0, "told at the end", "the lease is still held");
        expect(at.is_durable, "told at the end", "the turn is not in the ledger");
        expect(at.is_found, "told at the end", "the head is not published");
        expect(answer.result.is_durable == (turn > 2), "told at the end", "durable state");
    }
}

/* The immediate follow-up is neither refused nor rebuilt. */
static void check_follow_ups(struct stack *stack) {
    for (int conversation = 0; conversation < 10; conversation++) {
        char id[32];
        int length = 0;
        snprintf(id, sizeof id, "follow-%d", conversation);
        for (int turn = 1; turn <= 20; turn++) {
            struct talk_request request = talk_default(id, "go on");
            request.max_tokens = 1 + turn % 3;
            struct talk_answer answer = talk_run(stack, &request);
            expect_ok(&answer, "a follow-up");
            expect(answer.result.turn == (uint64_t)turn, "a follow-up", "wrong turn");
            expect(answer.result.tokens_reused == length && !answer.result.is_rebuilt,
                   "a follow-up", "was not taken from the head in front of it");
            length = answer.result.prompt_tokens + answer.result.completion_tokens - 1;
        }
    }
}

/* --- cancelling --------------------------------------------------------------------------------
 */

enum stage { STAGE_AT_ONCE, STAGE_STARTED, STAGE_DECODING, STAGE_COUNT };

static void check_cancel(struct stack *stack) {
    uint64_t serial = 0;
    char text[2048];
    struct talk_answer want = say(stack, "cancel-plain", "hello");
    want = say(stack, "cancel-plain", "and now?");
    struct talk_answer answer = say(stack, "cancel", "hello");
    words_of(300, 2, sizeof text, text);
    for (int stage = 0; stage < STAGE_COUNT; stage++) {
        struct talk_request request = talk_default("cancel", text);
        request.max_tokens = 300;
        struct talk *talk = talk_begin(stack, &request);
        if (stage == STAGE_STARTED) {
            talk_wait_started(talk);
        } else if (stage == STAGE_DECODING) {
            talk_wait_text(talk);
        }
        talk_cancel(talk);
        answer = talk_end(talk);
        expect(answer.is_failed, "a cancelled turn", "was finished");
        expect(committed_turn(stack, "cancel", &serial) == 1, "a cancelled turn", "was committed");
        expect(lease_count(ledger_leases(stack->ledger)) == 0, "a cancelled turn",
               "holds its lease");
    }
    answer = say(stack, "cancel", "and now?");
    expect_same(&answer, &want, "the turn after cancelled ones");
    expect(strcmp(answer.result.tier, "device") == 0, "the turn after cancelled ones",
           "was not taken from the head on the device");
    expect_nothing_held(stack, "a cancelled turn");
}

/* --- names -------------------------------------------------------------------------------------
 */

static void check_names(struct stack *stack) {
    static const struct {
        const char *tenant, *salt, *id;
    } names[] = {{"", "", "abc"},    {"", "a", "bc"},    {"", "ab", "c"},  {"a", "", "bc"},
                 {"ab", "", "c"},    {"a", "b", "c"},    {"b", "a", "c"},  {"c", "b", "a"},
                 {"", "abc", "abc"}, {"abc", "", "abc"}, {"", "", "abc "}, {"", "", "ABC"}};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        struct talk_request request = talk_default(names[i].id, "my name is the same in all");
        request.tenant = names[i].tenant;
        request.salt = names[i].salt;
        struct talk_answer answer = talk_run(stack, &request);
        expect(!answer.is_failed && answer.result.is_created && answer.result.turn == 1,
               "another name", "is another conversation");
        expect(answer.result.tokens_reused == 0 && strcmp(answer.result.tier, "none") == 0,
               "the same text under another name", "took state that is not its own");
    }
}

static void check_delete(struct stack *stack) {
    struct turn_delete_result result = {0};
    struct turn_failure failure;
    struct store_counters before, after;
    store_get_counters(stack->store, &before);
    struct talk_answer first = say(stack, "deleted", "hello");
    struct talk_answer second = say(stack, "deleted", "and now?");
    uint8_t key[STORE_KEY_BYTES];
    state_key_of(stack, "deleted", key);
    expect(turn_delete_conversation(stack->turns, "", "", "deleted", &result, &failure) == ERR_OK &&
               result.was_found,
           "delete", "did not find it");
    pthread_mutex_lock(&stack->store->lock);
    int is_left = head_index_first(&stack->store->index, key) != NULL;
    pthread_mutex_unlock(&stack->store->lock);
    struct record_head_key record_key = {.kind = RECORD_TURN_END, .turn = 2};
    struct record_head record;
    memcpy(record_key.conversation, key, sizeof record_key.conversation);
    memcpy(record_key.state_digest, stack->store->config.state_digest,
           sizeof record_key.state_digest);
    is_left |= tier_disk_lookup(stack->store->disk, &record_key, &record) != TIER_DISK_UNKNOWN;
    expect(!is_left, "delete", "left a head behind");
    struct talk_answer again = say(stack, "deleted", "hello");
    expect(!again.is_failed && again.result.is_created && again.result.turn == 1, "after delete",
           "not a new conversation");
    expect(again.result.tokens_reused == 0, "after delete", "took the deleted one's state");
    expect_same(&again, &first, "after delete");
    again = say(stack, "deleted", "and now?");
    expect_same(&again, &second, "after delete, turn 2");
    result.was_found = 1;
    expect(turn_delete_conversation(stack->turns, "", "", "nobody", &result, &failure) == ERR_OK &&
               !result.was_found,
           "delete of nothing", "found it");
    store_get_counters(stack->store, &after);
}

/* --- the same logits as from nothing -------------------------------------------------------------
 */

/* Turn 2 from the head, from the head in front of the answer, and from nothing. */
static void check_cold(struct stack *stack, int words) {
    char text[2048], ids[4][32];
    static const char *const kinds[] = {"device", "host", "prompt", "cold"};
    struct talk_answer answers[4];
    words_of(words, 1, sizeof text, text);
    for (int i = 0; i < 4; i++) {
        snprintf(ids[i], sizeof ids[i], "%s-%d", kinds[i], words);
        struct talk_answer first = say(stack, ids[i], text);
        int head = first.result.prompt_tokens + first.result.completion_tokens - 1;
        expect_ok(&first, kinds[i]);
        if (i == 1) {
            push_to_host(stack);
        } else if (i == 2) {
            lose_turn_end(stack, ids[i]);
        } else if (i == 3) {
            lose_state(stack, ids[i]);
        }
        answers[i] = say(stack, ids[i], "and now?");
        const struct turn_result *result = &answers[i].result;
        expect_ok(&answers[i], kinds[i]);
        expect(result->is_rebuilt == (i > 1), kinds[i], "rebuilt or not");
        expect((result->reason != NULL) == (i > 1), kinds[i], "a reason or none");
        expect(i > 1 || result->tokens_reused == head, kinds[i], "not the whole head was reused");
        expect(i != 2 || (result->tokens_reused > 0 && result->tokens_reused < head), kinds[i],
               "not the head in front of the answer was reused");
        expect(i != 3 || result->tokens_reused == 0, kinds[i], "something was reused");
        expect(result->tokens_run + result->tokens_reused ==
                   result->prompt_tokens + result->completion_tokens - 1,
               kinds[i], "tokens run and reused are not those of the line");
    }
    for (int i = 0; i < 3; i++) {
        expect_same(&answers[i], &answers[3], kinds[i]);
    }
}

/* The ids that the ledger keeps are those that were sampled: random ones are no tokenizer's. */
static void check_ids(struct stack *stack) {
    struct conversation_key key = key_of(stack, "ids");
    uint64_t serial = 0;
    int32_t *before = NULL, *after = NULL;
    size_t before_count = 0, after_count = 0;
    struct talk_request request = talk_default("ids", "hello");
    request.temperature = 5.0f;
    request.seed = 7;
    request.max_tokens = 60;
    struct talk_answer first = talk_run(stack, &request);
    expect_ok(&first, "random ids");
    (void)committed_turn(stack, "ids", &serial);
    expect(ledger_ids_read(stack->ledger, &key, serial, 1, &before, &before_count) == ERR_OK,
           "random ids", "cannot be read");
    expect((int)before_count == first.result.prompt_tokens + first.result.completion_tokens,
           "random ids", "are not as many as were sampled");
    struct talk_answer second = say(stack, "ids", "and now?");
    expect_ok(&second, "after random ids");
    expect(!second.result.is_rebuilt && second.result.tokens_reused == (int)before_count - 1,
           "after random ids", "the head was not taken");
    expect(ledger_ids_read(stack->ledger, &key, serial, 2, &after, &after_count) == ERR_OK &&
               after_count > before_count &&
               memcmp(before, after, before_count * sizeof *before) == 0,
           "after random ids", "history has changed");
    free(before);
    free(after);
    lose_state(stack, "ids");
    struct talk_answer third = say(stack, "ids", "still?");
    expect_ok(&third, "random ids from nothing");
}

/* A line of two turns is what the template and the tokenizer make of its messages as a whole. */
static void check_line(struct stack *stack) {
    struct conversation_key key = key_of(stack, "line");
    uint64_t serial = 0;
    int32_t *ids = NULL;
    size_t count = 0;
    struct prompt_ids whole = {0};
    struct talk_request request = talk_default("line", "my name is Ada");
    request.ignores_end = 0;
    request.max_tokens = 200;
    struct talk_answer first = talk_run(stack, &request);
    expect(!first.is_failed && strcmp(first.result.finish_reason, "stop") == 0, "a line",
           "the first answer did not end by itself");
    struct talk_answer second = say(stack, "line", "and now?");
    expect_ok(&second, "a line");
    const char *texts[] = {"my name is Ada", first.text, "and now?"};
    struct chat_message messages[3];
    for (int i = 0; i < 3; i++) {
        const char *role = i == 1 ? "assistant" : "user";
        messages[i] = (struct chat_message){.role = role,
                                            .role_len = strlen(role),
                                            .content = texts[i],
                                            .content_len = strlen(texts[i])};
    }
    size_t prompt = (size_t)second.result.prompt_tokens;
    (void)committed_turn(stack, "line", &serial);
    expect(chat_template_first(stack->chat_template, messages, 3, &whole) == ERR_OK &&
               ledger_ids_read(stack->ledger, &key, serial, 2, &ids, &count) == ERR_OK &&
               whole.list.count == prompt && count > prompt &&
               memcmp(whole.list.ids, ids, prompt * sizeof *ids) == 0,
           "a line", "is not the whole rendering");
    prompt_ids_done(&whole);
    free(ids);
}

/* --- restarts ----------------------------------------------------------------------------------
 */

/* Copies FROM to TO, both in the store's directory; what TO was is gone. */
static void replace(const char *directory, const char *from, const char *to) {
    char command[1200];
    snprintf(command, sizeof command, "rm -rf '%s/%s' && cp -r '%s/%s' '%s/%s'", directory, to,
             directory, from, directory, to);
    if (system(command) != 0) {
        abort();
    }
}

static void check_restart(struct stack **stack, const struct stack_config *config) {
    struct talk_answer want = say(*stack, "plain", "hello");
    want = say(*stack, "plain", "and now?");
    struct talk_answer answer = say(*stack, "kept", "hello");
    struct stack *second = NULL;
    expect(stack_open(config, &second) == ERR_BUSY, "a second server", "was let in");
    stack_close(second, 0);
    stack_close(*stack, 10000);
    *stack = talk_open(config);
    answer = say(*stack, "kept", "and now?");
    expect_same(&answer, &want, "a restart");
    expect(answer.result.turn == 2 && strcmp(answer.result.tier, "disk") == 0 &&
               !answer.result.is_rebuilt,
           "a restart", "the head did not come from disk");
}

/* A copy of the ledger put back beside newer state: heads that it does not know are not there. */
static void check_older_ledger(struct stack **stack, const struct stack_config *config) {
    struct talk_answer want = say(*stack, "older-plain", "hello");
    want = say(*stack, "older-plain", "something else");
    struct talk_answer answer = say(*stack, "older", "hello");
    int head = answer.result.prompt_tokens + answer.result.completion_tokens - 1;
    stack_close(*stack, 10000);
    replace(config->directory, "ledger", "ledger.copy");
    *stack = talk_open(config);
    answer = say(*stack, "older", "and now?");
    expect(!answer.is_failed && answer.result.turn == 2, "before the ledger is put back", "turn 2");
    stack_close(*stack, 10000);
    replace(config->directory, "ledger.copy", "ledger");
    *stack = talk_open(config);
    answer = say(*stack, "older", "something else");
    expect_same(&answer, &want, "an older ledger");
    expect(answer.result.turn == 2 && answer.result.tokens_reused <= head, "an older ledger",
           "took a head that it does not know");
}

/* Other weights of the same shape, and another block size: no state of the one for the other. */
static void check_state_digest(struct stack **stack, const struct stack_config *config) {
    char path[512], command[1024];
    struct talk_answer answer = say(*stack, "weights", "hello");
    expect_ok(&answer, "weights");
    answer = say(*stack, "blocks", "hello");
    expect_ok(&answer, "blocks");
    stack_close(*stack, 10000);
    snprintf(path, sizeof path, "%s/other.gguf", config->directory);
    snprintf(command, sizeof command, "cp '%s' '%s'", config->model_path, path);
    FILE *file = system(command) == 0 ? fopen(path, "r+b") : NULL;
    struct stat status;
    if (file == NULL || fstat(fileno(file), &status) != 0 ||
        fseek(file, status.st_size - 100, SEEK_SET) != 0) {
        abort();
    }
    int byte = fgetc(file);
    if (fseek(file, -1, SEEK_CUR) != 0 || fputc(byte ^ 0x11, file) == EOF || fclose(file) != 0) {
        abort();
    }
    struct stack_config other = *config;
    other.model_path = path;
    *stack = talk_open(&other);
    answer = say(*stack, "weights", "and now?");
    expect_ok(&answer, "other weights");
    expect(answer.result.tokens_reused == 0 && answer.result.is_rebuilt &&
               strcmp(answer.result.reason, "state_missing") == 0,
           "other weights", "took state of the others");
    stack_close(*stack, 10000);
    other = *config;
    other.block_size = 16;
    *stack = talk_open(&other);
    answer = say(*stack, "blocks", "and now?");
    expect_ok(&answer, "another block size");
    expect(answer.result.tokens_reused == 0 && answer.result.is_rebuilt &&
               strcmp(answer.result.reason, "state_missing") == 0,
           "another block size", "took state of the other");
    stack_close(*stack, 10000);
    *stack = talk_open(config);
}

/* --- too little memory for all
 * --------------------------------------------------------------------
 */

/* Blocks for the prompts of two, not for their answers. */
enum {
    CROWD = 3,
    CROWD_SLOTS = 6,
    CROWD_BLOCKS = 108,
    CROWD_TEXT_BYTES = 16 << 10,
    WORDS_CROWD = 1650
};

static void begin_crowd(struct stack *stack, struct talk *talks[CROWD], int is_alone,
                        struct talk_answer answers[CROWD]) {
    for (int i = 0; i < CROWD; i++) {
        static char text[CROWD_TEXT_BYTES];
        char id[32];
        snprintf(id, sizeof id, "crowd-%d", i);
        words_of(WORDS_CROWD + i, i, sizeof text, text);
        struct talk_request request = talk_default(id, text);
        request.max_tokens = 300;
        talks[i] = talk_begin(stack, &request);
        if (is_alone) {
            answers[i] = talk_end(talks[i]);
        }
    }
}

/* Who is set aside in the middle of an answer, and goes on later, gives the same logits. */
static void check_set_aside(const struct stack_config *config) {
    struct talk *talks[CROWD];
    struct talk_answer want[CROWD], got[CROWD];
    char directory[256];
    talk_make_directory(directory);
    struct stack_config small = *config;
    small.directory = directory;
    struct stack *stack = talk_open(&small);
    begin_crowd(stack, talks, 1, want);
    stack_close(stack, 10000);
    talk_remove_directory(directory);
    talk_make_directory(directory);
    stack = NULL;
    for (uint64_t bytes = (uint64_t)8 << 20; stack == NULL; bytes += (uint64_t)1 << 19) {
        small.device_bytes = bytes;
        if (stack_open(&small, &stack) != ERR_OK) {
            stack = NULL;
            continue;
        }
        struct pool_usage usage;
        pool_get_usage(stack->pool, &usage);
        if (usage.slots < CROWD_SLOTS || usage.blocks < CROWD_BLOCKS) { /* one at a time */
            stack_close(stack, 0);
            stack = NULL;
        }
    }
    begin_crowd(stack, talks, 0, got);
    for (int i = 0; i < CROWD; i++) {
        got[i] = talk_end(talks[i]);
        expect_ok(&got[i], "a crowd");
        expect_same(&got[i], &want[i], "a crowd");
    }
    struct engine_counters counters;
    engine_get_counters(stack->engine, &counters);
    expect(counters.requests_set_aside > 0, "a crowd", "nobody was set aside");
    expect_nothing_held(stack, "a crowd");
    stack_close(stack, 10000);
    talk_remove_directory(directory);
}

int main(int argc, char **argv) {
    char directory[256];
    int every = argc == 4 && strcmp(argv[2], "--every") == 0 ? atoi(argv[3]) : 1;
    if (argc < 2 || every < 1) {
        fprintf(stderr, "turn_rules MODEL [--every N]\n");
        return 2;
    }
    talk_make_directory(directory);
    struct stack_config config = talk_stack_config(argv[1], directory);
    struct stack *stack = talk_open(&config);
    check_busy(stack);
    check_expected_turn(stack);
    check_require_cache(stack);
    check_finish(stack);
    check_follow_ups(stack);
    check_cancel(stack);
    check_names(stack);
    check_delete(stack);
    check_ids(stack);
    check_line(stack);
    for (int words = 3; words < 40; words += every) {
        check_cold(stack, words);
    }
    check_set_aside(&config);
    check_restart(&stack, &config);
    check_older_ledger(&stack, &config);
    check_state_digest(&stack, &config);
    stack_close(stack, 10000);
    talk_remove_directory(directory);
    printf("%d passed, %d failed\n", passed, failed);
    return failed > 0;
}
