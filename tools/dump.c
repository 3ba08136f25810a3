/*
 * `tern dump`: a turn-end head of a conversation as a safetensors file, read beside a running
 * server or without one.
 */
#include "engine/model_shape.h"
#include "tools/head_dump.h"
#include "tools/listing.h"
#include "tools/model_file.h"
#include "tools/option.h"
#include "tools/store_view.h"
#include "tools/subcommand.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct dump_options {
    const char *store;
    const char *conversation;
    const char *salt;
    const char *tenant;
    const char *model;
    const char *out;
    long long turn;
};

struct dump {
    const struct dump_options *options;
    struct store_view view;
    struct conversation_record conversation;
    struct model_shape shape;
    struct record_head head;
    struct layout layout;
};

/* --- choosing the head ----------------------------------------------------------------------- */

/* Heads of other models lie beside this one's. */
static enum err check_head(struct dump *dump, const struct record_head *head) {
    struct layout layout = {0};
    enum dtype kv_type = DTYPE_F16;
    if (head->block_bytes > 0) {
        TRY(head_dump_kv_type(head->block_element, &kv_type));
    }
    TRY(model_shape_layout(&dump->shape, (int)head->block_size, kv_type, &layout));
    enum err code = head_dump_check(head, &layout);
    if (code != ERR_OK) {
        layout_done(&layout);
        return code;
    }
    layout_done(&dump->layout);
    dump->layout = layout;
    dump->head = *head;
    return ERR_OK;
}

/* The newest one of the turn that was asked for, or of any, that fits the model. */
static enum err choose(struct dump *dump, const struct record_head *heads, size_t count) {
    uint64_t wanted = (uint64_t)dump->options->turn;
    enum err code =
        wanted == 0
            ? err_fail(ERR_NOT_FOUND, "the conversation has no turn-end head on disk")
            : err_fail(ERR_NOT_FOUND,
                       "the conversation has no turn-end head of turn %" PRIu64 " on disk", wanted);
    int has_found = 0;
    for (size_t i = 0; i < count; i++) {
        const struct record_head *head = &heads[i];
        int is_older =
            has_found &&
            (head->key.turn < dump->head.key.turn ||
             (head->key.turn == dump->head.key.turn && head->created_ms < dump->head.created_ms));
        if (head->key.kind != RECORD_TURN_END || is_older ||
            (wanted != 0 && head->key.turn != wanted)) {
            continue;
        }
        enum err fits = check_head(dump, head);
        has_found = has_found || fits == ERR_OK;
        code = has_found ? ERR_OK : fits;
    }
    return code == ERR_CONFLICT ? err_context(code, "another --model is needed") : code;
}

static enum err find_head(struct dump *dump) {
    struct record_head *heads CLEANUP(object_free) = NULL;
    size_t count = 0;
    if (dump->view.state == NULL) {
        return err_fail(ERR_NOT_FOUND, "%s holds no state", dump->options->store);
    }
    TRY(store_view_heads(&dump->view, &dump->conversation, &heads, &count));
    return choose(dump, heads, count);
}

/* --- provenance ------------------------------------------------------------------------------ */

/* The ids that the head stands for, as JSON text; the ledger must vouch for the head. */
static enum err tokens_json(const struct dump *dump, json_t **out) {
    const struct record_head *head = &dump->head;
    int32_t *ids CLEANUP(object_free) = NULL;
    size_t count = 0;
    uint8_t digest[TOKEN_CHAIN_DIGEST_BYTES];
    if (head->key.turn > dump->conversation.turn) {
        return err_fail(ERR_CONFLICT, "the head is of turn %" PRIu64 ", the ledger ends with %u",
                        head->key.turn, dump->conversation.turn);
    }
    TRY(ledger_ids_read(dump->view.ledger, &dump->conversation.key, dump->conversation.serial,
                        (uint32_t)head->key.turn, &ids, &count));
    if (head->length > count) {
        return err_fail(ERR_CONFLICT, "the head covers %" PRIu64 " tokens, the ledger's line %zu",
                        head->length, count);
    }
    token_chain_digest_of(ids, (size_t)head->length, digest);
    if (memcmp(digest, head->chain_digest, sizeof digest) != 0) {
        return err_fail(ERR_CONFLICT, "the head's chain digest is not that of the ledger's tokens");
    }
    json_t *array = json_array();
    int is_good = array != NULL;
    for (size_t i = 0; i < head->length && is_good; i++) {
        is_good = json_array_append_new(array, json_integer(ids[i])) == 0;
    }
    char *text = is_good ? json_dumps(array, JSON_COMPACT) : NULL;
    json_decref(array);
    *out = text != NULL ? json_string(text) : NULL;
    free(text);
    return *out != NULL ? ERR_OK : err_fail(ERR_NOMEM, "no memory for %zu token ids", count);
}

static json_t *number_text(uint64_t number) {
    return json_sprintf("%" PRIu64, number);
}

