/*
 * The mover: one thread that copies heads from the device to host memory and hands
 * them to the disk tier.
 *
 * A head's way: mover_queue -> take_next -> copy_to_host (device_users keeps the device copy in
 * place meanwhile) -> submit (only if it wants disk) -> on_written, on a thread of the tier.
 *
 * A durable head that somebody waits with, and memory has not, is read again instead
 * (wants_memory). The mover waits for room in host memory and in the tier's queue: I2 of
 * store_room.c says why that comes to an end.
 *
 * I1: is_moving from mover_queue until the head's last step, so that nothing evicts under it.
 * I2: a head in `unwritten` wants disk and has not been told its fate yet.
 * I3: whoever sees a head deleted under submit_lock does not hand it to the disk tier, so a
 *     deletion that has begun is never followed by a spill of what it deletes.
 */
#include "store/mover.h"

#include "base/now.h"
#include "store/store_find.h"
#include "store/store_room.h"

#include <stdlib.h>
#include <string.h>

/* A spill that the disk tier works on: what it borrows until it is done. */
struct spill_in_flight {
    struct store *store;
    struct store_head *head;  /* a reference */
    struct host_image *image; /* a reference */
    struct spill_segment *segments;
};

/* Bytes that the head adds to what its parent has. */
static uint64_t own_bytes(const struct store *store, const struct store_head *head) {
    int shared = 0;
    if (head->parent != NULL) {
        shared = head_full_blocks(store->layout, head->parent);
    }
    return host_image_bytes(store->layout, head->length, shared);
}

void mover_queue(struct store *store, struct store_head *head) {
    assert(!head->is_moving);
    head->is_moving = 1; /* I1 */
    head->references++;
    store->moving++;
    STAILQ_INSERT_TAIL(&store->queue, head, queue);
    if (head->wants_disk) {
        head->is_unwritten = 1; /* I2 */
        TAILQ_INSERT_TAIL(&store->unwritten, head, writing);
        head->unwritten_bytes = own_bytes(store, head);
        store->unwritten_bytes += head->unwritten_bytes;
    }
    pthread_cond_signal(&store->wake_mover);
}

/* --- ends ----------------------------------------------------------------------------------- */

/* Takes the head off the list of those on their way to disk, and tells whoever waits. */
static void tell_spilled(struct store *store, struct store_head *head, enum err code) {
    void (*spilled)(void *context, enum err code) = NULL;
    pthread_mutex_lock(&store->lock);
    if (head->is_unwritten) {
        head->is_unwritten = 0;
        TAILQ_REMOVE(&store->unwritten, head, writing);
        store->unwritten_bytes -= head->unwritten_bytes;
        spilled = head->spilled;
        head->spilled = NULL;
    }
    head->is_durable |= code == ERR_OK;
    store_state_note_progress(store);
    pthread_mutex_unlock(&store->lock);
    if (spilled != NULL) {
        spilled(head->spilled_context, code);
    }
}

/* The mover's reference goes; the lock is not held. */
static void end_move(struct store *store, struct store_head *head) {
    struct store_head *doomed = NULL;
    pthread_mutex_lock(&store->lock);
    head->is_moving = 0;
    store->moving--;
    store_state_unlink_if_gone(store, head, &doomed);
    store_state_strip(store, head);
    store_state_drop(head, &doomed);
    store_state_note_progress(store);
    pthread_mutex_unlock(&store->lock);
    store_state_bury(store, doomed);
}

/* --- device to host -------------------------------------------------------------------------- */

/* Blocks that the head's parent has in host memory already; its first ones are the head's. */
static int shared_with_parent(const struct store *store, const struct store_head *head) {
    if (head->parent == NULL || head->parent->host == NULL) {
        return 0;
    }
    int full = head_full_blocks(store->layout, head);
    int parent_full = head->parent->host->full_blocks;
    return parent_full < full ? parent_full : full;
}

static enum err enqueue_copies(struct store *store, const struct store_head *head,
                               const struct host_image *image, int first_block) {
    const struct layout *layout = store->layout;
    struct pool *pool = store->config.pool;
    TRY(device_stream_wait_event(store->out_stream, head->ready));
    for (int i = first_block; i < image->full_blocks; i++) {
        TRY(device_copy_out(store->out_stream, image->blocks[i]->bytes,
                            pool_block_ptr(pool, head->device.blocks[i]), layout->block_bytes));
    }
    if (image->tail != NULL) {
        TRY(device_copy_out(store->out_stream, image->tail,
                            pool_block_ptr(pool, head->device.blocks[image->full_blocks]),
                            layout->block_bytes));
    }
    if (image->state != NULL) {
        TRY(device_copy_out(store->out_stream, image->state, pool_slot_ptr(pool, head->device.slot),
                            layout->slot_bytes));
    }
    return ERR_OK;
}

