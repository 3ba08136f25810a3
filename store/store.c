/*
 * Heads from creation to publication.
 *
 * I1: a linked head has at least one of a device copy, a host image, or a move in progress; or it
 * is durable and pinned, and will be read again before it is attached. I2: device copies, images
 * and lineages of a head are given back by its last reference, or earlier by eviction; both under
 * the lock. I3: of one key at most one head of a kind and turn is linked.
 */
#include "store/store.h"

#include "base/now.h"
#include "store/mover.h"
#include "store/store_state.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { WARM_SLOTS = 4 }; /* a running one, two that are marked or committed, and one for another */

/* --- creation ------------------------------------------------------------------------------ */

static enum err open_disk(struct store *store) {
    const struct store_config *config = &store->config;
    if (config->directory == NULL) {
        return ERR_OK;
    }
    size_t block = store->layout->block_bytes, slot = store->layout->slot_bytes;
    struct tier_disk_config disk = {
        .dir = config->directory,
        .bytes_max = config->disk_max_bytes,
        .object_bytes_max = block > slot ? block : slot,
    };
    TRY(tier_disk_open(&disk, NULL, &store->disk));
    return promoter_create(store->disk,
                           store->config.promote_threads > 0 ? store->config.promote_threads : 1,
                           &store->promoter);
}

static void init_locks(struct store *store) {
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_mutex_init(&store->submit_lock, NULL);
    pthread_mutex_init(&store->event_lock, NULL);
    pthread_mutex_init(&store->lock, NULL);
    pthread_cond_init(&store->changed, &attributes);
    pthread_cond_init(&store->wake_mover, &attributes);
    pthread_condattr_destroy(&attributes);
}

static enum err start(struct store *store) {
    struct device *device = pool_device(store->config.pool);
    if (strlen(store->config.numerics_class) > RECORD_CLASS_BYTES) {
        return err_fail(ERR_INVALID, "numerics class '%s' is too long",
                        store->config.numerics_class);
    }
    strcpy(store->numerics_class, store->config.numerics_class);
    TRY(head_index_init(&store->index));
    TRY(open_disk(store));
    TRY(device_stream_create(device, DEVICE_STREAM_COPY, &store->out_stream));
    TRY(device_stream_create(device, DEVICE_STREAM_COPY, &store->in_stream));
    return mover_start(store);
}

enum err store_create(const struct store_config *config, struct store **out) {
    struct store *store = calloc(1, sizeof *store);
    if (store == NULL) {
        return err_fail(ERR_NOMEM, "store");
    }
    store->config = *config;
    store->layout = pool_layout(config->pool);
    host_account_init(&store->host, config->host_max_bytes, store->layout->block_bytes,
                      store->layout->slot_bytes);
    store->lineage_next = 1;
    STAILQ_INIT(&store->queue);
    TAILQ_INIT(&store->unwritten);
    TAILQ_INIT(&store->room_waits);
    init_locks(store);
    enum err code = start(store);
    if (code != ERR_OK) {
        store_destroy(store);
        return code;
    }
    *out = store;
    return ERR_OK;
}

void store_destroy(struct store *store) {
    if (store == NULL) {
        return;
    }
    mover_stop(store);
    promoter_destroy(store->promoter);
    tier_disk_close(store->disk, 0); /* tells what waits that it will not be written */
    struct store_head *doomed = NULL;
    pthread_mutex_lock(&store->lock);
    while (!TAILQ_EMPTY(&store->index.recency)) {
        store_state_unlink(store, TAILQ_FIRST(&store->index.recency), &doomed);
    }
    pthread_mutex_unlock(&store->lock);
    store_state_bury(store, doomed);
    host_account_done(&store->host);
    head_index_done(&store->index);
    device_stream_destroy(store->out_stream);
    device_stream_destroy(store->in_stream);
    pthread_cond_destroy(&store->wake_mover);
    pthread_cond_destroy(&store->changed);
    pthread_mutex_destroy(&store->lock);
    pthread_mutex_destroy(&store->event_lock);
    pthread_mutex_destroy(&store->submit_lock);
    free(store);
}

