/*
 * I1. A turn of a served conversation never changes, and its record goes only after the
 *     conversation's: a turn that is missing in a transaction in which its conversation is there
 *     is missing.
 * I2. A serial passes from conversation to tombstone in one transaction and its turns are removed
 *     before the tombstone: a serial with turns has an owner in every transaction. Conversations
 * are looked at before tombstones, so an owner that moves is met. I3. Findings are told after the
 * transaction that showed them has ended.
 */
#include "ledger/ledger_walk.h"

#include "ledger/ledger_table.h"
#include "ledger/ledger_walk_line.h"
#include "ledger/record_frame.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct walk {
    struct ledger_db *db;
    const struct ledger_walk_options *options;
    struct ledger_walk_report report;
};

static int is_refused(enum err code) {
    return code == ERR_CORRUPT || code == ERR_FORMAT || code == ERR_UNSUPPORTED;
}

static const char *refusal(enum err code) {
    return code == ERR_UNSUPPORTED ? "newer" : "damaged";
}

static enum err tell(const struct walk *walk, const struct ledger_walk_finding *finding) {
    return walk->options->found(walk->options->context, finding);
}

PRINTF_LIKE(2, 3)
static void describe(struct ledger_walk_finding *finding, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(finding->detail, sizeof finding->detail, format, arguments);
    va_end(arguments);
}

/* The first bytes of a key in hex, to tell records without a name apart. */
static void describe_key(struct ledger_walk_finding *finding, const uint8_t *key, size_t len,
                         const char *what) {
    char hex[17] = "";
    for (size_t i = 0; i < len && i < 8; i++) {
        snprintf(hex + 2 * i, 3, "%02x", key[i]);
    }
    describe(finding, "key %s...: %s", hex, what);
}

/* --- entries of a table, each in a transaction of its own ------------------------------------ */

struct entry_walk {
    enum ledger_db_table table;
    uint8_t from[LEDGER_DB_KEY_BYTES_MAX + 1];
    size_t from_len; /* 0: from the first on */
};

/* The next entry; ERR_NOT_FOUND behind the last. KEY and VALUE lie in the map. */
static enum err next_entry(struct entry_walk *entries, struct ledger_db_txn *txn,
                           struct ledger_db_bytes *key, struct ledger_db_bytes *value) {
    TRY(ledger_db_seek(txn, entries->table, entries->from, entries->from_len, key, value));
    if (key->len > LEDGER_DB_KEY_BYTES_MAX) {
        return err_fail(ERR_CORRUPT, "ledger: a key of %zu bytes", key->len);
    }
    memcpy(entries->from, key->data, key->len);
    entries->from[key->len] = 0; /* the next key possible */
    entries->from_len = key->len + 1 <= LEDGER_DB_KEY_BYTES_MAX ? key->len + 1 : key->len;
    return ERR_OK;
}

/* Judges one entry inside TXN: fills in *finding and sets its verdict if something is wrong. */
typedef enum err judge_fn(struct walk *walk, struct ledger_db_txn *txn, struct ledger_db_bytes key,
                          struct ledger_db_bytes value, struct ledger_walk_finding *finding);

static enum err judge_next(struct walk *walk, struct entry_walk *entries, judge_fn *judge,
                           struct ledger_walk_finding *finding) {
    struct ledger_db_txn txn CLEANUP(ledger_db_abort) = {0};
    struct ledger_db_bytes key;
    struct ledger_db_bytes value;
    TRY(ledger_db_begin(walk->db, 0, &txn));
    TRY(next_entry(entries, &txn, &key, &value));
    walk->report.bytes += key.len + value.len;
    enum err code = judge(walk, &txn, key, value, finding);
    return code == ERR_NOT_FOUND ? err_context(ERR_CORRUPT, "ledger") : code;
}

static enum err judge_all(struct walk *walk, enum ledger_db_table table, judge_fn *judge) {
    struct entry_walk entries = {.table = table};
    for (;;) {
        struct ledger_walk_finding finding = {0};
        enum err code = judge_next(walk, &entries, judge, &finding);
        if (code == ERR_NOT_FOUND) {
            return ERR_OK;
        }
        TRY(code);
        if (finding.verdict != NULL) { /* I3 */
            TRY(tell(walk, &finding));
        }
    }
}

/* --- tombstones and idempotency --------------------------------------------------------------- */

