/*
 * Lookup, promotion from disk, and attaching. A head is taken only if kind, turn,
 * length and chain digest are those that the ledger vouches for, state digest and
 * numerics class are this server's, and every byte of it has passed its checksum.
 * Anything else is a miss with a reason, and the next candidate is tried.
 */
#include "store/store_find.h"

#include "base/now.h"
#include "store/mover.h"
#include "store/store_room.h"

#include <stdlib.h>
#include <string.h>

/* Reasons that a better candidate was not taken. Part of the API: see docs/api.md. */
static const char reason_missing[] = "state_missing";
static const char reason_chain[] = "chain_digest_mismatch";
static const char reason_length[] = "length_mismatch";
static const char reason_class[] = "numerics_class_mismatch";
static const char reason_incomplete[] = "state_incomplete";
static const char reason_quarantined[] = "state_quarantined";
static const char reason_unreadable[] = "state_unreadable";
static const char reason_damaged[] = "state_damaged";
static const char reason_host_full[] = "host_memory_full";

/* --- memory ---------------------------------------------------------------------------------- */

static const char *compare(const struct store_candidate *candidate, int length,
                           const uint8_t *chain_digest) {
    if (length != candidate->length) {
        return reason_length;
    }
    if (memcmp(chain_digest, candidate->chain_digest, STORE_DIGEST_BYTES) != 0) {
        return reason_chain;
    }
    return NULL;
}

static struct store_head *find_in_memory(struct store *store, const struct store_want *want,
                                         const struct store_candidate *candidate, enum tier *tier,
                                         const char **reason) {
    struct store_head *found = NULL;
    pthread_mutex_lock(&store->lock);
    struct store_head *head = head_index_first(&store->index, want->key);
    for (; head != NULL && found == NULL; head = head_index_next(head)) {
        if (head->kind != candidate->kind || head->turn != candidate->turn ||
            (!head->is_on_device && head->host == NULL)) {
            continue;
        }
        *reason = compare(candidate, head->length, head->chain_digest);
        if (*reason == NULL) {
            found = head;
        }
    }
    if (found != NULL) {
        found->references++;
        found->pins++;
        head_index_touch(&store->index, found);
        *tier = found->is_on_device ? TIER_DEVICE : TIER_HOST;
    }
    pthread_mutex_unlock(&store->lock);
    return found;
}

/* --- disk ------------------------------------------------------------------------------------ */

/* Called from several threads; an image that is being filled doesn't change its shape. */
static enum err place(void *context, const struct record_object_key *key, void **destination) {
    struct host_image *image = context;
    switch (key->part) {
    case RECORD_BLOCK:
        if (key->index < (uint64_t)image->full_blocks) {
            *destination = image->blocks[key->index]->bytes;
            return ERR_OK;
        }
        break;
    case RECORD_TAIL:
        *destination = image->tail;
        return image->tail != NULL ? ERR_OK : err_fail(ERR_FORMAT, "a tail was not expected");
    case RECORD_STATE:
        *destination = image->state;
        return image->state != NULL ? ERR_OK : err_fail(ERR_FORMAT, "a state was not expected");
    case RECORD_PROMPT_TAIL:
    case RECORD_PROMPT_STATE:
        break;
    }
    return err_fail(ERR_FORMAT, "part %d, index %llu was not expected", (int)key->part,
                    (unsigned long long)key->index);
}

/* Reads every object of the head into IMAGE. NULL: all are there and sound; else the reason. */
static const char *read_image(struct store *store, const struct head_plan *plan,
                              struct host_image *image, uint64_t *bytes_read) {
    struct head_want want = {
        .end_block = (uint64_t)image->full_blocks,
        .tail = image->tail != NULL,
        .state = image->state != NULL,
    };
    struct head_sink sink = {.place = place, .context = image};
    struct head_failure failure;
    tier_disk_will_need(store->disk, plan, &want);
    enum err code = promoter_read(store->promoter, plan, &want, &sink, &failure, bytes_read);
    if (code == ERR_CORRUPT) {
        /* Out of use even if it cannot be removed now: lookups will not find it again. */
        enum err removed = tier_disk_quarantine(store->disk, &plan->head, &failure);
        (void)removed;
        return reason_damaged;
    }
    if (code == ERR_NOT_FOUND) {
        return reason_missing;
    }
    return code == ERR_OK ? NULL : reason_unreadable;
}