/* Fresh pieces are found without the lock, and then kept as if somebody had given them back. */
static void warm_host(struct store *store, size_t bytes, int count) {
    for (int i = 0; i < count; i++) {
        void *memory = host_account_warm(bytes);
        pthread_mutex_lock(&store->lock);
        host_account_add(&store->host, memory, bytes);
        pthread_mutex_unlock(&store->lock);
    }
}

void store_warm(struct store *store, int tokens) {
    const struct layout *layout = store->layout;
    int blocks = layout->kv_count > 0 ? layout_blocks(layout, tokens) : 0;
    if (store->promoter != NULL) {
        promoter_warm(store->promoter);
    }
    pool_warm(store->config.pool, blocks, WARM_SLOTS);
    warm_host(store, layout->slot_bytes, 1);
    warm_host(store, layout->block_bytes, blocks);
}

/* --- references ----------------------------------------------------------------------------- */

void store_state_drop(struct store_head *head, struct store_head **doomed) {
    while (head != NULL && --head->references == 0) {
        struct store_head *parent = head->parent;
        struct store *store = head->store;
        assert(!head->is_linked && head->device_users == 0 && !head->is_moving);
        host_image_release(&store->host, store->layout, head->host);
        lineage_release(head->lineage);
        head->host = NULL;
        head->lineage = NULL;
        head->parent = NULL;
        head->next_doomed = *doomed;
        *doomed = head;
        head = parent;
    }
}

void store_state_bury(struct store *store, struct store_head *doomed) {
    while (doomed != NULL) {
        struct store_head *next = doomed->next_doomed;
        sequence_head_release(&doomed->device);
        pthread_mutex_lock(&store->event_lock);
        device_event_destroy(doomed->ready);
        pthread_mutex_unlock(&store->event_lock);
        free(doomed);
        doomed = next;
    }
}

void store_state_unlink(struct store *store, struct store_head *head, struct store_head **doomed) {
    head_index_unlink(&store->index, head);
    store_state_strip(store, head);
    store_state_drop(head, doomed);
}

void store_state_unlink_if_gone(struct store *store, struct store_head *head,
                                struct store_head **doomed) {
    int is_in_memory = head->is_on_device || head->host != NULL || head->is_moving;
    int is_awaited = head->pins > 0 && head->is_durable && !head->is_lost;
    if (head->is_linked && !is_in_memory && !is_awaited) {
        store_state_unlink(store, head, doomed);
    }
}

void store_state_strip(struct store *store, struct store_head *head) {
    if (head->is_linked || head->pins > 0 || head->is_moving || head->device_users > 0) {
        return;
    }
    head->is_stripped = 1;
    sequence_head_release(&head->device);
    head->is_on_device = 0;
    if (head->host != NULL && head->host->references == 1) {
        host_image_strip(&store->host, store->layout, head->host);
        store_state_note_progress(store);
    }
}

void store_state_note_progress(struct store *store) {
    store->progress++;
    pthread_cond_broadcast(&store->changed);
}

/* One pin less, and the reference too unless IS_KEPT. */
static void unpin(struct store_head *head, int is_kept) {
    struct store *store = head->store;
    struct store_head *doomed = NULL;
    pthread_mutex_lock(&store->lock);
    head->pins--;
    store_state_unlink_if_gone(store, head, &doomed);
    store_state_strip(store, head);
    if (!is_kept) {
        store_state_drop(head, &doomed);
    }
    store_state_note_progress(store);
    pthread_mutex_unlock(&store->lock);
    store_state_bury(store, doomed);
}

void store_head_release(struct store_head *head) {
    if (head != NULL) {
        unpin(head, 0);
    }
}

void store_head_unpin(struct store_head *head) {
    unpin(head, 1);
}

void store_head_forget(struct store_head *head) {
    struct store *store = head->store;
    struct store_head *doomed = NULL;
    pthread_mutex_lock(&store->lock);
    store_state_drop(head, &doomed);
    store_state_note_progress(store);
    pthread_mutex_unlock(&store->lock);
    store_state_bury(store, doomed);
}

