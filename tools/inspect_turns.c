/*
 * I1. Turn k owns the line from its base on, up to the base of the first later turn that begins
 *     before k's end; turns that own nothing are not on the line.
 * I2. Within what it owns, a turn's generated ids lie behind its prompt ids, and what lies behind
 *     them is the template's and goes to the next turn.
 */
#include "tools/inspect_turns.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Where a turn's ids lie on the line. */
struct turn_place {
    uint32_t turn;
    uint64_t generated_begin;
    uint64_t generated_end;
};

struct turn_line {
    const struct store_view *view;
    const struct conversation_record *conversation;
    int32_t *ids;
    size_t count;
    struct turn_place *places; /* last turn first */
    size_t place_count;
};

static uint64_t smaller(uint64_t a, uint64_t b) {
    return a < b ? a : b;
}

static enum err read_turn(const struct turn_line *line, uint32_t turn, struct turn_record *out) {
    return ledger_turn_read(line->view->ledger, &line->conversation->key,
                            line->conversation->serial, turn, out);
}

/* I1. From the last turn backwards: each cuts the ones before it at its base. */
static enum err place_turns(struct turn_line *line) {
    uint64_t limit = line->count;
    for (uint32_t turn = line->conversation->turn; turn > 0 && limit > 0; turn--) {
        struct turn_record record;
        TRY(read_turn(line, turn, &record));
        if (record.base_tokens < limit) {
            uint64_t begin = record.base_tokens + record.prompt_count;
            line->places[line->place_count++] = (struct turn_place){
                .turn = turn,
                .generated_begin = smaller(begin, limit),
                .generated_end = smaller(begin + record.generated_count, limit),
            };
            limit = record.base_tokens;
        }
        turn_record_done(&record);
    }
    return ERR_OK;
}

static json_t *ids_json(const int32_t *ids, uint64_t begin, uint64_t end) {
    json_t *array = json_array();
    for (uint64_t i = begin; i < end && array != NULL; i++) {
        if (json_array_append_new(array, json_integer(ids[i])) != 0) {
            json_decref(array);
            return NULL;
        }
    }
    return array;
}

/* The messages as the server wrote them: a JSON array, or what lies there as text. */
static json_t *messages_json(const struct turn_record *record) {
    json_t *messages = json_loadb((const char *)record->messages, record->messages_bytes,
                                  JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL);
    return messages != NULL ? messages : listing_text(record->messages, record->messages_bytes);
}

static void print_messages(const json_t *messages) {
    size_t i;
    json_t *message;
    json_array_foreach(messages, i, message) {
        const json_t *role = json_object_get(message, "role");
        const json_t *content = json_object_get(message, "content");
        printf("    ");
        if (json_is_string(role)) {
            listing_print_text(json_string_value(role), json_string_length(role), "    ");
        }
        printf(": ");
        if (json_is_string(content)) {
            listing_print_text(json_string_value(content), json_string_length(content), "      ");
        }
        printf("\n");
    }
}

static enum err list_turn(const struct turn_line *line, struct listing *listing, uint64_t begin,
                          const struct turn_place *place) {
    struct turn_record record;
    TRY(read_turn(line, place->turn, &record));
    json_t *messages = messages_json(&record);
    turn_record_done(&record);
    if (messages == NULL) {
        return err_fail(ERR_NOMEM, "no memory for the messages of turn %u", place->turn);
    }
    if (!listing->is_json) {
        printf("  turn %u: %" PRIu64 " ids of prompt, %" PRIu64 " generated\n", place->turn,
               place->generated_begin - begin, place->generated_end - place->generated_begin);
        print_messages(messages);
        json_decref(messages);
        listing->row_count++;
        return ERR_OK;
    }
    return listing_row(
        listing,
        json_pack("{s:I, s:o, s:o, s:o}", "turn", (json_int_t)place->turn, "messages", messages,
                  "prompt_ids", ids_json(line->ids, begin, place->generated_begin), "generated_ids",
                  ids_json(line->ids, place->generated_begin, place->generated_end)));
}

static enum err list_line(struct turn_line *line, struct listing *listing) {
    TRY(place_turns(line));
    uint64_t begin = 0;
    for (size_t i = line->place_count; i-- > 0 && !listing_is_full(listing);) {
        TRY(list_turn(line, listing, begin, &line->places[i]));
        begin = line->places[i].generated_end; /* I2 */
    }
    return ERR_OK;
}

enum err inspect_turns_list(const struct store_view *view,
                            const struct conversation_record *conversation,
                            struct listing *listing) {
    struct turn_line line = {.view = view, .conversation = conversation};
    line.places = calloc((size_t)conversation->turn + 1, sizeof *line.places);
    if (line.places == NULL) {
        return err_fail(ERR_NOMEM, "no memory for %u turns", conversation->turn);
    }
    enum err code = ledger_ids_read(view->ledger, &conversation->key, conversation->serial,
                                    conversation->turn, &line.ids, &line.count);
    if (code == ERR_OK) {
        listing_section(listing, "turns", NULL, 0);
        code = list_line(&line, listing);
        free(line.ids);
    }
    free(line.places);
    return code;
}