/* Does the record describe what this server would make of the candidate? */
static const char *check_record(const struct store *store, const struct record_head *record,
                                const struct store_candidate *candidate) {
    const struct layout *layout = store->layout;
    if (record->key.turn != candidate->turn) {
        return reason_missing;
    }
    if (record->length != (uint64_t)candidate->length) {
        return reason_length;
    }
    if (memcmp(record->chain_digest, candidate->chain_digest, STORE_DIGEST_BYTES) != 0) {
        return reason_chain;
    }
    if (strcmp(record->numerics_class, store->numerics_class) != 0) {
        return reason_class;
    }
    uint64_t full = layout->kv_count > 0 ? (uint64_t)(candidate->length / layout->block_size) : 0;
    if (record->block_count != full || record->block_bytes != layout->block_bytes ||
        record->state_bytes != layout->slot_bytes) {
        return reason_length;
    }
    return NULL;
}

/*
 * The lineages of a head that was read. Where its own lineage ends on disk is not known, so what
 * continues from the head begins a child of it.
 */
static enum err restore_lineage(const struct head_plan *plan, struct lineage **out) {
    struct lineage *lineage = NULL;
    for (size_t i = plan->span_count; i-- > 0;) {
        struct lineage *child = NULL;
        enum err code =
            lineage_create(plan->spans[i].lineage, lineage, plan->spans[i].first, &child);
        lineage_release(lineage);
        TRY(code);
        child->end_block = UINT64_MAX;
        lineage = child;
    }
    *out = lineage;
    return ERR_OK;
}

/* What memory knows of the same head: without bytes if somebody waits with it, or from a lookup at
 * the same time. The lock is held. */
static void unlink_same(struct store *store, const struct store_head *head,
                        struct store_head **doomed) {
    struct store_head *other = head_index_first(&store->index, head->key);
    while (other != NULL && (other->kind != head->kind || other->turn != head->turn)) {
        other = head_index_next(other);
    }
    if (other != NULL) {
        store_state_unlink(store, other, doomed);
    }
}

static enum err link_promoted(struct store *store, const struct store_want *want,
                              const struct store_candidate *candidate, const struct head_plan *plan,
                              struct host_image *image, struct store_head **out) {
    struct store_head *head = calloc(1, sizeof *head);
    if (head == NULL) {
        return err_fail(ERR_NOMEM, "head");
    }
    head->store = store;
    head->references = 2; /* the index's and the finder's */
    head->pins = 1;
    head->kind = candidate->kind;
    head->length = candidate->length;
    head->turn = candidate->turn;
    memcpy(head->key, want->key, sizeof head->key);
    memcpy(head->chain_digest, candidate->chain_digest, sizeof head->chain_digest);
    head->device = (struct sequence_head){.slot = -1};
    head->is_durable = 1;
    enum err code = restore_lineage(plan, &head->lineage);
    if (code != ERR_OK) {
        free(head);
        return code;
    }
    pthread_mutex_lock(&store->lock);
    struct store_head *doomed = NULL;
    unlink_same(store, head, &doomed);
    head->host = image;
    head_index_link(&store->index, head);
    store_state_note_progress(store); /* the mover may take it (I2 of store_room.c) */
    pthread_mutex_unlock(&store->lock);
    store_state_bury(store, doomed);
    *out = head;
    return ERR_OK;
}

static void give_image(struct store *store, struct host_image *image) {
    pthread_mutex_lock(&store->lock);
    host_image_release(&store->host, store->layout, image);
    store_state_note_progress(store);
    pthread_mutex_unlock(&store->lock);
}

/* Reads the planned head into a new image and links it. NULL: *out is pinned. */
static const char *promote(struct store *store, const struct store_want *want,
                           const struct store_candidate *candidate, const struct head_plan *plan,
                           struct store_found *found) {
    struct host_image *image = NULL;
    if (store_room_promote(store, candidate->length, &image) != ERR_OK) {
        return reason_host_full;
    }
    const char *reason = read_image(store, plan, image, &found->bytes_read);
    if (reason == NULL &&
        link_promoted(store, want, candidate, plan, image, &found->head) != ERR_OK) {
        reason = reason_unreadable;
    }
    if (reason != NULL) {
        give_image(store, image);
        return reason;
    }
    tier_disk_touch(store->disk, &plan->head.key);
    found->tier = TIER_DISK;
    return NULL;
}

static const char *reason_of_answer(enum tier_disk_answer answer) {
    switch (answer) {
    case TIER_DISK_INCOMPLETE:
        return reason_incomplete;
    case TIER_DISK_QUARANTINED:
        return reason_quarantined;
    case TIER_DISK_UNREADABLE:
        return reason_unreadable;
    case TIER_DISK_HIT:
    case TIER_DISK_UNKNOWN:
    case TIER_DISK_EXPIRED:
        break;
    }
    return reason_missing;
}

