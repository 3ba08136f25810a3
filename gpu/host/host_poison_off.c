#include "gpu/host/host_poison.h"

int host_poison_is_active(void) {
    return 0;
}

enum err host_poison_create(struct host_poison **out) {
    *out = NULL;
    return ERR_OK;
}

void host_poison_destroy(struct host_poison *poison) {
    (void)poison;
}

void host_poison_cover(void *memory, size_t bytes) {
    (void)memory;
    (void)bytes;
}

void host_poison_uncover(void *memory, size_t bytes) {
    (void)memory;
    (void)bytes;
}

struct host_poison_hold *host_poison_open_command(struct host_poison *poison,
                                                  const struct command *command) {
    (void)poison;
    (void)command;
    return NULL;
}

struct host_poison_hold *host_poison_open_ranges(struct host_poison *poison,
                                                 const struct host_poison_range *ranges,
                                                 size_t count) {
    (void)poison;
    (void)ranges;
    (void)count;
    return NULL;
}

void host_poison_close(struct host_poison *poison, struct host_poison_hold *hold) {
    (void)poison;
    (void)hold;
}
