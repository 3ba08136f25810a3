/*
 * Walks over a whole state environment: for inspect and verify, which go on beside a running
 * server, and for the check after an unclean end. Read transactions are renewed every
 * STATE_WALK_RENEW_MS and the walk goes on from the last key, so that it never pins pages for
 * long; what changes meanwhile may be seen or not.
 */
#ifndef TERN_STORE_STATE_WALK_H
#define TERN_STORE_STATE_WALK_H

#include "store/coded_object.h"
#include "store/state_env.h"

enum { STATE_WALK_RENEW_MS = 100 };

/* VISIT gets each sound record in key order and ends the walk by an error. Heads are visited with
 * no transaction open, lineages within one. Refused records are counted in *refused_out. */
MUST_USE enum err state_walk_each_head(struct state_env *env,
                                       enum err (*visit)(void *context,
                                                         const struct record_head *head),
                                       void *context, uint64_t *refused_out);
MUST_USE enum err state_walk_each_lineage(struct state_env *env,
                                          enum err (*visit)(void *context,
                                                            const struct record_lineage *lineage),
                                          void *context, uint64_t *refused_out);

/* An object as its runs show it. */
struct state_walk_object {
    struct record_object_key key;
    enum object_verdict verdict; /* of its header; OBJECT_TRUNCATED where runs are missing */
    struct object_info info;     /* if the verdict is OBJECT_SOUND */
    uint32_t runs;               /* found */
    uint64_t stored_bytes;       /* of those runs, padding included */
};

/* VISIT gets every object in key order, with no transaction open; those of LINEAGE alone unless it
 * is 0. Runs whose key can't be read are counted in *refused_out. */
MUST_USE enum err state_walk_each_object(struct state_env *env, uint64_t lineage,
                                         enum err (*visit)(void *context,
                                                           const struct state_walk_object *object),
                                         void *context, uint64_t *refused_out);

struct state_walk_report {
    uint64_t heads;
    uint64_t heads_refused;    /* records that can't be read */
    uint64_t heads_incomplete; /* blocks or lineages are missing */
    uint64_t lineages;
    uint64_t lineages_refused;
    uint64_t runs;
    uint64_t objects;
    uint64_t objects_refused; /* headers, or with is_decoding whole objects of heads */
    uint64_t garbage_entries;
    uint64_t quarantined;
};

/* Looks at every page that holds an entry and at every record and object header. It may crash on
 * an environment whose pages are damaged: the caller runs it in a child process. Opens DIR
 * read-only. */
MUST_USE enum err state_walk_dir(const char *dir, struct state_walk_report *out);

/* The same on an open environment. With IS_DECODING every object of every head is decoded and
 * verified; BAD, which may be NULL, is told of each one that is refused. */
struct state_walk_options {
    int is_decoding;
    size_t object_bytes_max; /* raw; for the decoder's buffer */
    void (*bad)(void *context, const struct record_head *head, const struct record_object_key *key,
                enum object_verdict verdict);
    void *context;
};
MUST_USE enum err state_walk_env(struct state_env *env, const struct state_walk_options *options,
                                 struct state_walk_report *out);

#endif