static enum err judge_tombstone(struct walk *walk, struct ledger_db_txn *txn,
                                struct ledger_db_bytes key, struct ledger_db_bytes value,
                                struct ledger_walk_finding *finding) {
    struct ledger_record_tombstone tombstone;
    struct ledger_record_mark mark;
    struct turn_record_place place;
    finding->record = "tombstone";
    walk->report.tombstones++;
    if (key.len != 8) {
        finding->verdict = "damaged";
        describe_key(finding, key.data, key.len, "no serial");
        return ERR_OK;
    }
    finding->serial = ledger_table_serial_of_key(key.data);
    enum err code =
        ledger_record_decode_tombstone(value.data, value.len, finding->serial, &tombstone);
    if (code != ERR_OK) {
        finding->verdict = refusal(code);
        describe(finding, "%s", err_message());
        return ERR_OK;
    }
    TRY(ledger_table_mark_get(txn, &mark));
    if (finding->serial >= mark.next_serial) {
        finding->verdict = "wrong-serial";
        describe(finding, "the next serial is %llu", (unsigned long long)mark.next_serial);
        return ERR_OK;
    }
    code = ledger_table_turn_next(txn, (struct turn_record_place){finding->serial, 0}, 0, &place);
    if (code != ERR_OK && code != ERR_NOT_FOUND) {
        return code;
    }
    if (code == ERR_OK && place.serial == finding->serial && tombstone.turns_are_removed) {
        finding->verdict = "wrong-place";
        describe(finding, "it says that the turns are removed, turn %u is there", place.turn);
    }
    return ERR_OK;
}

/* Does the turn that ENTRY names know of it? A turn that is refused is told of by its own. */
static enum err judge_idempotency_turn(struct ledger_db_txn *txn,
                                       const struct ledger_record_idempotency *entry,
                                       struct ledger_walk_finding *finding) {
    struct conversation_record conversation;
    struct turn_record turn;
    enum err code = ledger_table_conversation_same(txn, &entry->key, entry->serial, &conversation);
    if (code == ERR_NOT_FOUND || is_refused(code)) {
        return ERR_OK; /* deleted: the entry expires */
    }
    TRY(code);
    uint32_t last = conversation.turn;
    turn_record_conversation_done(&conversation);
    if (entry->turn == 0 || entry->turn > last) {
        finding->verdict = "wrong-place";
        describe(finding, "it names turn %u of %u", entry->turn, last);
        return ERR_OK;
    }
    code =
        ledger_table_turn_get(txn, (struct turn_record_place){entry->serial, entry->turn}, &turn);
    if (code == ERR_NOT_FOUND || is_refused(code)) {
        return ERR_OK;
    }
    TRY(code);
    if (memcmp(turn.idempotency_hash, entry->hash.bytes, sizeof turn.idempotency_hash) != 0 ||
        memcmp(turn.request_digest, entry->request_digest, sizeof turn.request_digest) != 0) {
        finding->verdict = "wrong-place";
        describe(finding, "turn %u was committed with another key or request", entry->turn);
    }
    turn_record_done(&turn);
    return ERR_OK;
}

static enum err judge_idempotency(struct walk *walk, struct ledger_db_txn *txn,
                                  struct ledger_db_bytes key, struct ledger_db_bytes value,
                                  struct ledger_walk_finding *finding) {
    struct ledger_record_idempotency entry;
    struct conversation_key hash;
    finding->record = "idempotency";
    walk->report.idempotency_entries++;
    if (key.len != sizeof hash.bytes) {
        finding->verdict = "damaged";
        describe_key(finding, key.data, key.len, "no hash");
        return ERR_OK;
    }
    memcpy(hash.bytes, key.data, sizeof hash.bytes);
    enum err code = ledger_record_decode_idempotency(value.data, value.len, &hash, &entry);
    if (code != ERR_OK) {
        finding->verdict = refusal(code);
        describe_key(finding, key.data, key.len, err_message());
        return ERR_OK;
    }
    finding->serial = entry.serial;
    finding->turn = entry.turn;
    code = ledger_table_expiry_find(txn, &entry);
    if (code == ERR_NOT_FOUND) {
        finding->record = "expiry";
        finding->verdict = "missing";
        describe_key(finding, key.data, key.len, "the entry would never expire");
        return ERR_OK;
    }
    TRY(code);
    return judge_idempotency_turn(txn, &entry, finding);
}