int store_head_device_blocks(struct store_head *head) {
    struct store *store = head->store;
    pthread_mutex_lock(&store->lock);
    int blocks = head->is_on_device ? head_full_blocks(store->layout, head) : 0;
    pthread_mutex_unlock(&store->lock);
    return blocks;
}

int store_head_length(const struct store_head *head) {
    return head->length;
}

/* --- making heads ---------------------------------------------------------------------------- */

static enum err record_ready(struct store *store, struct device_stream *stream,
                             struct store_head *head) {
    pthread_mutex_lock(&store->event_lock);
    enum err code = device_event_create(pool_device(store->config.pool), &head->ready);
    pthread_mutex_unlock(&store->event_lock);
    TRY(code);
    return device_event_record(head->ready, stream);
}

enum err store_head_create(struct store *store, const struct store_head_params *params,
                           struct store_head **out) {
    struct store_head *head = calloc(1, sizeof *head);
    if (head == NULL) {
        return err_fail(ERR_NOMEM, "head");
    }
    head->store = store;
    head->references = 1;
    head->pins = 1;
    head->kind = params->kind;
    head->length = params->length;
    enum err code = sequence_commit(params->sequence, params->stream, params->length,
                                    params->state_slot, &head->device);
    if (code != ERR_OK) {
        free(head);
        return code;
    }
    code = record_ready(store, params->stream, head);
    if (code != ERR_OK) {
        head->device.slot = head->device.slot == params->state_slot ? -1 : head->device.slot;
        store_state_bury(store, head);
        return code;
    }
    head->is_on_device = 1;
    if (params->parent != NULL) {
        pthread_mutex_lock(&store->lock);
        params->parent->references++;
        head->parent = params->parent;
        pthread_mutex_unlock(&store->lock);
    }
    *out = head;
    return ERR_OK;
}

/* --- publishing ------------------------------------------------------------------------------ */

static uint64_t take_lineage_id(struct store *store) {
    return store->disk != NULL ? tier_disk_take_lineage(store->disk) : store->lineage_next++;
}

/*
 * The lineage of a head of FULL blocks: its parent's if the parent ends where the lineage ends,
 * else a child that begins where the parent's blocks do.
 */
static enum err choose_lineage(struct store *store, struct store_head *head, uint64_t id) {
    uint64_t full = (uint64_t)head_full_blocks(store->layout, head);
    struct lineage *line = head->parent == NULL ? NULL : head->parent->lineage;
    uint64_t parent_full =
        line == NULL ? 0 : (uint64_t)head_full_blocks(store->layout, head->parent);
    if (line != NULL && line->end_block == parent_full) {
        head->lineage = lineage_hold(line);
    } else {
        TRY(lineage_create(id, line, parent_full, &head->lineage));
    }
    if (full > head->lineage->end_block) {
        head->lineage->end_block = full;
    }
    return ERR_OK;
}

/* A prompt end lies within the blocks of the turn end that was published with it. */
static struct lineage *lineage_of_turn(struct store *store, const struct store_head *head) {
    struct store_head *other = head_index_first(&store->index, head->key);
    for (; other != NULL; other = head_index_next(other)) {
        if (other->turn == head->turn && other->kind != head->kind &&
            other->length >= head->length) {
            return other->lineage;
        }
    }
    return NULL;
}

static struct store_head *find_linked(struct store *store, const uint8_t *key, enum store_kind kind,
                                      uint64_t turn) {
    struct store_head *head = head_index_first(&store->index, key);
    while (head != NULL && (head->kind != kind || head->turn != turn)) {
        head = head_index_next(head);
    }
    return head;
}

/* What a newer turn end makes superfluous in memory; what lies on disk stays as its policy says. */
static void unlink_older(struct store *store, const struct store_head *newest,
                         struct store_head **doomed) {
    struct store_head *head = head_index_first(&store->index, newest->key);
    while (head != NULL) {
        struct store_head *next = head_index_next(head);
        if (head->turn < newest->turn) {
            store_state_unlink(store, head, doomed);
        }
        head = next;
    }
}

