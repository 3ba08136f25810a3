/*
 * Room in device and host memory: which idle copies go.
 *
 * A pin asks to be spared, it does not forbid: what runs needs the room more, and a head that is
 * gone is computed again. Only a copy in flight keeps its bytes where they are.
 */
#include "store/store_room.h"

#include "store/mover.h"

/* Another copy of the head exists, so that one of them may go without loss. */
static int has_copy_off_device(const struct store_head *head) {
    return head->host != NULL || head->is_durable;
}

/* Nothing holds the head's bytes in memory any more: lookups go to disk, or miss. */
static void unlink_if_gone(struct store *store, struct store_head *head,
                           struct store_head **doomed) {
    if (head->is_linked && !head->is_on_device && head->host == NULL && !head->is_moving) {
        store_state_unlink(store, head, doomed);
    }
}

/* --- device ------------------------------------------------------------------------------- */

enum device_choice {
    CHOOSE_COPIED,        /* idle, and elsewhere too */
    CHOOSE_PINNED_COPIED, /* somebody waits with it, but it is elsewhere too */
    CHOOSE_IMMOVABLE,     /* idle, and nowhere else has room for it: lost */
    CHOOSE_ANY,
    CHOOSE_COUNT,
};

static int is_choice(const struct store_head *head, enum device_choice choice) {
    if (!head->is_on_device || head->device_users > 0) {
        return 0;
    }
    switch (choice) {
    case CHOOSE_COPIED:
        return head->pins == 0 && has_copy_off_device(head);
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

/* The least recently used head of the best choice; NULL if there is none. */
static struct store_head *choose_for_device(struct store *store) {
    for (int choice = 0; choice < CHOOSE_COUNT; choice++) {
        struct store_head *head;
        TAILQ_FOREACH(head, &store->index.recency, recency) {
            if (is_choice(head, (enum device_choice)choice)) {
                return head;
            }
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
        unlink_if_gone(store, head, doomed);
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

/*
 * Evicts the image of the least recently used idle head, first of those that lie elsewhere too.
 * The bytes are free when nothing else holds the image. Nonzero if there was one.
 */
static int drop_one_image(struct store *store, struct store_head **doomed) {
    for (int may_lose = 0; may_lose <= 1; may_lose++) {
        struct store_head *head;
        TAILQ_FOREACH(head, &store->index.recency, recency) {
            int is_elsewhere = head->is_durable || head->is_on_device;
            if (head->host == NULL || head->pins > 0 || head->is_moving ||
                (!is_elsewhere && !may_lose)) {
                continue;
            }
            host_image_release(&store->host, store->layout, head->host);
            head->host = NULL;
            store->counters.evicted_host++;
            unlink_if_gone(store, head, doomed);
            return 1;
        }
    }
    return 0;
}

/* Evicts until BYTES fit under the cap; the lock held. Nonzero if they do. */
static int make_host_room(struct store *store, size_t bytes, struct store_head **doomed) {
    if (bytes > store->host.max_bytes) {
        return 0;
    }
    while (store->host.used_bytes > store->host.max_bytes - bytes) {
        if (!drop_one_image(store, doomed)) {
            return 0;
        }
    }
    return 1;
}

enum err store_room_image(struct store *store, int length, const struct host_image *from,
                          int shared_blocks, struct host_image **out, struct store_head **doomed) {
    make_host_room(store, host_image_bytes(store->layout, length, shared_blocks), doomed);
    return host_image_create(&store->host, store->layout, length, from, shared_blocks, out);
}

enum err store_host_take(struct store *store, size_t bytes, void **out) {
    struct store_head *doomed = NULL;
    pthread_mutex_lock(&store->lock);
    make_host_room(store, bytes, &doomed);
    enum err code = host_account_take(&store->host, bytes, out);
    pthread_mutex_unlock(&store->lock);
    store_state_bury(store, doomed);
    return code;
}

void store_host_give(struct store *store, void *memory, size_t bytes) {
    pthread_mutex_lock(&store->lock);
    host_account_give(&store->host, memory, bytes);
    pthread_cond_broadcast(&store->changed);
    pthread_mutex_unlock(&store->lock);
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