static enum err judge_expiry(struct walk *walk, struct ledger_db_txn *txn,
                             struct ledger_db_bytes key, struct ledger_db_bytes value,
                             struct ledger_walk_finding *finding) {
    struct ledger_record_idempotency entry;
    struct conversation_key hash;
    (void)walk;
    finding->record = "expiry";
    if (key.len != 8 + sizeof hash.bytes || value.len != 0) {
        finding->verdict = "damaged";
        describe_key(finding, key.data, key.len, "no time and hash");
        return ERR_OK;
    }
    memcpy(hash.bytes, key.data + 8, sizeof hash.bytes);
    enum err code = ledger_table_idempotency_get(txn, &hash, &entry);
    if (code == ERR_NOT_FOUND ||
        (code == ERR_OK && entry.expires_ms != ledger_table_serial_of_key(key.data))) {
        finding->verdict = "orphan";
        describe_key(finding, hash.bytes, sizeof hash.bytes, "no entry expires then");
        return ERR_OK;
    }
    return is_refused(code) ? ERR_OK : code; /* told of by its own */
}

/* --- conversations ---------------------------------------------------------------------------- */

/* The dialect and what lies behind the last turn, in the transaction that showed CONVERSATION. */
static enum err judge_frame(struct walk *walk, struct ledger_db_txn *txn,
                            const struct conversation_record *conversation,
                            struct ledger_walk_finding *finding) {
    struct buf record CLEANUP(buf_done);
    struct ledger_record_mark mark;
    struct turn_record_place behind = {conversation->serial, conversation->turn + 1};
    struct turn_record_place place;
    const uint8_t *text;
    size_t text_bytes;
    buf_init(&record, TURN_RECORD_BYTES_MAX);
    TRY(ledger_table_mark_get(txn, &mark));
    if (conversation->serial == 0 || conversation->serial >= mark.next_serial) {
        finding->record = "conversation";
        finding->verdict = "wrong-serial";
        describe(finding, "serial %llu, the next one is %llu",
                 (unsigned long long)conversation->serial, (unsigned long long)mark.next_serial);
        return ERR_OK;
    }
    enum err code = ledger_table_turn_next(txn, behind, 0, &place);
    if (code == ERR_OK && place.serial == conversation->serial) {
        finding->record = "turn";
        finding->verdict = "orphan";
        finding->turn = place.turn;
        describe(finding, "the conversation's last turn is %u", conversation->turn);
        return ERR_OK;
    }
    if (code != ERR_OK && code != ERR_NOT_FOUND) {
        return code;
    }
    walk->report.dialects++;
    code =
        ledger_table_parts_get(txn, (struct turn_record_place){conversation->serial, 0}, &record);
    walk->report.bytes += record.len;
    if (code == ERR_OK) {
        code = turn_record_decode_dialect(record.data, record.len, conversation->serial, &text,
                                          &text_bytes);
    }
    if (code == ERR_NOT_FOUND || is_refused(code)) {
        finding->record = "dialect";
        finding->verdict = code == ERR_NOT_FOUND ? "missing" : refusal(code);
        describe(finding, "%s", err_message());
        return ERR_OK;
    }
    return code;
}

/* Reads the conversation under KEY and what belongs to it. *is_there is 0 if it can't be read. */
static enum err open_conversation(struct walk *walk, const struct conversation_key *key,
                                  struct conversation_record *out,
                                  struct ledger_walk_finding *finding, int *is_there) {
    struct ledger_db_txn txn CLEANUP(ledger_db_abort) = {0};
    TRY(ledger_db_begin(walk->db, 0, &txn));
    enum err code = ledger_table_conversation_get(&txn, key, out);
    *is_there = code == ERR_OK;
    if (code == ERR_NOT_FOUND) {
        return ERR_OK; /* deleted meanwhile */
    }
    walk->report.conversations++;
    if (is_refused(code)) {
        finding->record = "conversation";
        finding->verdict = refusal(code);
        describe_key(finding, key->bytes, sizeof key->bytes, err_message());
        return ERR_OK;
    }
    TRY(code);
    walk->report.bytes += 40 + 272 + out->identity.tenant_bytes + out->identity.salt_bytes +
                          out->identity.id_bytes + out->extension_bytes;
    finding->identity = &out->identity;
    finding->serial = out->serial;
    return judge_frame(walk, &txn, out, finding);
}

