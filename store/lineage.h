/*
 * A lineage in memory: a line of KV blocks that successive heads of a
 * conversation share, because each continued from the one before. A head that
 * continues from anything but its lineage's end begins a child lineage, whose
 * first blocks are its parent's.
 *
 * The store's lock covers every call.
 */
#ifndef TERN_STORE_LINEAGE_H
#define TERN_STORE_LINEAGE_H

#include "base/err.h"

struct lineage {
    int references;
    uint64_t id;            /* above its parent's */
    struct lineage *parent; /* a reference, or NULL */
    uint64_t first_block;   /* blocks below it are the parent's */
    uint64_t end_block;     /* where the longest head of the lineage ends */
};

/* Takes a reference of PARENT for itself. */
MUST_USE enum err lineage_create(uint64_t id, struct lineage *parent, uint64_t first_block,
                                 struct lineage **out);
struct lineage *lineage_hold(struct lineage *lineage);
void lineage_release(struct lineage *lineage); /* NULL is allowed */

/* Lineages from this one to its root, itself included. */
size_t lineage_depth(const struct lineage *lineage);

#endif