/* Where the candidate's objects lie. NULL: *plan_out is the caller's; else the reason. */
static const char *plan_on_disk(struct store *store, const uint8_t *conversation,
                                const struct store_candidate *candidate,
                                struct head_plan **plan_out) {
    struct record_head_key key = {.kind = RECORD_TURN_END, .turn = candidate->turn};
    struct record_head record;
    if (store->disk == NULL || candidate->kind != STORE_KIND_TURN_END) {
        return reason_missing;
    }
    memcpy(key.conversation, conversation, sizeof key.conversation);
    memcpy(key.state_digest, store->config.state_digest, sizeof key.state_digest);
    enum tier_disk_answer answer = tier_disk_lookup(store->disk, &key, &record);
    if (answer != TIER_DISK_HIT) {
        return reason_of_answer(answer);
    }
    const char *reason = check_record(store, &record, candidate);
    if (reason != NULL) {
        return reason;
    }
    enum err code = tier_disk_plan(store->disk, &record, plan_out);
    if (code != ERR_OK) {
        return code == ERR_NOT_FOUND ? reason_incomplete : reason_damaged;
    }
    return NULL;
}

static const char *find_on_disk(struct store *store, const struct store_want *want,
                                const struct store_candidate *candidate,
                                struct store_found *found) {
    struct head_plan *plan = NULL;
    const char *reason = plan_on_disk(store, want->key, candidate, &plan);
    if (reason == NULL) {
        reason = promote(store, want, candidate, plan, found);
    }
    head_plan_destroy(plan);
    return reason;
}

enum err store_find_again(struct store *store, struct store_head *head) {
    struct host_image *image = NULL;
    struct head_plan *plan = NULL;
    uint64_t bytes_read = 0;
    struct store_candidate candidate = {
        .kind = head->kind, .turn = head->turn, .length = head->length};
    memcpy(candidate.chain_digest, head->chain_digest, sizeof candidate.chain_digest);
    const char *reason = plan_on_disk(store, head->key, &candidate, &plan);
    if (reason == NULL && mover_take_room(store, head, &image) != ERR_OK) {
        reason = reason_host_full;
    }
    if (reason == NULL) {
        reason = read_image(store, plan, image, &bytes_read);
    }
    head_plan_destroy(plan);
    if (reason != NULL) {
        give_image(store, image); /* NULL is allowed */
        return err_fail(ERR_NOT_FOUND, "reading a head of %d tokens again: %s", head->length,
                        reason);
    }
    pthread_mutex_lock(&store->lock);
    head->host = image;
    pthread_mutex_unlock(&store->lock);
    return ERR_OK;
}

/* --- the lookup --------------------------------------------------------------------------------
 */

void store_find(struct store *store, const struct store_want *want, struct store_found *out) {
    struct store_found found = {0};
    uint64_t begun_ns = now_monotonic_ns();
    for (size_t i = 0; i < want->candidate_count && found.head == NULL; i++) {
        const struct store_candidate *candidate = &want->candidates[i];
        const char *reason = NULL;
        found.candidate = i;
        found.head = find_in_memory(store, want, candidate, &found.tier, &reason);
        if (found.head == NULL && reason == NULL) {
            reason = find_on_disk(store, want, candidate, &found);
        }
        if (found.head == NULL && found.reason == NULL) {
            found.reason = reason;
        }
    }
    found.promote_ms = (double)(now_monotonic_ns() - begun_ns) / 1e6;
    pthread_mutex_lock(&store->lock);
    store->counters.found[found.head == NULL ? TIER_NONE : found.tier]++;
    pthread_mutex_unlock(&store->lock);
    *out = found;
}

uint64_t store_newest_on_disk(struct store *store, const uint8_t key[STORE_KEY_BYTES],
                              uint64_t turn_max) {
    struct record_head_key wanted = {.kind = RECORD_TURN_END, .turn = turn_max};
    struct record_head record;
    if (store->disk == NULL || turn_max == 0) {
        return 0;
    }
    memcpy(wanted.conversation, key, sizeof wanted.conversation);
    memcpy(wanted.state_digest, store->config.state_digest, sizeof wanted.state_digest);
    return tier_disk_lookup(store->disk, &wanted, &record) == TIER_DISK_HIT ? record.key.turn : 0;
}

/* --- attaching -----------------------------------------------------------------------------------
 */

/* The compute stream is done with what lay in the sequence's blocks before they are filled, and
 * uses them only when they are. */
