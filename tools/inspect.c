/*
 * `tern inspect`: what a store directory holds, read beside a running server or without one.
 */
#include "tools/inspect_heads.h"
#include "tools/inspect_objects.h"
#include "tools/inspect_turns.h"
#include "tools/option.h"
#include "tools/subcommand.h"

#include <stdio.h>

struct inspect_options {
    const char *store;
    const char *conversation;
    const char *salt;
    const char *tenant;
    int turns;
    int heads;
    int objects;
    int json;
    long long limit;
};

/* --- conversations --------------------------------------------------------------------------- */

static const struct listing_column conversation_columns[] = {
    {"id", "id", -24, LISTING_PLAIN},
    {"salt", "salt", -12, LISTING_PLAIN},
    {"tenant", "tenant", -8, LISTING_PLAIN},
    {"turns", "turns", 6, LISTING_PLAIN},
    {"tokens", "tokens", 8, LISTING_PLAIN},
    {"created_ms", "created", -20, LISTING_TIME},
    {"last_turn_ms", "last turn", -20, LISTING_TIME},
};

static enum err list_conversation(void *context, const struct conversation_record *conversation) {
    struct listing *listing = context;
    const struct conversation_identity *identity = &conversation->identity;
    uint8_t state_key[STATE_KEY_BYTES];
    if (listing_is_full(listing)) {
        return ERR_CANCELLED;
    }
    state_key_make(&conversation->key, conversation->serial, state_key);
    return listing_row(listing,
                       json_pack("{s:o, s:o, s:o, s:I, s:o, s:I, s:o, s:o, s:o, s:o, s:o}", "id",
                                 listing_text(identity->id, identity->id_bytes), "salt",
                                 listing_text(identity->salt, identity->salt_bytes), "tenant",
                                 listing_text(identity->tenant, identity->tenant_bytes), "turns",
                                 (json_int_t)conversation->turn, "tokens",
                                 listing_number(conversation->chain.length_tokens),
                                 "pending_tokens", (json_int_t)conversation->pending_tokens,
                                 "created_ms", listing_number(conversation->created_ms),
                                 "last_turn_ms", listing_number(conversation->updated_ms),
                                 "expires_ms", listing_number(conversation->expires_ms), "serial",
                                 listing_number(conversation->serial), "state_key",
                                 listing_digest(state_key, sizeof state_key)));
}

static enum err list_conversations(const struct store_view *view,
                                   const struct conversation_record *conversation,
                                   struct listing *listing) {
    uint64_t skipped = 0;
    listing_section(listing, "conversations", conversation_columns,
                    ARRAY_LEN(conversation_columns));
    if (conversation != NULL) {
        return list_conversation(listing, conversation);
    }
    enum err code = store_view_each_conversation(view, list_conversation, listing, &skipped);
    if (skipped > 0) {
        fprintf(stderr, "tern inspect: %llu conversation records cannot be read\n",
                (unsigned long long)skipped);
    }
    return code == ERR_CANCELLED ? ERR_OK : code; /* the list is as long as it may be */
}

/* --- totals ---------------------------------------------------------------------------------- */

static const struct listing_column ledger_columns[] = {
    {"conversations", "conversations", 12, LISTING_PLAIN},
    {"tombstones", "deleted, not yet cleared", 12, LISTING_PLAIN},
    {"used_bytes", "bytes in use", 12, LISTING_BYTES},
    {"free_bytes", "bytes free in the file", 12, LISTING_BYTES},
    {"map_bytes", "bytes at most", 12, LISTING_BYTES},
};

static const struct listing_column state_columns[] = {
    {"heads", "heads", 12, LISTING_PLAIN},
    {"lineages", "lineages", 12, LISTING_PLAIN},
    {"runs", "runs of objects", 12, LISTING_PLAIN},
    {"garbage_entries", "entries to be removed", 12, LISTING_PLAIN},
    {"quarantined", "heads in quarantine", 12, LISTING_PLAIN},
    {"used_bytes", "bytes in use", 12, LISTING_BYTES},
    {"free_bytes", "bytes free in the file", 12, LISTING_BYTES},
    {"map_bytes", "bytes at most", 12, LISTING_BYTES},
};

static enum err list_ledger(const struct store_view *view, struct listing *listing) {
    struct ledger_stats stats;
    TRY(ledger_stats_read(view->ledger, &stats));
    return listing_object(
        listing, "ledger",
        json_pack("{s:o, s:o, s:o, s:o, s:o}", "conversations", listing_number(stats.conversations),
                  "tombstones", listing_number(stats.tombstones), "used_bytes",
                  listing_number(stats.used_bytes - stats.free_bytes), "free_bytes",
                  listing_number(stats.free_bytes), "map_bytes", listing_number(stats.map_bytes)),
        ledger_columns, ARRAY_LEN(ledger_columns));
}

static enum err count_state(struct state_env *env, uint64_t counts[STATE_DB_COUNT]) {
    struct state_txn *txn;
    TRY(state_env_begin_read(env, &txn));
    enum err code = ERR_OK;
    for (int db = 0; db < STATE_DB_COUNT && code == ERR_OK; db++) {
        code = state_env_count(txn, (enum state_db)db, &counts[db]);
    }
    state_env_abort(txn);
    return code;
}

