#include "gpu/profile_record.h"

#include "gpu/backend.h"
#include "gpu/cost.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct profile {
    pthread_mutex_t lock; /* streams run at once */
    struct profile_report report;
};

/* --- collecting ------------------------------------------------------------------------ */

static void name_command(const struct command *command, char name[PROFILE_NAME_BYTES]) {
    const char *kind = command_name(command->kind);
    if (command->kind != COMMAND_MATMUL) {
        snprintf(name, PROFILE_NAME_BYTES, "%s", kind);
        return;
    }
    int rows = 0;
    for (int i = 0; i < command->matmul.product_count; i++) {
        rows += command->matmul.products[i].weight->rows;
    }
    snprintf(name, PROFILE_NAME_BYTES, "%s %d x %d", kind, rows,
             command->matmul.products[0].weight->columns);
}

/* The line of NAME, begun if need be; what comes after the last line goes into that. */
static struct profile_line *find_line(struct profile_report *report, const char *name) {
    for (size_t i = 0; i < report->count; i++) {
        if (strcmp(report->lines[i].name, name) == 0) {
            return &report->lines[i];
        }
    }
    if (report->count == PROFILE_LINES_MAX) {
        struct profile_line *last = &report->lines[PROFILE_LINES_MAX - 1];
        snprintf(last->name, sizeof last->name, "others");
        return last;
    }
    struct profile_line *line = &report->lines[report->count++];
    *line = (struct profile_line){0};
    snprintf(line->name, sizeof line->name, "%s", name);
    return line;
}

void profile_record_add(struct profile *profile, const struct command *command, uint64_t ns) {
    char name[PROFILE_NAME_BYTES];
    struct cost cost = cost_of(command);
    name_command(command, name);
    pthread_mutex_lock(&profile->lock);
    struct profile_line *line = find_line(&profile->report, name);
    line->count++;
    line->ns += ns;
    line->bytes += cost.bytes;
    line->dot_ops += cost.dot_ops;
    line->float_ops += cost.float_ops;
    pthread_mutex_unlock(&profile->lock);
}

/* --- life ------------------------------------------------------------------------------ */

void profile_record_destroy(struct profile *profile) {
    if (profile != NULL) {
        pthread_mutex_destroy(&profile->lock);
        free(profile);
    }
}

enum err profile_start(struct device *device) {
    struct profile *profile = calloc(1, sizeof *profile);
    if (profile == NULL) {
        return err_fail(ERR_NOMEM, "profile");
    }
    pthread_mutex_init(&profile->lock, NULL);
    profile_record_destroy(device->profile);
    device->profile = profile;
    return ERR_OK;
}

void profile_stop(struct device *device, struct profile_report *out) {
    struct profile *profile = device->profile;
    device->profile = NULL;
    out->count = 0;
    if (profile != NULL) {
        *out = profile->report;
    }
    profile_record_destroy(profile);
}

enum err profile_measure_peaks(struct device *device, struct profile_peaks *out) {
    return device->ops->measure_peaks(device, out);
}