static void begin_spill(struct store *store, struct store_head *head,
                        const struct store_publish *publish) {
    head->wants_disk = store->disk != NULL && head->kind == STORE_KIND_TURN_END &&
                       (store->config.spills_eagerly || publish->must_spill);
    head->must_spill = publish->must_spill;
    if (!head->wants_disk) {
        return;
    }
    head->spilled = publish->spilled;
    head->spilled_context = publish->context;
    mover_queue(store, head);
}

/* The lock is held. ERR_OK: linked, and the index has the caller's reference. */
static enum err link_published(struct store *store, struct store_head *head,
                               const struct store_publish *publish, uint64_t lineage_id,
                               struct store_head **doomed) {
    struct store_head *same = find_linked(store, publish->key, head->kind, publish->turn);
    if (same != NULL) {
        int is_same = same->length == head->length &&
                      memcmp(same->chain_digest, publish->chain_digest, STORE_DIGEST_BYTES) == 0;
        if (is_same) {
            return err_fail(ERR_CONFLICT, "the head is published already");
        }
        store_state_unlink(store, same, doomed);
    }
    memcpy(head->key, publish->key, sizeof head->key);
    memcpy(head->chain_digest, publish->chain_digest, sizeof head->chain_digest);
    head->turn = publish->turn;
    head->published_ms = now_monotonic_ms();
    struct lineage *line = lineage_of_turn(store, head);
    if (line != NULL) {
        head->lineage = lineage_hold(line);
    } else {
        TRY(choose_lineage(store, head, lineage_id));
    }
    head->pins--; /* the publisher's reference becomes the index's */
    head_index_link(&store->index, head);
    if (head->kind == STORE_KIND_TURN_END) {
        unlink_older(store, head, doomed);
    }
    begin_spill(store, head, publish);
    return ERR_OK;
}

void store_publish(struct store *store, struct store_head *head,
                   const struct store_publish *publish) {
    struct store_head *doomed = NULL;
    enum store_kind kind = head->kind;            /* the head may be gone once the lock is */
    uint64_t lineage_id = take_lineage_id(store); /* may be left unused: ids are plenty */
    pthread_mutex_lock(&store->lock);
    enum err code = link_published(store, head, publish, lineage_id, &doomed);
    int is_queued = code == ERR_OK && head->wants_disk;
    pthread_cond_broadcast(&store->changed);
    pthread_mutex_unlock(&store->lock);
    store_state_bury(store, doomed);
    if (code != ERR_OK) {
        store_head_release(head);
    }
    if (!is_queued && publish->spilled != NULL) {
        int is_memory_only = kind == STORE_KIND_PROMPT_END || code == ERR_CONFLICT;
        publish->spilled(publish->context, is_memory_only ? ERR_OK : ERR_UNSUPPORTED);
    }
}

/* --- waiting ---------------------------------------------------------------------------------- */

static int lag_is_within(const struct store *store, uint64_t now_ms) {
    const struct store_head *oldest = TAILQ_FIRST(&store->unwritten);
    if (oldest == NULL) {
        return 1;
    }
    return store->unwritten_bytes <= store->config.spill_lag_bytes &&
           now_ms - oldest->published_ms <= store->config.spill_lag_ms;
}

static struct timespec deadline_of(uint64_t at_ms) {
    return (struct timespec){.tv_sec = (time_t)(at_ms / 1000),
                             .tv_nsec = (long)(at_ms % 1000) * 1000000L};
}

void store_wait_for_lag(struct store *store) {
    pthread_mutex_lock(&store->lock);
    while (!lag_is_within(store, now_monotonic_ms()) && !store->is_stopping) {
        pthread_cond_wait(&store->changed, &store->lock);
    }
    pthread_mutex_unlock(&store->lock);
}

