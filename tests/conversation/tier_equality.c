/*
 * A turn gives bitwise the same logits whether its conversation's head lay on the
 * device, in host memory, on disk, or on disk behind a restart; alone or with
 * others in the same batches; for head lengths of every residue of the block size.
 * The tier that the answer names, the bytes that were read and the tokens that
 * were run are asserted too. One flipped bit of what was promoted must show.
 *
 *   tier_equality MODEL [--every N]    N > 1: only every Nth length
 */
#include "store/store_state.h"
#include "tests/conversation/talk.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { WORDS_FIRST = 3, LENGTHS = 32, NEXT_TOKENS = 8 };

struct tally {
    int passed;
    int failed;
    unsigned residues; /* of head lengths that were met, as bits */
};

static void expect(struct tally *tally, int is_good, const char *what, const char *where,
                   int words) {
    tally->passed += is_good;
    tally->failed += !is_good;
    if (!is_good) {
        printf("FAIL %s: %s, %d words\n", where, what, words);
    }
}

/* A message of WORDS words that differs from others. */
static void message_of(int words, int salt, char out[1024]) {
    static const char *const some[] = {"tea", "Oslo", "cello", "red", "name", "code", "live", "my"};
    size_t used = 0;
    out[0] = '\0';
    for (int i = 0; i < words && used < 1000; i++) {
        used += (size_t)snprintf(out + used, 1024 - used, "%s%s", i > 0 ? " " : "",
                                 some[(i * 5 + salt) % 8]);
    }
}

/* --- putting heads where they are wanted ------------------------------------------------------ */

static void wait_until_durable(struct stack *stack) {
    if (store_drain(stack->store, 10000) != ERR_OK) {
        fprintf(stderr, "cannot drain: %s\n", err_message());
        exit(1);
    }
}

/* Every head off the device; each has its host copy by then. */
static void push_to_host(struct stack *stack) {
    struct pool_usage usage;
    wait_until_durable(stack);
    pool_get_usage(stack->pool, &usage);
    for (int i = 0; i < 1000 && !store_reclaim(stack->store, usage.blocks, usage.slots); i++) {
        usleep(1000);
    }
}

/* Every head off the device and out of host memory. */
static void push_to_disk(struct stack *stack) {
    push_to_host(stack);
    store_trim(stack->store);
}

/* --- one conversation ---------------------------------------------------------------------------
 */

struct expected {
    uint8_t first[32];
    uint8_t second[32];
    int head_length;
    int prompt_tokens;
};

static struct talk_answer say(struct stack *stack, const char *id, int words, int salt,
                              int64_t turn) {
    char text[1024];
    message_of(words, salt, text);
    struct talk_request request = talk_default(id, text);
    request.max_tokens = NEXT_TOKENS;
    request.expected_turn = turn;
    return talk_run(stack, &request);
}

static int same(const struct talk_answer *answer, const uint8_t digest[32]) {
    return !answer->is_failed && memcmp(answer->result.logits_digest, digest, 32) == 0;
}

/* The run that is never evicted, alone. */
static struct expected run_oracle(struct stack *stack, struct tally *tally, int words) {
    char id[64];
    struct expected expected;
    snprintf(id, sizeof id, "oracle-%d", words);
    struct talk_answer first = say(stack, id, words, 0, 0);
    struct talk_answer second = say(stack, id, 4, 3, 1);
    expect(tally, !first.is_failed && !second.is_failed, first.is_failed ? first.text : second.text,
           "oracle", words);
    expect(tally, strcmp(second.result.tier, "device") == 0, second.result.tier, "oracle", words);
    memcpy(expected.first, first.result.logits_digest, 32);
    memcpy(expected.second, second.result.logits_digest, 32);
    expected.head_length = first.result.prompt_tokens + first.result.completion_tokens - 1;
    expected.prompt_tokens = second.result.prompt_tokens;
    tally->residues |= 1u << (expected.head_length % 32);
    return expected;
}

/* OTHERS conversations that prefill and decode while the one that counts does. */
static void begin_others(struct stack *stack, struct talk **talks, int others, int words) {
    for (int i = 0; i < others; i++) {
        char id[64], text[1024];
        snprintf(id, sizeof id, "other-%d-%d-%d", words, others, i);
        message_of(5 + 13 * i, i + 1, text);
        struct talk_request request = talk_default(id, text);
        request.max_tokens = 12 + 3 * i;
        talks[i] = talk_begin(stack, &request);
    }
    for (int i = 0; i < others; i++) {
        talk_wait_started(talks[i]);
    }
}

static void check_second(struct stack *stack, struct tally *tally, const char *id, const char *tier,
                         const struct expected *expected, int others, int words) {
    struct talk *talks[7];
    begin_others(stack, talks, others, words);
    struct talk_answer second = say(stack, id, 4, 3, 1);
    for (int i = 0; i < others; i++) {
        struct talk_answer other = talk_end(talks[i]);
        expect(tally, !other.is_failed, other.text, "another conversation", words);
    }
    const struct turn_result *result = &second.result;
    int run = expected->prompt_tokens - expected->head_length + NEXT_TOKENS - 1;
    expect(tally, !second.is_failed, second.text, tier, words);
    expect(tally, same(&second, expected->second), "other logits", tier, words);
    expect(tally, strcmp(result->tier, tier) == 0, result->tier, tier, words);
    expect(tally, result->tokens_reused == expected->head_length, "tokens reused", tier, words);
    expect(tally, result->tokens_run == run, "tokens run", tier, words);
    expect(tally, !result->is_rebuilt && result->reason == NULL, "said to be rebuilt", tier, words);
    expect(tally, (result->bytes_read > 0) == (strcmp(tier, "disk") == 0), "bytes read", tier,
           words);
}

