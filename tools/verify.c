/*
 * `tern verify`: reads every record of a store and says what is wrong with it. The reading is done
 * in a child process: damage to LMDB's own pages may end it with a signal, which is an answer too.
 */
#include "tools/option.h"
#include "tools/subcommand.h"
#include "tools/verify_heads.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

/* What the child adds to its exit code: a sanitizer that catches a signal exits with others. */
enum { CHILD_EXIT = 16 };

struct verify_options {
    const char *store;
    const char *conversation;
    const char *salt;
    const char *tenant;
    int json;
};

struct verify {
    struct store_view view;
    struct listing listing;
    struct verify_findings findings;
    struct verify_heads heads;
    struct ledger_walk_report ledger;
    struct state_audit_report state;
    json_t *quarantined; /* rows */
};

static const struct listing_column quarantine_columns[] = {
    {"turn", "turn", 5, LISTING_PLAIN},        {"part", "part", -12, LISTING_PLAIN},
    {"lineage", "lineage", 12, LISTING_PLAIN}, {"index", "index", 6, LISTING_PLAIN},
    {"wall_ms", "when", -20, LISTING_TIME},    {"verdict", "verdict", -10, LISTING_PLAIN},
};

static const struct listing_column summary_columns[] = {
    {"conversations", "conversations", 12, LISTING_PLAIN},
    {"turns", "turns", 12, LISTING_PLAIN},
    {"turns_unchained", "turns behind damaged ones", 12, LISTING_PLAIN},
    {"dialects", "dialects", 12, LISTING_PLAIN},
    {"idempotency_entries", "idempotency entries", 12, LISTING_PLAIN},
    {"tombstones", "tombstones", 12, LISTING_PLAIN},
    {"heads", "heads", 12, LISTING_PLAIN},
    {"lineages", "lineages", 12, LISTING_PLAIN},
    {"links", "links", 12, LISTING_PLAIN},
    {"objects", "objects", 12, LISTING_PLAIN},
    {"objects_unowned", "objects to be removed", 12, LISTING_PLAIN},
    {"garbage_entries", "entries to be removed", 12, LISTING_PLAIN},
    {"quarantined", "heads in quarantine", 12, LISTING_PLAIN},
    {"ledger_bytes", "bytes read of the ledger", 12, LISTING_BYTES},
    {"state_bytes", "bytes read of the state", 12, LISTING_BYTES},
    {"findings", "findings", 12, LISTING_PLAIN},
};

static enum err found_in_state(void *context, const struct state_audit_finding *finding) {
    struct verify *verify = context;
    return verify_findings_of_state(&verify->findings, finding);
}

static enum err seen_head(void *context, const struct record_head *head) {
    struct verify *verify = context;
    return verify_heads_add(&verify->heads, head);
}

/* What was found and removed while serving: no finding of today's. */
static enum err seen_quarantine(void *context, const struct record_head_key *key,
                                const struct record_quarantine *quarantine) {
    struct verify *verify = context;
    json_t *row = json_pack(
        "{s:o, s:o, s:s, s:o, s:o, s:o, s:s}", "state_key",
        listing_digest(key->conversation, sizeof key->conversation), "turn",
        listing_number(key->turn), "part", state_audit_part_name(quarantine->object.part),
        "lineage", listing_number(quarantine->object.lineage), "index",
        listing_number(quarantine->object.index), "wall_ms", listing_number(quarantine->wall_ms),
        "verdict", coded_object_verdict_name((enum object_verdict)quarantine->verdict));
    return json_array_append_new(verify->quarantined, row) == 0
               ? ERR_OK
               : err_fail(ERR_NOMEM, "no memory for a row");
}

static enum err list_quarantine(struct verify *verify) {
    size_t i;
    json_t *row;
    listing_section(&verify->listing, "quarantine", quarantine_columns,
                    ARRAY_LEN(quarantine_columns));
    json_array_foreach(verify->quarantined, i, row) {
        TRY(listing_row(&verify->listing, json_incref(row)));
    }
    return ERR_OK;
}