/* All values are texts: safetensors knows no others. */
static enum err make_metadata(const struct dump *dump, json_t **out) {
    const struct record_head *head = &dump->head;
    const struct conversation_identity *identity = &dump->conversation.identity;
    json_t *tokens = NULL;
    TRY(tokens_json(dump, &tokens));
    json_t *metadata = json_pack(
        "{s:s, s:s, s:o, s:o, s:o, s:o, s:o, s:s, s:o, s:o, s:o, s:s, s:s, s:o, s:s, s:o, s:o}",
        "format", "tern-head-1", "tern_version", TERN_VERSION, "conversation_id",
        listing_text(identity->id, identity->id_bytes), "cache_salt",
        listing_text(identity->salt, identity->salt_bytes), "tenant",
        listing_text(identity->tenant, identity->tenant_bytes), "turn", number_text(head->key.turn),
        "length", number_text(head->length), "kind", "turn-end", "tokens", tokens, "state_digest",
        listing_digest(head->key.state_digest, sizeof head->key.state_digest), "chain_digest",
        listing_digest(head->chain_digest, sizeof head->chain_digest), "numerics_class",
        head->numerics_class, "architecture", dump->shape.architecture, "block_size",
        number_text(head->block_size), "kv_type", dtype_name(dump->layout.kv_type), "block_bytes",
        number_text(head->block_bytes), "state_bytes", number_text(head->state_bytes));
    if (metadata == NULL) {
        return err_fail(ERR_NOMEM, "no memory for the metadata");
    }
    *out = metadata;
    return ERR_OK;
}

/* --- the whole ------------------------------------------------------------------------------- */

static enum err write_head(struct dump *dump) {
    json_t *metadata = NULL;
    TRY(find_head(dump));
    TRY(make_metadata(dump, &metadata));
    enum err code = head_dump_write(&(struct head_dump_params){
        .env = dump->view.state,
        .head = &dump->head,
        .layout = &dump->layout,
        .metadata = metadata,
        .path = dump->options->out,
    });
    json_decref(metadata);
    return code;
}

static enum err read_shape(const char *model, struct model_shape *shape) {
    struct gguf *file;
    TRY(model_file_open(model, &file));
    enum err code = model_shape_read(file, shape);
    gguf_close(file);
    return code;
}

static enum err run(const struct dump_options *options) {
    struct dump dump = {.options = options};
    struct conversation_identity identity =
        store_view_identity(options->tenant, options->salt, options->conversation);
    TRY(store_view_open(options->store, &dump.view));
    enum err code = store_view_find(&dump.view, &identity, &dump.conversation);
    if (code == ERR_OK) {
        code = read_shape(options->model, &dump.shape);
        if (code == ERR_OK) {
            code = write_head(&dump);
            model_shape_done(&dump.shape);
        }
        turn_record_conversation_done(&dump.conversation);
    }
    if (code == ERR_OK) {
        printf("turn %" PRIu64 ", %" PRIu64 " tokens: %s\n", dump.head.key.turn, dump.head.length,
               options->out);
    }
    layout_done(&dump.layout);
    store_view_close(&dump.view);
    return code;
}

static enum option_outcome parse(struct dump_options *options, int argc, char **argv) {
    const struct option_entry entries[] = {
        {"store", OPTION_TEXT, &options->store, "DIR", "the store directory", 0, 0},
        {"conversation", OPTION_TEXT, &options->conversation, "ID", "whose head", 0, 0},
        {"salt", OPTION_TEXT, &options->salt, "S", "its cache_salt (none)", 0, 0},
        {"tenant", OPTION_TEXT, &options->tenant, "T", "its tenant (none)", 0, 0},
        {"turn", OPTION_INT, &options->turn, "N", "the head after this turn (the newest on disk)",
         1, UINT32_MAX},
        {"out", OPTION_TEXT, &options->out, "FILE", "where the safetensors file goes", 0, 0},
        {"model", OPTION_TEXT, &options->model, "FILE", MODEL_FILE_HELP, 0, 0},
    };
    const struct option_spec spec = {
        .usage = "tern dump --store DIR --conversation ID --out FILE [options]",
        .summary =
            "Writes the state of a conversation as a safetensors file: keys and values of each\n"
            "attention layer, one row a token, and the terminal state of each recurrent layer;\n"
            "its metadata holds the token ids and says where the state comes from.",
        .entries = entries,
        .count = ARRAY_LEN(entries),
    };
    enum option_outcome outcome = option_parse(&spec, argc, argv, NULL, NULL);
    if (outcome == OPTION_RUN && options->store == NULL) {
        outcome = option_missing(argv[0], "store");
    }
    if (outcome == OPTION_RUN && options->conversation == NULL) {
        outcome = option_missing(argv[0], "conversation");
    }
    if (outcome == OPTION_RUN && options->out == NULL) {
        outcome = option_missing(argv[0], "out");
    }
    return outcome;
}

int subcommand_dump(int argc, char **argv) {
    struct dump_options options = {0};
    enum option_outcome outcome = parse(&options, argc, argv);
    if (outcome != OPTION_RUN) {
        return outcome == OPTION_HELP_SHOWN ? EXIT_CODE_OK : EXIT_CODE_USAGE;
    }
    if (run(&options) != ERR_OK) {
        fprintf(stderr, "tern dump: %s\n", err_message());
        return EXIT_CODE_FAILED;
    }
    return EXIT_CODE_OK;
}