static void run_first(struct stack *stack, struct tally *tally, const char *id,
                      const struct expected *expected, int words) {
    struct talk_answer first = say(stack, id, words, 0, 0);
    expect(tally, same(&first, expected->first), "other logits in the first turn", id, words);
}

/* --- flipped bits
 * ---------------------------------------------------------------------------------- */

enum flip { FLIP_STATE, FLIP_TAIL, FLIP_BLOCK, FLIP_COUNT };

/* Flips the sign of one value of the promoted image that the mover made. Nonzero: there was one. */
static int flip_image(struct stack *stack, enum flip flip, int index) {
    struct store *store = stack->store;
    int is_done = 0;
    struct store_head *head;
    pthread_mutex_lock(&store->lock);
    TAILQ_FOREACH(head, &store->index.recency, recency) {
        struct host_image *image = head->host;
        if (image == NULL || head->kind != STORE_KIND_TURN_END) {
            continue;
        }
        uint8_t *value = NULL;
        const struct layout *layout = store->layout;
        if (flip == FLIP_STATE) {
            value = image->state + layout->slot_bytes - 4 * (size_t)(1 + index) + 3;
        } else if (flip == FLIP_TAIL && image->tail != NULL) {
            value = image->tail + layout->kv[0].value_offset_bytes + 2 * (size_t)index + 1;
        } else if (flip == FLIP_BLOCK && image->full_blocks > 0) {
            value =
                image->blocks[0]->bytes + layout->kv[0].value_offset_bytes + 2 * (size_t)index + 1;
        }
        if (value != NULL) {
            *value ^= 0x80;
            is_done = 1;
        }
    }
    pthread_mutex_unlock(&store->lock);
    return is_done;
}

/* Of several values one alone must change the logits: a single one may be looked at by nobody. */
static void check_flips(struct stack *stack, struct tally *tally, int words) {
    for (int flip = 0; flip < FLIP_COUNT; flip++) {
        int is_seen = 0, was_there = 0;
        for (int index = 0; index < 40 && !is_seen; index += 3) {
            char id[64], plain[64];
            snprintf(id, sizeof id, "flip-%d-%d", flip, index);
            snprintf(plain, sizeof plain, "plain-%d-%d", flip, index);
            say(stack, plain, words, 0, 0);
            struct talk_answer want = say(stack, plain, 4, 3, 1);
            say(stack, id, words, 0, 0);
            push_to_host(stack);
            was_there |= flip_image(stack, (enum flip)flip, index);
            struct talk_answer got = say(stack, id, 4, 3, 1);
            is_seen = memcmp(want.result.logits_digest, got.result.logits_digest, 32) != 0;
        }
        expect(tally, was_there && is_seen, "a flipped bit is silent",
               flip == FLIP_STATE  ? "state"
               : flip == FLIP_TAIL ? "tail"
                                   : "block",
               words);
    }
}

/* --- the run
 * ---------------------------------------------------------------------------------------- */

static void run_length(struct stack **stack, const struct stack_config *config, struct tally *tally,
                       int words) {
    static const char *const tiers[] = {"device", "host", "disk", "disk"};
    static const char *const names[] = {"device", "host", "disk", "restart"};
    struct expected expected = run_oracle(*stack, tally, words);
    int others = (int[]){0, 1, 3, 7}[words % 4];
    for (int i = 0; i < 4; i++) {
        char id[64];
        snprintf(id, sizeof id, "%s-%d", names[i], words);
        run_first(*stack, tally, id, &expected, words);
        if (i == 1) {
            push_to_host(*stack);
        } else if (i == 2) {
            push_to_disk(*stack);
        } else if (i == 3) {
            stack_close(*stack, 10000);
            *stack = talk_open(config);
        }
        check_second(*stack, tally, id, tiers[i], &expected, others, words);
    }
}

int main(int argc, char **argv) {
    struct tally tally = {0};
    char directory[256];
    int every = argc == 4 && strcmp(argv[2], "--every") == 0 ? atoi(argv[3]) : 1;
    if (argc < 2 || every < 1) {
        fprintf(stderr, "tier_equality MODEL [--every N]\n");
        return 2;
    }
    talk_make_directory(directory);
    struct stack_config config = talk_stack_config(argv[1], directory);
    struct stack *stack = talk_open(&config);
    for (int words = WORDS_FIRST; words < WORDS_FIRST + LENGTHS + 8; words += every) {
        run_length(&stack, &config, &tally, words);
    }
    check_flips(stack, &tally, 40);
    if (every == 1) {
        expect(&tally, tally.residues == 0xffffffffu, "not every residue was met", "lengths", 0);
    }
    stack_close(stack, 10000);
    talk_remove_directory(directory);
    printf("%d passed, %d failed\n", tally.passed, tally.failed);
    return tally.failed > 0;
}