static enum err run_copies(struct store *store, const struct store_head *head,
                           const struct host_image *image, int first_block) {
    enum err code = enqueue_copies(store, head, image, first_block);
    enum err idle = device_stream_wait_idle(store->out_stream);
    return code != ERR_OK ? code : idle;
}

/* A copy that begins. */
struct copy {
    struct host_image *image; /* to be filled; NULL: nothing is to be done */
    int first_block;          /* its blocks before this are there already */
};

/* An image to fill, the device copy held in place; the lock is held. */
static enum err begin_copy(struct store *store, struct store_head *head, struct copy *copy,
                           struct store_head **doomed) {
    if (head->host != NULL || !head->is_on_device) {
        return head->host != NULL ? ERR_OK : err_fail(ERR_NOT_FOUND, "the head was evicted");
    }
    copy->first_block = shared_with_parent(store, head);
    struct store_room_request request = {
        .length = head->length,
        .shared_blocks = copy->first_block,
        .from = copy->first_block > 0 ? head->parent->host : NULL,
        .is_mover = 1,
    };
    TRY(store_room_image(store, &request, &copy->image, doomed));
    head->device_users++;
    return ERR_OK;
}

static enum err begin_reading(struct store *store, struct store_head *head, struct copy *copy,
                              struct store_head **doomed) {
    struct store_room_request request = {.length = head->length, .is_mover = 1};
    return store_room_image(store, &request, &copy->image, doomed);
}

/* A turn end is worth waiting for; a prompt end, or what a newer head has replaced, is not. */
static int is_worth_waiting(const struct store_head *head) {
    return !head->is_deleted && ((head->is_linked && head->kind == STORE_KIND_TURN_END) ||
                                 head->must_spill || head->pins > 0);
}

/* BEGIN, as often as waiting for room helps; the lock is not held. */
static enum err begin_in_time(struct store *store, struct store_head *head,
                              enum err (*begin)(struct store *, struct store_head *, struct copy *,
                                                struct store_head **),
                              struct copy *copy) {
    struct store_room_wait wait = {0};
    int can_fit = host_image_bytes(store->layout, head->length, 0) <= store->host.max_bytes;
    enum err code = ERR_FULL;
    int is_over = 0;
    while (!is_over) {
        struct store_head *doomed = NULL;
        pthread_mutex_lock(&store->lock);
        code = begin(store, head, copy, &doomed);
        is_over = code != ERR_FULL;
        if (!is_over && doomed == NULL) {
            store->is_mover_short = 1;
            is_over = !can_fit || !is_worth_waiting(head) || !store_room_wait(store, &wait);
        }
        if (is_over && store->is_mover_short) {
            store->is_mover_short = 0;
            pthread_cond_broadcast(&store->changed);
        }
        pthread_mutex_unlock(&store->lock);
        store_state_bury(store, doomed);
    }
    return code;
}

enum err mover_take_room(struct store *store, struct store_head *head, struct host_image **out) {
    struct copy copy = {.image = NULL};
    TRY(begin_in_time(store, head, begin_reading, &copy));
    *out = copy.image;
    return ERR_OK;
}

static enum err copy_to_host(struct store *store, struct store_head *head) {
    struct copy copy = {.image = NULL};
    struct store_head *doomed = NULL;
    enum err code = begin_in_time(store, head, begin_copy, &copy);
    if (code == ERR_FULL) {
        pthread_mutex_lock(&store->lock);
        head->is_immovable = 1;
        code = head->is_linked ? code : ERR_CANCELLED; /* a newer head has replaced it */
        pthread_mutex_unlock(&store->lock);
    }
    if (code != ERR_OK || copy.image == NULL) {
        return code;
    }
    code = run_copies(store, head, copy.image, copy.first_block);
    pthread_mutex_lock(&store->lock);
    head->device_users--;
    if (code == ERR_OK) {
        head->host = copy.image;
        head->is_immovable = 0;
    } else {
        host_image_release(&store->host, store->layout, copy.image);
    }
    struct store_head *parent = head->parent;
    head->parent = NULL; /* its blocks are ours now */
    store_state_drop(parent, &doomed);
    store_state_note_progress(store);
    pthread_mutex_unlock(&store->lock);
    store_state_bury(store, doomed);
    return code;
}

/* --- host to disk ----------------------------------------------------------------------------- */

