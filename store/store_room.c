/*
 * Room in device and host memory: which idle copies go, and who waits until one can.
 *
 * A pin asks to be spared, it does not forbid: what runs needs the room more, and a head that is
 * gone is read or computed again. Only a copy in flight keeps its bytes where they are.
 *
 * I1: a turn end that is on its way to disk is not given up: neither its device copy nor its image
 *     goes before it is durable, unless its move has ended without success (is_immovable, or
 *     written in vain), which waits for room end with at the latest.
 * I2: host memory is held by images of heads that are durable, or in a move, or that may be lost
 *     (prompt ends, spills that failed); by blocks that superseded heads lend their children; by
 *     images being read; and by requests set aside, at most half of it. Each of the first goes for
 *     the mover at once or when the disk has done its work, pinned or not; reads end by themselves.
 *     So the mover waits for nobody who waits for it.
 * I3: promotions (front threads) spare pinned heads. A pin ends when its request is attached, which
 *     needs device room, which needs the mover: by I2 it comes. They wait for the mover
 *     (is_mover_short) and for each other in the order they came, so that none starves.
 * I4: the engine thread never waits here. A pinned head that was evicted is read again by the
 *     mover when its request is the first in the queue (store_attach: ERR_BUSY).
 * I5: whoever waits holds no lock, no image that it has not filled, no block and no slot; every
 *     change that may make room rises `progress` and wakes all.
 * I6: a wait without progress ends after a time of the order of the spill lag, and while nothing
 *     has moved since, every other one ends at once: a stuck disk costs one such time, not one a
 *     head.
 */
#include "store/store_room.h"

#include "base/now.h"
#include "store/mover.h"

#include <time.h>

enum {
    LAGS_WITHOUT_PROGRESS = 2,
    WAIT_MS_MIN = 500,   /* a lag of a few milliseconds is less than one write takes */
    WAIT_MS_MAX = 10000, /* a lag of an hour is no reason to keep a client waiting */
    WAITS_IN_ALL = 8,    /* as long as there is progress, but others get what it makes */
    ASIDE_SHARE = 2,     /* of host memory, at most one part in so many */
};

/* Another copy of the head exists, so that one of them may go without loss. */
static int has_copy_off_device(const struct store_head *head) {
    return head->host != NULL || head->is_durable;
}

/* --- device ------------------------------------------------------------------------------- */

enum device_choice {
    CHOOSE_COPIED,        /* idle, and elsewhere too */
    CHOOSE_EXPENDABLE,    /* idle, a prompt end, and host memory has no free room for it */
    CHOOSE_PINNED_COPIED, /* somebody waits with it, but it is elsewhere too */
    CHOOSE_IMMOVABLE,     /* idle, and nowhere else has room for it: lost */
    CHOOSE_ANY,
    CHOOSE_COUNT,
};

/* A prompt end saves a little work in rare cases: not worth what another head would lose. */
static int is_expendable(const struct store *store, const struct store_head *head) {
    size_t bytes = host_image_bytes(store->layout, head->length, 0);
    return head->kind == STORE_KIND_PROMPT_END && head->pins == 0 &&
           (bytes > store->host.max_bytes ||
            store->host.used_bytes > store->host.max_bytes - bytes);
}

static int is_choice(const struct store *store, const struct store_head *head,
                     enum device_choice choice) {
    if (!head->is_on_device || head->device_users > 0) {
        return 0;
    }
    switch (choice) {
    case CHOOSE_COPIED:
        return head->pins == 0 && has_copy_off_device(head);
    case CHOOSE_EXPENDABLE:
        return is_expendable(store, head);
    case CHOOSE_PINNED_COPIED:
        return has_copy_off_device(head);
    case CHOOSE_IMMOVABLE:
        return head->pins == 0 && head->is_immovable;
    case CHOOSE_ANY:
        return head->is_immovable;
    case CHOOSE_COUNT:
        break;
    }
    return 0;
}

/*
 * The least recently used head of the best choice; NULL if there is none. Of those that somebody
 * waits with the most recently used: requests are served in the order they came.
 */
static struct store_head *choose_for_device(struct store *store) {
    for (int choice = 0; choice < CHOOSE_COUNT; choice++) {
        struct store_head *head, *last = NULL;
        TAILQ_FOREACH(head, &store->index.recency, recency) {
            if (!is_choice(store, head, (enum device_choice)choice)) {
                continue;
            }
            if (choice != CHOOSE_PINNED_COPIED) {
                return head;
            }
            last = head;
        }
        if (last != NULL) {
            return last;
        }
    }
    return NULL;
}

/* Sends the least recently used head that lies on the device alone on its way to host memory. */
static void demote_one(struct store *store) {
    struct store_head *head;
    TAILQ_FOREACH(head, &store->index.recency, recency) {
        if (head->is_on_device && !has_copy_off_device(head) && !head->is_moving &&
            !head->is_immovable) {
            head->wants_disk = store->disk != NULL && head->kind == STORE_KIND_TURN_END;
            mover_queue(store, head);
            return;
        }
    }
}