/* Queues every turn end that lies in memory alone since BEFORE_MS or longer; the lock held. */
static void queue_unwritten(struct store *store, uint64_t before_ms) {
    struct store_head *head;
    TAILQ_FOREACH(head, &store->index.recency, recency) {
        if (store->disk != NULL && head->kind == STORE_KIND_TURN_END && !head->is_durable &&
            !head->is_moving && !head->wants_disk && head->published_ms <= before_ms) {
            head->wants_disk = 1;
            mover_queue(store, head);
        }
    }
}

void store_spill_idle(struct store *store) {
    uint64_t now_ms = now_monotonic_ms();
    if (store->config.spill_idle_ms == 0 || now_ms < store->config.spill_idle_ms) {
        return;
    }
    pthread_mutex_lock(&store->lock);
    queue_unwritten(store, now_ms - store->config.spill_idle_ms);
    pthread_mutex_unlock(&store->lock);
}

enum err store_drain(struct store *store, uint32_t timeout_ms) {
    uint64_t until_ms = now_monotonic_ms() + timeout_ms;
    struct timespec until = deadline_of(until_ms);
    enum err code = ERR_OK;
    pthread_mutex_lock(&store->lock);
    store->is_draining = 1;
    queue_unwritten(store, UINT64_MAX);
    while (code == ERR_OK && (store->moving > 0 || !TAILQ_EMPTY(&store->unwritten))) {
        if (pthread_cond_timedwait(&store->changed, &store->lock, &until) != 0) {
            code = err_fail(ERR_BUSY, "%zu heads are not written yet", store->moving);
        }
    }
    store->is_draining = 0;
    pthread_mutex_unlock(&store->lock);
    return code;
}

/* --- deleting ----------------------------------------------------------------------------------
 */

enum err store_delete(struct store *store, const uint8_t key[STORE_KEY_BYTES]) {
    struct store_head *doomed = NULL;
    pthread_mutex_lock(&store->submit_lock);
    pthread_mutex_lock(&store->lock);
    struct store_head *head = head_index_first(&store->index, key);
    while (head != NULL) {
        struct store_head *next = head_index_next(head);
        head->is_deleted = 1;
        store_state_unlink(store, head, &doomed);
        head = next;
    }
    pthread_mutex_unlock(&store->lock);
    pthread_mutex_unlock(&store->submit_lock);
    store_state_bury(store, doomed);
    if (store->disk == NULL) {
        return ERR_OK;
    }
    return tier_disk_remove_conversation(store->disk, key);
}

/* --- counters -----------------------------------------------------------------------------------
 */

static void count_heads(const struct store *store, struct store_counters *out) {
    const struct store_head *head;
    TAILQ_FOREACH(head, &store->index.recency, recency) {
        out->heads_device += (uint64_t)head->is_on_device;
        out->heads_host += head->host != NULL;
    }
}

void store_get_counters(struct store *store, struct store_counters *out) {
    struct tier_disk_stats disk = {0};
    pthread_mutex_lock(&store->lock);
    *out = store->counters;
    count_heads(store, out);
    out->host_bytes = store->host.used_bytes;
    out->host_max_bytes = store->host.max_bytes;
    out->spills_queued = store->moving;
    out->lag_bytes = store->unwritten_bytes;
    if (!TAILQ_EMPTY(&store->unwritten)) {
        out->lag_ms = now_monotonic_ms() - TAILQ_FIRST(&store->unwritten)->published_ms;
    }
    pthread_mutex_unlock(&store->lock);
    if (store->disk == NULL || tier_disk_get_stats(store->disk, &disk) != ERR_OK) {
        return;
    }
    out->disk_bytes = disk.file_bytes;
    out->disk_max_bytes = disk.bytes_max;
    out->spills_queued += disk.jobs_waiting;
    out->spills_done = disk.spills_durable;
    out->spills_dropped = disk.spills_superseded + disk.spills_cancelled;
    out->spills_failed = disk.spills_failed;
    out->spill_bytes = disk.spill_bytes;
    out->quarantined = disk.quarantines;
    out->evicted_disk = disk.evictions;
}