static enum err copy_between_events(struct store *store, struct device_stream *stream,
                                    const struct sequence *sequence, const struct host_image *image,
                                    struct device_event *event) {
    const struct layout *layout = store->layout;
    struct pool *pool = store->config.pool;
    TRY(device_event_record(event, stream));
    TRY(device_stream_wait_event(store->in_stream, event));
    for (int i = 0; i < image->full_blocks; i++) {
        TRY(device_copy_in(store->in_stream, pool_block_ptr(pool, sequence->blocks[i]),
                           image->blocks[i]->bytes, layout->block_bytes));
    }
    if (image->tail != NULL) {
        TRY(device_copy_in(store->in_stream,
                           pool_block_ptr(pool, sequence->blocks[image->full_blocks]), image->tail,
                           layout->block_bytes));
    }
    if (image->state != NULL) {
        TRY(device_copy_in(store->in_stream, pool_slot_ptr(pool, sequence->slot), image->state,
                           layout->slot_bytes));
    }
    TRY(device_event_record(event, store->in_stream));
    return device_stream_wait_event(stream, event);
}

static enum err copy_in(struct store *store, struct device_stream *stream,
                        const struct sequence *sequence, const struct host_image *image) {
    struct device_event *event = NULL;
    pthread_mutex_lock(&store->event_lock);
    enum err code = device_event_create(pool_device(store->config.pool), &event);
    pthread_mutex_unlock(&store->event_lock);
    TRY(code);
    code = copy_between_events(store, stream, sequence, image, event);
    /* The image may be evicted as soon as its pin goes: the copies from it must have run. */
    enum err idle = device_stream_wait_idle(store->in_stream);
    pthread_mutex_lock(&store->event_lock);
    device_event_destroy(event);
    pthread_mutex_unlock(&store->event_lock);
    return code != ERR_OK ? code : idle;
}

static enum err attach_image(struct store *store, struct sequence *sequence,
                             struct device_stream *stream, const struct host_image *image) {
    TRY(sequence_start(sequence, stream));
    TRY(sequence_reserve(sequence, image->length));
    TRY(copy_in(store, stream, sequence, image));
    sequence->length = image->length;
    return ERR_OK;
}

/* The head has no copy in memory. Nonzero: one will come, from disk; the lock held. */
static int ask_again(struct store *store, struct store_head *head) {
    if (!head->is_linked || !head->is_durable || head->is_lost) {
        return 0;
    }
    if (!head->is_moving) {
        head->wants_memory = 1;
        head->wants_disk = 0; /* it has been there */
        mover_queue(store, head);
    }
    return 1;
}

/* Keeps what lies in memory of the head in place, and says which it is. TIER_NONE: nothing does;
 * *is_coming then. */
static enum tier hold_residence(struct store *store, struct store_head *head,
                                struct host_image **image, int *is_coming) {
    enum tier tier = TIER_NONE;
    pthread_mutex_lock(&store->lock);
    if (head->is_stripped) {
        tier = TIER_NONE; /* its image may be one of blocks alone */
    } else if (head->is_on_device) {
        head->device_users++;
        tier = TIER_DEVICE;
    } else if (head->host != NULL) {
        host_image_hold(head->host);
        *image = head->host;
        tier = TIER_HOST;
    } else {
        *is_coming = ask_again(store, head);
    }
    pthread_mutex_unlock(&store->lock);
    return tier;
}

static void let_residence_go(struct store *store, struct store_head *head, enum tier tier,
                             struct host_image *image) {
    pthread_mutex_lock(&store->lock);
    if (tier == TIER_DEVICE) {
        head->device_users--;
    } else {
        host_image_release(&store->host, store->layout, image);
    }
    store_state_note_progress(store);
    pthread_mutex_unlock(&store->lock);
}

enum err store_attach(struct store *store, struct store_head *head, struct sequence *sequence,
                      struct device_stream *stream) {
    struct host_image *image = NULL;
    int is_coming = 0;
    enum tier tier = hold_residence(store, head, &image, &is_coming);
    if (tier == TIER_NONE && is_coming) {
        return err_fail(ERR_BUSY, "the head of %d tokens is read again", head->length);
    }
    if (tier == TIER_NONE) {
        return err_fail(ERR_NOT_FOUND, "the head of %d tokens was evicted", head->length);
    }
    enum err code = tier == TIER_DEVICE ? sequence_attach(sequence, stream, &head->device)
                                        : attach_image(store, sequence, stream, image);
    let_residence_go(store, head, tier, image);
    return code;
}