/* I1. *is_there is 0 once the conversation is gone. A refused turn sets the finding's verdict. */
static enum err open_turn(struct walk *walk, const struct conversation_record *conversation,
                          uint32_t turn, struct turn_record *out,
                          struct ledger_walk_finding *finding, int *is_there) {
    struct ledger_db_txn txn CLEANUP(ledger_db_abort) = {0};
    struct conversation_record same;
    struct turn_record_place place = {conversation->serial, turn};
    struct turn_record_place behind;
    struct buf record CLEANUP(buf_done);
    buf_init(&record, TURN_RECORD_BYTES_MAX);
    TRY(ledger_db_begin(walk->db, 0, &txn));
    enum err code =
        ledger_table_conversation_same(&txn, &conversation->key, conversation->serial, &same);
    *is_there = code == ERR_OK;
    if (code != ERR_OK) {
        return code == ERR_NOT_FOUND || is_refused(code) ? ERR_OK : code;
    }
    turn_record_conversation_done(&same);
    code = ledger_table_parts_get(&txn, place, &record);
    if (code == ERR_OK) {
        code = turn_record_decode(record.data, record.len, place, out);
    }
    walk->report.turns += code != ERR_NOT_FOUND;
    walk->report.bytes += record.len;
    finding->record = "turn";
    finding->turn = turn;
    if (code == ERR_NOT_FOUND || is_refused(code)) {
        finding->verdict = code == ERR_NOT_FOUND ? "missing" : refusal(code);
        describe(finding, "%s",
                 code == ERR_NOT_FOUND ? "no record lies in its place" : err_message());
        return ERR_OK;
    }
    TRY(code);
    uint32_t parts =
        (uint32_t)((record.len + LEDGER_TABLE_PART_BYTES - 1) / LEDGER_TABLE_PART_BYTES);
    code = ledger_table_turn_next(&txn, place, parts, &behind);
    if (code == ERR_OK && behind.serial == place.serial && behind.turn == turn) {
        finding->verdict = "wrong-place";
        describe(finding, "a part lies behind its %u", parts);
    }
    return code == ERR_NOT_FOUND ? ERR_OK : code;
}

static enum err walk_turn(struct walk *walk, const struct conversation_record *conversation,
                          uint32_t number, struct ledger_walk_line *line, int *is_there) {
    struct turn_record turn CLEANUP(turn_record_done) = {0};
    struct ledger_walk_finding finding = {.identity = &conversation->identity,
                                          .serial = conversation->serial};
    TRY(open_turn(walk, conversation, number, &turn, &finding, is_there));
    if (!*is_there) {
        return ERR_OK;
    }
    if (turn.turn == 0) {
        ledger_walk_line_lose(line);
    } else {
        const char *verdict = NULL;
        TRY(ledger_walk_line_add(line, &turn, &verdict));
        walk->report.turns_unchained += !line->is_known;
        if (verdict != NULL && finding.verdict == NULL) {
            finding.verdict = verdict;
            describe(&finding, "%s", line->detail);
        }
    }
    return finding.verdict != NULL ? tell(walk, &finding) : ERR_OK;
}

static enum err walk_turns(struct walk *walk, const struct conversation_record *conversation) {
    struct ledger_walk_line line CLEANUP(ledger_walk_line_done);
    int is_there = 1;
    ledger_walk_line_init(&line);
    for (uint32_t turn = 1; is_there && turn <= conversation->turn; turn++) {
        TRY(walk_turn(walk, conversation, turn, &line, &is_there));
    }
    if (is_there && !ledger_walk_line_ends(&line, conversation)) {
        struct ledger_walk_finding finding = {.record = "conversation",
                                              .verdict = "wrong-chain",
                                              .identity = &conversation->identity,
                                              .serial = conversation->serial};
        describe(&finding, "%s", line.detail);
        return tell(walk, &finding);
    }
    return ERR_OK;
}

static enum err walk_conversation(struct walk *walk, const struct conversation_key *key) {
    struct conversation_record conversation CLEANUP(turn_record_conversation_done) = {.serial = 0};
    struct ledger_walk_finding finding = {0};
    int is_there = 0;
    TRY(open_conversation(walk, key, &conversation, &finding, &is_there));
    if (finding.verdict != NULL) {
        TRY(tell(walk, &finding));
    }
    return is_there ? walk_turns(walk, &conversation) : ERR_OK;
}

