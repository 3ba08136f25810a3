#include "store/lineage.h"

#include <stdlib.h>

enum err lineage_create(uint64_t id, struct lineage *parent, uint64_t first_block,
                        struct lineage **out) {
    assert(parent == NULL || (parent->id < id && first_block <= parent->end_block));
    struct lineage *lineage = calloc(1, sizeof *lineage);
    if (lineage == NULL) {
        return err_fail(ERR_NOMEM, "lineage");
    }
    lineage->references = 1;
    lineage->id = id;
    lineage->parent = parent == NULL ? NULL : lineage_hold(parent);
    lineage->first_block = first_block;
    lineage->end_block = first_block;
    *out = lineage;
    return ERR_OK;
}

struct lineage *lineage_hold(struct lineage *lineage) {
    lineage->references++;
    return lineage;
}

void lineage_release(struct lineage *lineage) {
    while (lineage != NULL && --lineage->references == 0) {
        struct lineage *parent = lineage->parent;
        free(lineage);
        lineage = parent;
    }
}

size_t lineage_depth(const struct lineage *lineage) {
    size_t depth = 0;
    for (; lineage != NULL; lineage = lineage->parent) {
        depth++;
    }
    return depth;
}