/* Takes the device copy of one idle head. Nonzero if there was one. */
static int drop_one_device_copy(struct store *store, struct store_head **doomed) {
    struct sequence_head copy = {.slot = -1};
    pthread_mutex_lock(&store->lock);
    struct store_head *head = choose_for_device(store);
    if (head == NULL) {
        demote_one(store);
    } else {
        copy = head->device;
        head->device = (struct sequence_head){.slot = -1};
        head->is_on_device = 0;
        store->counters.evicted_device++;
        store_state_unlink_if_gone(store, head, doomed);
    }
    pthread_mutex_unlock(&store->lock);
    sequence_head_release(&copy);
    return head != NULL;
}

int store_reclaim(struct store *store, int blocks, int slots) {
    struct store_head *doomed = NULL;
    int is_enough = 0;
    for (;;) {
        struct pool_usage usage;
        store_state_bury(store, doomed); /* may free blocks too */
        doomed = NULL;
        pool_get_usage(store->config.pool, &usage);
        is_enough = usage.blocks_free >= blocks && usage.slots_free >= slots;
        if (is_enough || !drop_one_device_copy(store, &doomed)) {
            break;
        }
    }
    store_state_bury(store, doomed);
    return is_enough;
}

/* --- host --------------------------------------------------------------------------------- */

/* The bytes are free when nothing else holds the image. */
static void drop_image(struct store *store, struct store_head *head, struct store_head **doomed) {
    host_image_release(&store->host, store->layout, head->host);
    head->host = NULL;
    store->counters.evicted_host++;
    store_state_unlink_if_gone(store, head, doomed);
}

enum image_choice {
    IMAGE_IDLE,   /* elsewhere too, or a prompt end */
    IMAGE_PARENT, /* blocks that a superseded head lends its child, which has them on the device */
    IMAGE_PINNED, /* for the mover alone: somebody waits with it, but it is on disk (I2) */
    IMAGE_ALONE,  /* its spill has failed: lost */
    IMAGE_COUNT,
};

/* The head whose image goes if HEAD is looked at; NULL: none. */
static struct store_head *image_of(struct store_head *head, enum image_choice choice) {
    struct store_head *parent = head->parent;
    if (choice == IMAGE_PARENT) {
        return parent != NULL && parent->host != NULL && parent->is_stripped &&
                       parent->host->references == 1
                   ? parent
                   : NULL;
    }
    if (head->host == NULL || head->is_moving || (choice != IMAGE_PINNED && head->pins > 0)) {
        return NULL;
    }
    int is_chosen = 0;
    switch (choice) {
    case IMAGE_IDLE:
        is_chosen = head->is_durable || head->is_on_device || head->kind == STORE_KIND_PROMPT_END;
        break;
    case IMAGE_PINNED:
        is_chosen = head->is_durable;
        break;
    case IMAGE_ALONE:
        is_chosen = 1; /* I1: not moving, so its spill is over */
        break;
    case IMAGE_PARENT:
    case IMAGE_COUNT:
        break;
    }
    return is_chosen ? head : NULL;
}

/*
 * Evicts the image of one head: the least recently used, but of pinned ones the most recently
 * used, since requests are served in the order they came. Nonzero if there was one.
 */
static int drop_one_image(struct store *store, int is_mover, struct store_head **doomed) {
    for (int choice = 0; choice < IMAGE_COUNT; choice++) {
        struct store_head *head, *found = NULL;
        if (choice == IMAGE_PINNED && !is_mover) {
            continue; /* I3 */
        }
        TAILQ_FOREACH(head, &store->index.recency, recency) {
            struct store_head *chosen = image_of(head, (enum image_choice)choice);
            found = chosen != NULL ? chosen : found;
            if (chosen != NULL && choice != IMAGE_PINNED) {
                break;
            }
        }
        if (found == NULL && choice == IMAGE_PARENT) {
            STAILQ_FOREACH(head, &store->queue, queue) { /* superseded ones wait there too */
                found = found == NULL ? image_of(head, IMAGE_PARENT) : found;
            }
        }
        if (found != NULL) {
            drop_image(store, found, doomed);
            return 1;
        }
    }
    return 0;
}

/* Evicts until BYTES fit under the cap; the lock held. Nonzero if they do. */
static int make_host_room(struct store *store, size_t bytes, int is_mover,
                          struct store_head **doomed) {
    if (bytes > store->host.max_bytes) {
        return 0;
    }
    while (store->host.used_bytes > store->host.max_bytes - bytes) {
        if (!drop_one_image(store, is_mover, doomed)) {
            return 0;
        }
    }
    return 1;
}

enum err store_room_image(struct store *store, const struct store_room_request *request,
                          struct host_image **out, struct store_head **doomed) {
    const struct layout *layout = store->layout;
    struct host_image *from = request->from;
    if (from != NULL) {
        host_image_hold(from); /* what is evicted below may be its head's */
    }
    make_host_room(store, host_image_bytes(layout, request->length, request->shared_blocks),
                   request->is_mover, doomed);
    enum err code =
        host_image_create(&store->host, layout, request->length, from, request->shared_blocks, out);
    host_image_release(&store->host, layout, from);
    return code;
}