static enum err next_key(struct walk *walk, struct entry_walk *entries,
                         struct conversation_key *key, size_t *key_len) {
    struct ledger_db_txn txn CLEANUP(ledger_db_abort) = {0};
    struct ledger_db_bytes found;
    struct ledger_db_bytes value;
    TRY(ledger_db_begin(walk->db, 0, &txn));
    TRY(next_entry(entries, &txn, &found, &value));
    *key_len = found.len;
    memcpy(key->bytes, found.data, found.len < sizeof key->bytes ? found.len : sizeof key->bytes);
    return ERR_OK;
}

static enum err walk_conversations(struct walk *walk) {
    struct entry_walk entries = {.table = LEDGER_DB_CONVERSATION};
    for (;;) {
        struct conversation_key key = {{0}};
        size_t key_len = 0;
        enum err code = next_key(walk, &entries, &key, &key_len);
        if (code == ERR_NOT_FOUND) {
            return ERR_OK;
        }
        TRY(code);
        if (key_len == sizeof key.bytes) {
            TRY(walk_conversation(walk, &key));
            continue;
        }
        struct ledger_walk_finding finding = {.record = "conversation", .verdict = "damaged"};
        describe_key(&finding, key.bytes, sizeof key.bytes, "a key of another length");
        TRY(tell(walk, &finding));
    }
}

/* --- owners ----------------------------------------------------------------------------------- */

/* What the payload of a refused conversation record says at the serial's place. */
static uint64_t claimed_serial(struct ledger_db_bytes record) {
    return record.len >= RECORD_FRAME_HEADER_BYTES + 8
               ? record_frame_load_u64(record.data + RECORD_FRAME_HEADER_BYTES)
               : 0;
}

static enum err next_owner(struct ledger_db *db, struct entry_walk *entries,
                           struct ledger_walk_owner *owner, struct conversation_record *record) {
    struct ledger_db_txn txn CLEANUP(ledger_db_abort) = {0};
    struct ledger_db_bytes key;
    struct ledger_db_bytes value;
    struct ledger_record_tombstone tombstone;
    TRY(ledger_db_begin(db, 0, &txn));
    TRY(next_entry(entries, &txn, &key, &value));
    if (entries->table == LEDGER_DB_TOMBSTONE) {
        owner->is_deleted = 1;
        owner->serial = key.len == 8 ? ledger_table_serial_of_key(key.data) : 0;
        if (ledger_record_decode_tombstone(value.data, value.len, owner->serial, &tombstone) ==
            ERR_OK) {
            owner->key = tombstone.key;
        }
        return ERR_OK;
    }
    if (key.len != sizeof owner->key.bytes) {
        return ERR_OK;
    }
    memcpy(owner->key.bytes, key.data, key.len);
    enum err code = turn_record_decode_conversation(value.data, value.len, &owner->key, record);
    if (code == ERR_NOMEM) {
        return code;
    }
    owner->serial = code == ERR_OK ? record->serial : claimed_serial(value);
    owner->conversation = code == ERR_OK ? record : NULL;
    return ERR_OK;
}

static enum err each_owner_of(struct ledger_db *db, enum ledger_db_table table,
                              enum err (*visit)(void *context,
                                                const struct ledger_walk_owner *owner),
                              void *context) {
    struct entry_walk entries = {.table = table};
    for (;;) {
        struct conversation_record record CLEANUP(turn_record_conversation_done) = {.serial = 0};
        struct ledger_walk_owner owner = {.serial = 0};
        enum err code = next_owner(db, &entries, &owner, &record);
        if (code == ERR_NOT_FOUND) {
            return ERR_OK;
        }
        TRY(code);
        code = visit(context, &owner);
        TRY(code == ERR_NOT_FOUND ? ERR_CANCELLED : code);
    }
}

enum err ledger_walk_each_owner(struct ledger *ledger,
                                enum err (*visit)(void *context,
                                                  const struct ledger_walk_owner *owner),
                                void *context) {
    struct ledger_db *db = ledger_environment(ledger);
    TRY(each_owner_of(db, LEDGER_DB_CONVERSATION, visit, context)); /* I2: these first */
    return each_owner_of(db, LEDGER_DB_TOMBSTONE, visit, context);
}

/* --- turns that nobody owns ------------------------------------------------------------------- */

struct serial_mark {
    uint64_t serial;
    uint32_t conversations;
    int is_owned;
};

struct serial_window {
    struct serial_mark *marks; /* ascending */
    size_t count;
    uint64_t next; /* serial to go on with */
};