/* The disk is slow, not stuck: whoever waits for room goes on waiting. */
static void note_asked(struct store *store) {
    pthread_mutex_lock(&store->lock);
    store->progress++;
    pthread_mutex_unlock(&store->lock);
}

static enum err fetch(void *context, const struct record_object_key *key, const void **bytes) {
    const struct spill_in_flight *flight = context;
    const struct host_image *image = flight->image;
    note_asked(flight->store);
    switch (key->part) {
    case RECORD_BLOCK:
        if (key->index < (uint64_t)image->full_blocks) {
            *bytes = image->blocks[key->index]->bytes;
            return ERR_OK;
        }
        break;
    case RECORD_TAIL:
        if (image->tail != NULL) {
            *bytes = image->tail;
            return ERR_OK;
        }
        break;
    case RECORD_STATE:
        if (image->state != NULL) {
            *bytes = image->state;
            return ERR_OK;
        }
        break;
    case RECORD_PROMPT_TAIL:
    case RECORD_PROMPT_STATE:
        break;
    }
    return err_fail(ERR_INVALID, "part %d, index %llu is not in the head's image", (int)key->part,
                    (unsigned long long)key->index);
}

static void flight_destroy(struct spill_in_flight *flight) {
    struct store *store = flight->store;
    pthread_mutex_lock(&store->lock);
    host_image_release(&store->host, store->layout, flight->image);
    pthread_mutex_unlock(&store->lock);
    free(flight->segments);
    free(flight);
}

static void on_written(void *context, enum spill_outcome outcome, enum err code,
                       const char *message) {
    struct spill_in_flight *flight = context;
    struct store_head *head = flight->head;
    struct store *store = flight->store;
    (void)message;
    if (outcome == SPILL_SUPERSEDED || outcome == SPILL_CANCELLED) {
        code = ERR_CANCELLED;
    }
    flight_destroy(flight);
    tell_spilled(store, head, code);
    end_move(store, head);
}

/* Root first; the head's lineage ends where the head does, whatever others it has since had. */
static void fill_segments(const struct store *store, const struct store_head *head,
                          struct spill_segment *segments, size_t depth) {
    uint64_t end = (uint64_t)head_full_blocks(store->layout, head);
    const struct lineage *lineage = head->lineage;
    for (size_t i = depth; i-- > 0; lineage = lineage->parent) {
        segments[i] = (struct spill_segment){
            .lineage = lineage->id,
            .first_block = lineage->first_block,
            .end_block = end,
            .held_from = lineage->first_block,
        };
        memcpy(segments[i].conversation, head->key, sizeof segments[i].conversation);
        end = lineage->first_block;
    }
}

static enum codec_element element_of(enum dtype type) {
    switch (type) {
    case DTYPE_F16:
        return CODEC_F16;
    case DTYPE_BF16:
        return CODEC_BF16;
    case DTYPE_F32:
        return CODEC_F32;
    case DTYPE_Q8_0:
        break;
    }
    return CODEC_BYTES;
}

static void fill_record(const struct store *store, const struct store_head *head,
                        struct record_head *out) {
    const struct layout *layout = store->layout;
    int full = head_full_blocks(layout, head);
    *out = (struct record_head){
        .key = {.kind = RECORD_TURN_END, .turn = head->turn},
        .length = (uint64_t)head->length,
        .lineage = head->lineage->id,
        .block_size = (uint32_t)layout->block_size,
        .tail_tokens =
            layout->kv_count > 0 ? (uint32_t)(head->length - full * layout->block_size) : 0,
        .block_count = (uint64_t)full,
        .block_bytes = layout->block_bytes,
        .state_bytes = layout->slot_bytes,
        .block_element = (uint32_t)element_of(layout->kv_type),
        .state_element = CODEC_F32,
    };
    memcpy(out->key.conversation, head->key, sizeof out->key.conversation);
    memcpy(out->key.state_digest, store->config.state_digest, sizeof out->key.state_digest);
    memcpy(out->numerics_class, store->numerics_class, sizeof out->numerics_class);
    memcpy(out->chain_digest, head->chain_digest, sizeof out->chain_digest);
}