static enum err list_summary(struct verify *verify) {
    const struct ledger_walk_report *ledger = &verify->ledger;
    const struct state_audit_report *state = &verify->state;
    json_t *summary = json_object();
    const struct {
        const char *name;
        uint64_t value;
    } members[] = {
        {"conversations", ledger->conversations},
        {"turns", ledger->turns},
        {"turns_unchained", ledger->turns_unchained},
        {"dialects", ledger->dialects},
        {"idempotency_entries", ledger->idempotency_entries},
        {"tombstones", ledger->tombstones},
        {"heads", state->heads},
        {"lineages", state->lineages},
        {"links", state->links},
        {"objects", state->objects},
        {"objects_unowned", state->objects_unowned},
        {"garbage_entries", state->garbage_entries},
        {"quarantined", state->quarantined},
        {"ledger_bytes", ledger->bytes},
        {"state_bytes", state->bytes},
        {"findings", verify->findings.count},
    };
    for (size_t i = 0; i < ARRAY_LEN(members); i++) {
        if (json_object_set_new(summary, members[i].name, listing_number(members[i].value)) != 0) {
            json_decref(summary);
            return err_fail(ERR_NOMEM, "no memory for the summary");
        }
    }
    return listing_object(&verify->listing, "summary", summary, summary_columns,
                          ARRAY_LEN(summary_columns));
}

static enum err audit_state(struct verify *verify, const uint8_t *only) {
    const struct state_audit_options options = {.only = only,
                                                .found = found_in_state,
                                                .head = seen_head,
                                                .quarantined = seen_quarantine,
                                                .context = verify};
    TRY(verify_heads_begin(&verify->heads, &verify->findings));
    TRY(state_audit(verify->view.state, &options, &verify->state));
    return verify_heads_flush(&verify->heads);
}

/* KEY names the only conversation, or is NULL; a state key is NULL where nothing has one. */
static enum err read_all(struct verify *verify, const struct conversation_key *key,
                         const uint8_t *state_key) {
    const struct ledger_walk_options options = {
        .only = key, .found = verify_findings_of_ledger, .context = &verify->findings};
    TRY(ledger_walk(verify->view.ledger, &options, &verify->ledger));
    if (verify->view.state != NULL && (key == NULL || state_key != NULL)) {
        TRY(audit_state(verify, state_key));
    }
    TRY(verify_findings_flush(&verify->findings));
    TRY(verify_findings_list_kinds(&verify->findings));
    TRY(list_quarantine(verify));
    TRY(list_summary(verify));
    listing_end(&verify->listing);
    return ERR_OK;
}

static enum err read_one(struct verify *verify, const struct conversation_identity *identity) {
    struct secret secret CLEANUP(secret_done) = {{0}};
    struct conversation_key key;
    struct conversation_record conversation;
    uint8_t state_key[STATE_KEY_BYTES];
    TRY(secret_load(verify->view.directory, 0, &secret));
    TRY(conversation_key_make(&secret, identity, &key));
    enum err code = ledger_conversation_read(verify->view.ledger, &key, &conversation);
    if (code == ERR_NOT_FOUND) {
        return store_view_find(&verify->view, identity, &conversation); /* says who is not there */
    }
    verify_findings_begin(&verify->findings, &verify->view, &verify->listing, identity);
    if (code != ERR_OK) { /* the walk says why */
        return read_all(verify, &key, NULL);
    }
    state_key_make(&key, conversation.serial, state_key);
    turn_record_conversation_done(&conversation);
    return read_all(verify, &key, state_key);
}