/* The next serials that have turns, up to a window of them. */
static enum err fill_window(struct ledger_db *db, struct serial_window *window) {
    window->count = 0;
    while (window->count < LEDGER_WALK_WINDOW) {
        struct ledger_db_txn txn CLEANUP(ledger_db_abort) = {0};
        TRY(ledger_db_begin(db, 0, &txn));
        for (int i = 0; i < 256 && window->count < LEDGER_WALK_WINDOW; i++) {
            struct turn_record_place place;
            enum err code = ledger_table_turn_next(
                &txn, (struct turn_record_place){window->next, 0}, 0, &place);
            if (code == ERR_NOT_FOUND) {
                return ERR_OK;
            }
            TRY(code);
            window->marks[window->count++] = (struct serial_mark){.serial = place.serial};
            if (place.serial == UINT64_MAX) {
                return ERR_OK;
            }
            window->next = place.serial + 1;
        }
    }
    return ERR_OK;
}

static int compare_serials(const void *left, const void *right) {
    uint64_t a = ((const struct serial_mark *)left)->serial;
    uint64_t b = ((const struct serial_mark *)right)->serial;
    return a < b ? -1 : a > b;
}

static enum err mark_owner(void *context, const struct ledger_walk_owner *owner) {
    struct serial_window *window = context;
    struct serial_mark wanted = {.serial = owner->serial};
    struct serial_mark *mark =
        bsearch(&wanted, window->marks, window->count, sizeof wanted, compare_serials);
    if (mark != NULL) {
        mark->is_owned = 1;
        mark->conversations += owner->conversation != NULL;
    }
    return ERR_OK;
}

/* Are the turns of SERIAL still there? */
static enum err has_turns(struct ledger_db *db, uint64_t serial, int *out) {
    struct ledger_db_txn txn CLEANUP(ledger_db_abort) = {0};
    struct turn_record_place place;
    TRY(ledger_db_begin(db, 0, &txn));
    enum err code = ledger_table_turn_next(&txn, (struct turn_record_place){serial, 0}, 0, &place);
    *out = code == ERR_OK && place.serial == serial;
    return code == ERR_NOT_FOUND ? ERR_OK : code;
}

static enum err tell_window(struct walk *walk, const struct serial_window *window) {
    for (size_t i = 0; i < window->count; i++) {
        const struct serial_mark *mark = &window->marks[i];
        struct ledger_walk_finding finding = {.record = "turn", .serial = mark->serial};
        int is_there = 0;
        if (mark->conversations > 1) {
            finding.record = "conversation";
            finding.verdict = "wrong-serial";
            describe(&finding, "%u conversations have this serial", mark->conversations);
        } else if (!mark->is_owned) {
            TRY(has_turns(walk->db, mark->serial, &is_there)); /* I2 */
            finding.verdict = is_there ? "orphan" : NULL;
            describe(&finding, "no conversation and no tombstone has their serial");
        }
        if (finding.verdict != NULL) {
            TRY(tell(walk, &finding));
        }
    }
    return ERR_OK;
}

static enum err walk_serials(struct walk *walk, struct ledger *ledger) {
    struct serial_window window = {.marks = calloc(LEDGER_WALK_WINDOW, sizeof *window.marks)};
    enum err code =
        window.marks != NULL ? ERR_OK : err_fail(ERR_NOMEM, "ledger: no memory for a walk");
    do {
        code = code == ERR_OK ? fill_window(walk->db, &window) : code;
        if (code == ERR_OK && window.count > 0) {
            code = ledger_walk_each_owner(ledger, mark_owner, &window);
        }
        code = code == ERR_OK ? tell_window(walk, &window) : code;
    } while (code == ERR_OK && window.count == LEDGER_WALK_WINDOW);
    free(window.marks);
    return code;
}

/* --- the whole -------------------------------------------------------------------------------- */

enum err ledger_walk(struct ledger *ledger, const struct ledger_walk_options *options,
                     struct ledger_walk_report *out) {
    struct walk walk = {.db = ledger_environment(ledger), .options = options};
    if (options->only != NULL) {
        TRY(walk_conversation(&walk, options->only));
    } else {
        TRY(walk_conversations(&walk));
        TRY(walk_serials(&walk, ledger));
        TRY(judge_all(&walk, LEDGER_DB_TOMBSTONE, judge_tombstone));
        TRY(judge_all(&walk, LEDGER_DB_IDEMPOTENCY, judge_idempotency));
        TRY(judge_all(&walk, LEDGER_DB_EXPIRY, judge_expiry));
    }
    *out = walk.report;
    return ERR_OK;
}