/* Takes what the disk tier will borrow; the lock held. */
static enum err prepare(struct store *store, struct store_head *head, struct spill_in_flight **out,
                        struct spill_job *job) {
    size_t depth = lineage_depth(head->lineage);
    struct spill_in_flight *flight = calloc(1, sizeof *flight);
    struct spill_segment *segments = calloc(depth, sizeof *segments);
    if (flight == NULL || segments == NULL) {
        free(flight);
        free(segments);
        return err_fail(ERR_NOMEM, "spill of a head");
    }
    fill_segments(store, head, segments, depth);
    *flight = (struct spill_in_flight){
        .store = store, .head = head, .image = head->host, .segments = segments};
    host_image_hold(head->host);
    *job = (struct spill_job){
        .segments = segments,
        .segment_count = depth,
        .flags = head->must_spill ? SPILL_MUST_WRITE : 0,
        .fetch = fetch,
        .done = on_written,
        .context = flight,
    };
    fill_record(store, head, &job->head);
    *out = flight;
    return ERR_OK;
}

/* ERR_OK: on_written will end the move. ERR_FULL: the tier's queue has no room for it now. */
static enum err submit_now(struct store *store, struct store_head *head) {
    struct spill_in_flight *flight = NULL;
    struct spill_job job;
    pthread_mutex_lock(&store->submit_lock);
    pthread_mutex_lock(&store->lock);
    enum err code = head->is_deleted ? err_fail(ERR_CANCELLED, "the conversation was deleted")
                                     : prepare(store, head, &flight, &job); /* I3 */
    pthread_mutex_unlock(&store->lock);
    if (code == ERR_OK) {
        code = tier_disk_spill(store->disk, &job);
    }
    pthread_mutex_unlock(&store->submit_lock);
    if (code != ERR_OK && flight != NULL) {
        flight_destroy(flight);
    }
    return code;
}

static enum err submit(struct store *store, struct store_head *head) {
    struct store_room_wait wait = {0};
    for (;;) {
        enum err code = submit_now(store, head);
        if (code != ERR_FULL) {
            return code;
        }
        pthread_mutex_lock(&store->lock);
        int is_over = !store_room_wait(store, &wait);
        pthread_mutex_unlock(&store->lock);
        if (is_over) {
            return code;
        }
    }
}

/* --- disk to host ------------------------------------------------------------------------------
 */

/* A head that can't be read is lost for those who wait with it: they begin without it. */
static void read_again(struct store *store, struct store_head *head) {
    enum err code = store_find_again(store, head);
    pthread_mutex_lock(&store->lock);
    head->is_lost = code != ERR_OK;
    pthread_mutex_unlock(&store->lock);
}

/* --- the thread ---------------------------------------------------------------------------------
 */

static void move(struct store *store, struct store_head *head) {
    if (head->wants_memory) {
        head->wants_memory = 0; /* nobody else looks at it before the move's end */
        read_again(store, head);
        end_move(store, head);
        return;
    }
    enum err code = copy_to_host(store, head);
    if (code == ERR_OK && head->wants_disk) {
        code = submit(store, head);
        if (code == ERR_OK) {
            return;
        }
    }
    if (head->wants_disk) {
        pthread_mutex_lock(&store->lock);
        store->counters.spills_failed += code != ERR_CANCELLED;
        pthread_mutex_unlock(&store->lock);
        tell_spilled(store, head, code);
    }
    end_move(store, head);
}

static struct store_head *take_next(struct store *store) {
    pthread_mutex_lock(&store->lock);
    while (STAILQ_EMPTY(&store->queue) && !store->is_stopping) {
        pthread_cond_wait(&store->wake_mover, &store->lock);
    }
    struct store_head *head = STAILQ_FIRST(&store->queue);
    if (head != NULL) {
        STAILQ_REMOVE_HEAD(&store->queue, queue);
    }
    pthread_mutex_unlock(&store->lock);
    return head;
}

static void *run(void *context) {
    struct store *store = context;
    struct store_head *head;
    while ((head = take_next(store)) != NULL) {
        pthread_mutex_lock(&store->lock);
        int is_stopping = store->is_stopping;
        pthread_mutex_unlock(&store->lock);
        if (is_stopping) {
            tell_spilled(store, head, ERR_CANCELLED);
            end_move(store, head);
        } else {
            move(store, head);
        }
    }
    return NULL;
}

enum err mover_start(struct store *store) {
    if (pthread_create(&store->mover, NULL, run, store) != 0) {
        return err_fail(ERR_NOMEM, "mover thread");
    }
    store->has_mover = 1;
    return ERR_OK;
}

void mover_stop(struct store *store) {
    pthread_mutex_lock(&store->lock);
    store->is_stopping = 1;
    pthread_cond_broadcast(&store->wake_mover);
    pthread_cond_broadcast(&store->changed);
    pthread_mutex_unlock(&store->lock);
    if (store->has_mover) {
        pthread_join(store->mover, NULL);
        store->has_mover = 0;
    }
}