static enum err run(const struct verify_options *options, uint64_t *findings) {
    struct verify verify = {.quarantined = json_array()};
    enum err code = verify.quarantined != NULL ? store_view_open(options->store, &verify.view)
                                               : err_fail(ERR_NOMEM, "no memory");
    if (code == ERR_OK) {
        listing_begin(&verify.listing, options->json, 0);
        if (options->conversation != NULL) {
            struct conversation_identity identity =
                store_view_identity(options->tenant, options->salt, options->conversation);
            code = read_one(&verify, &identity);
        } else {
            verify_findings_begin(&verify.findings, &verify.view, &verify.listing, NULL);
            code = read_all(&verify, NULL, NULL);
        }
    }
    *findings = verify.findings.count;
    verify_heads_done(&verify.heads);
    verify_findings_done(&verify.findings);
    store_view_close(&verify.view);
    json_decref(verify.quarantined);
    return code;
}

/* The child's part. */
static int run_and_report(const struct verify_options *options) {
    uint64_t findings = 0;
    if (run(options, &findings) != ERR_OK) {
        fprintf(stderr, "tern verify: %s\n", err_message());
        return EXIT_CODE_FAILED;
    }
    if (fflush(stdout) != 0) {
        perror("tern verify: standard output");
        return EXIT_CODE_FAILED;
    }
    return findings > 0 ? EXIT_CODE_FAILED : EXIT_CODE_OK;
}

static int run_in_child(const struct verify_options *options) {
    int status = 0;
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        int code = run_and_report(options);
        fflush(stdout);
        _exit(CHILD_EXIT + code);
    }
    while (child > 0 && waitpid(child, &status, 0) < 0) {
        if (errno != EINTR) {
            child = -1;
        }
    }
    if (child < 0) {
        fprintf(stderr, "tern verify: cannot run a child process: %s\n", strerror(errno));
        return EXIT_CODE_FAILED;
    }
    int code = WIFEXITED(status) ? WEXITSTATUS(status) - CHILD_EXIT : -1;
    if (code != EXIT_CODE_OK && code != EXIT_CODE_FAILED) {
        fprintf(stderr,
                "tern verify: reading '%s' ended with %s %d: the pages of its ledger or of its "
                "state are damaged\n",
                options->store, WIFSIGNALED(status) ? "signal" : "exit status",
                WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
        return EXIT_CODE_FAILED;
    }
    return code;
}

static enum option_outcome parse(struct verify_options *options, int argc, char **argv) {
    const struct option_entry entries[] = {
        {"store", OPTION_TEXT, &options->store, "DIR", "the store directory", 0, 0},
        {"conversation", OPTION_TEXT, &options->conversation, "ID",
         "this conversation's records alone", 0, 0},
        {"salt", OPTION_TEXT, &options->salt, "S", "its cache_salt (none)", 0, 0},
        {"tenant", OPTION_TEXT, &options->tenant, "T", "its tenant (none)", 0, 0},
        {"json", OPTION_FLAG, &options->json, NULL, "print JSON", 0, 0},
    };
    const struct option_spec spec = {
        .usage = "tern verify --store DIR [--conversation ID [--salt S] [--tenant T]] [--json]",
        .summary = "Reads every record of a store, beside a running server or without one, and\n"
                   "says what is wrong with it. Nothing is changed. Exit status 0 without\n"
                   "findings, 1 with findings or where the store cannot be read.",
        .entries = entries,
        .count = ARRAY_LEN(entries),
    };
    enum option_outcome outcome = option_parse(&spec, argc, argv, NULL, NULL);
    if (outcome == OPTION_RUN && options->store == NULL) {
        outcome = option_missing(argv[0], "store");
    }
    if (outcome == OPTION_RUN && (options->salt != NULL || options->tenant != NULL) &&
        options->conversation == NULL) {
        outcome = option_missing(argv[0], "conversation");
    }
    return outcome;
}

int subcommand_verify(int argc, char **argv) {
    struct verify_options options = {0};
    enum option_outcome outcome = parse(&options, argc, argv);
    if (outcome != OPTION_RUN) {
        return outcome == OPTION_HELP_SHOWN ? EXIT_CODE_OK : EXIT_CODE_USAGE;
    }
    return run_in_child(&options);
}