enum err store_host_take(struct store *store, size_t bytes, void **out) {
    struct store_head *doomed = NULL;
    enum err code = ERR_FULL;
    pthread_mutex_lock(&store->lock);
    size_t aside_max = store->host.max_bytes / ASIDE_SHARE;
    if (bytes > aside_max || store->aside_bytes > aside_max - bytes) {
        code = err_fail(ERR_FULL, "%zu bytes to set a request aside: %zu of %zu are taken", bytes,
                        store->aside_bytes, aside_max); /* I2 */
    } else {
        make_host_room(store, bytes, 0, &doomed);
        code = host_account_take(&store->host, bytes, out);
        store->aside_bytes += code == ERR_OK ? bytes : 0;
    }
    pthread_mutex_unlock(&store->lock);
    store_state_bury(store, doomed);
    return code;
}

void store_host_give(struct store *store, void *memory, size_t bytes) {
    pthread_mutex_lock(&store->lock);
    host_account_give(&store->host, memory, bytes);
    store->aside_bytes -= bytes;
    store_state_note_progress(store);
    pthread_mutex_unlock(&store->lock);
}

/* --- waiting ------------------------------------------------------------------------------- */

static uint64_t wait_ms_of(const struct store *store) {
    uint64_t ms = (uint64_t)store->config.spill_lag_ms * LAGS_WITHOUT_PROGRESS;
    ms = ms < WAIT_MS_MIN ? WAIT_MS_MIN : ms;
    return ms > WAIT_MS_MAX ? WAIT_MS_MAX : ms;
}

int store_room_wait(struct store *store, struct store_room_wait *wait) {
    uint64_t now_ms = now_monotonic_ms();
    uint64_t wait_ms = wait_ms_of(store);
    if (wait->begun_ms == 0) {
        wait->begun_ms = now_ms;
        wait->seen_ms = now_ms;
        wait->progress = store->progress;
    } else if (wait->progress != store->progress) {
        wait->seen_ms = now_ms;
        wait->progress = store->progress;
    }
    int is_stalled = store->has_stalled && store->stalled_at == store->progress; /* I6 */
    if (now_ms - wait->seen_ms >= wait_ms) {
        store->has_stalled = 1;
        store->stalled_at = store->progress;
        is_stalled = 1;
    }
    if (is_stalled || store->is_stopping || now_ms - wait->begun_ms >= WAITS_IN_ALL * wait_ms) {
        return 0;
    }
    uint64_t until_ms = wait->seen_ms + wait_ms;
    struct timespec until = {.tv_sec = (time_t)(until_ms / 1000),
                             .tv_nsec = (long)(until_ms % 1000) * 1000000L};
    int rc = pthread_cond_timedwait(&store->changed, &store->lock, &until);
    (void)rc; /* the next call sees whether the time is over */
    return 1;
}

/* Its turn has come: nobody is before it, and the mover is not short (I3). */
static int may_take(const struct store *store, const struct store_room_wait *wait) {
    return TAILQ_FIRST(&store->room_waits) == wait && !store->is_mover_short;
}

enum err store_room_promote(struct store *store, int length, struct host_image **out) {
    const struct store_room_request request = {.length = length};
    struct store_room_wait wait = {0};
    enum err code = ERR_FULL;
    int can_fit = host_image_bytes(store->layout, length, 0) <= store->host.max_bytes;
    int is_over = 0;
    pthread_mutex_lock(&store->lock);
    TAILQ_INSERT_TAIL(&store->room_waits, &wait, link);
    while (!is_over) {
        struct store_head *doomed = NULL;
        code = may_take(store, &wait) ? store_room_image(store, &request, out, &doomed) : ERR_FULL;
        is_over = code != ERR_FULL || !can_fit;
        if (doomed != NULL) {
            pthread_mutex_unlock(&store->lock);
            store_state_bury(store, doomed);
            pthread_mutex_lock(&store->lock);
        } else {
            is_over = is_over || !store_room_wait(store, &wait);
        }
    }
    TAILQ_REMOVE(&store->room_waits, &wait, link);
    pthread_cond_broadcast(&store->changed); /* the next one's turn */
    pthread_mutex_unlock(&store->lock);
    return code;
}

/* --- both ----------------------------------------------------------------------------------- */

static int is_idle_copy(const struct store_head *head) {
    return head->is_durable && head->pins == 0 && head->device_users == 0 && !head->is_moving;
}

/* One idle head that lies on disk too leaves memory. Nonzero if there was one. */
static int drop_one_durable(struct store *store, struct store_head **doomed) {
    struct store_head *head;
    pthread_mutex_lock(&store->lock);
    TAILQ_FOREACH(head, &store->index.recency, recency) {
        if (is_idle_copy(head)) {
            store_state_unlink(store, head, doomed);
            break;
        }
    }
    pthread_mutex_unlock(&store->lock);
    return head != NULL;
}

void store_trim(struct store *store) {
    struct store_head *doomed = NULL;
    while (drop_one_durable(store, &doomed)) {
        store_state_bury(store, doomed);
        doomed = NULL;
    }
    store_state_bury(store, doomed);
}