static enum err list_state(const struct store_view *view, struct listing *listing) {
    uint64_t counts[STATE_DB_COUNT] = {0};
    struct state_env_usage usage = {0};
    if (view->state != NULL) {
        TRY(count_state(view->state, counts));
        TRY(state_env_usage(view->state, &usage));
    }
    return listing_object(
        listing, "state",
        json_pack("{s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "heads",
                  listing_number(counts[STATE_HEADS]), "lineages",
                  listing_number(counts[STATE_LINEAGES]), "runs",
                  listing_number(counts[STATE_OBJECTS]), "garbage_entries",
                  listing_number(counts[STATE_GARBAGE]), "quarantined",
                  listing_number(counts[STATE_QUARANTINE]), "used_bytes",
                  listing_number((usage.file_pages - usage.free_pages) * STATE_ENV_PAGE_BYTES),
                  "free_bytes", listing_number(usage.free_pages * STATE_ENV_PAGE_BYTES),
                  "map_bytes", listing_number(usage.map_pages * STATE_ENV_PAGE_BYTES)),
        state_columns, ARRAY_LEN(state_columns));
}

/* --- the whole ------------------------------------------------------------------------------- */

static enum err list_sections(const struct inspect_options *options, const struct store_view *view,
                              const struct conversation_record *conversation) {
    struct listing listing;
    int is_overview = !options->turns && !options->heads && !options->objects;
    listing_begin(&listing, options->json, (uint64_t)options->limit);
    if (is_overview) {
        TRY(list_conversations(view, conversation, &listing));
    }
    if (options->turns) {
        TRY(inspect_turns_list(view, conversation, &listing));
    }
    if (options->heads) {
        TRY(inspect_heads_list(view, conversation, &listing));
    }
    if (options->objects) {
        TRY(inspect_objects_list(view, conversation, &listing));
    }
    if (is_overview && conversation == NULL) {
        TRY(list_ledger(view, &listing));
        TRY(list_state(view, &listing));
    }
    listing_end(&listing);
    return ERR_OK;
}

static enum err run(const struct inspect_options *options) {
    struct store_view view CLEANUP(store_view_close) = {0};
    struct conversation_record conversation CLEANUP(turn_record_conversation_done) = {0};
    TRY(store_view_open(options->store, &view));
    if (options->conversation == NULL) {
        return list_sections(options, &view, NULL);
    }
    struct conversation_identity identity =
        store_view_identity(options->tenant, options->salt, options->conversation);
    TRY(store_view_find(&view, &identity, &conversation));
    return list_sections(options, &view, &conversation);
}

static enum option_outcome parse(struct inspect_options *options, int argc, char **argv) {
    const struct option_entry entries[] = {
        {"store", OPTION_TEXT, &options->store, "DIR", "the store directory", 0, 0},
        {"conversation", OPTION_TEXT, &options->conversation, "ID", "of this conversation alone", 0,
         0},
        {"salt", OPTION_TEXT, &options->salt, "S", "its cache_salt (none)", 0, 0},
        {"tenant", OPTION_TEXT, &options->tenant, "T", "its tenant (none)", 0, 0},
        {"turns", OPTION_FLAG, &options->turns, NULL,
         "list its turns: messages and the token ids that the model saw", 0, 0},
        {"heads", OPTION_FLAG, &options->heads, NULL, "list heads on disk", 0, 0},
        {"objects", OPTION_FLAG, &options->objects, NULL,
         "list coded objects: KV blocks, tails, terminal states", 0, 0},
        {"limit", OPTION_INT, &options->limit, "N", "rows of each list at most; 0: all (0)", 0,
         1e15},
        {"json", OPTION_FLAG, &options->json, NULL, "print JSON", 0, 0},
    };
    const struct option_spec spec = {
        .usage = "tern inspect --store DIR [--conversation ID [--salt S] [--tenant T]] [options]",
        .summary = "Lists what a store directory holds, beside a running server or without one:\n"
                   "conversations and totals, or the lists that are asked for. Nothing is changed.",
        .entries = entries,
        .count = ARRAY_LEN(entries),
    };
    enum option_outcome outcome = option_parse(&spec, argc, argv, NULL, NULL);
    if (outcome == OPTION_RUN && options->store == NULL) {
        outcome = option_missing(argv[0], "store");
    }
    int needs_conversation = options->turns || options->salt != NULL || options->tenant != NULL;
    if (outcome == OPTION_RUN && needs_conversation && options->conversation == NULL) {
        outcome = option_missing(argv[0], "conversation");
    }
    return outcome;
}

int subcommand_inspect(int argc, char **argv) {
    struct inspect_options options = {0};
    enum option_outcome outcome = parse(&options, argc, argv);
    if (outcome != OPTION_RUN) {
        return outcome == OPTION_HELP_SHOWN ? EXIT_CODE_OK : EXIT_CODE_USAGE;
    }
    if (run(&options) != ERR_OK) {
        fprintf(stderr, "tern inspect: %s\n", err_message());
        return EXIT_CODE_FAILED;
    }
    return EXIT_CODE_OK;
}
