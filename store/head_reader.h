/*
 * Reads the objects of a head out of the state environment: copies the coded runs in a short read
 * transaction, ends it, then decodes into the caller's buffer and verifies.
 *
 * A head_reader holds one worker's codec and buffer; calls on one reader must not overlap. It
 * doesn't outlive its environment.
 */
#ifndef TERN_STORE_HEAD_READER_H
#define TERN_STORE_HEAD_READER_H

#include "store/coded_object.h"
#include "store/head_plan.h"

struct head_reader;

/* RAW_BYTES_MAX is the largest object that will be read. */
MUST_USE enum err head_reader_create(struct state_env *env, size_t raw_bytes_max,
                                     struct head_reader **out);
void head_reader_destroy(struct head_reader *reader);
/* Touches all memory that reads will use, so that the first one need not wait for the system. */
void head_reader_warm(struct head_reader *reader);

size_t head_reader_memory_bytes(const struct head_reader *reader);

/* Coded bytes that this reader has read since it was created. */
uint64_t head_reader_bytes(const struct head_reader *reader);

/*
 * Reads the object KEY of the plan's head into OUTPUT, whose bytes are undefined unless the result
 * is ERR_OK and *verdict_out is OBJECT_SOUND. A refused object is ERR_OK with another verdict; an
 * error means that the store could not be read.
 */
MUST_USE enum err head_reader_read(struct head_reader *reader, const struct head_plan *plan,
                                   const struct record_object_key *key,
                                   const struct codec_output *output,
                                   enum object_verdict *verdict_out);

/* What of a head is wanted: blocks [first_block, end_block), the tail, the state. What the head
 * doesn't have is left out. */
struct head_want {
    uint64_t first_block;
    uint64_t end_block;
    int tail;
    int state;
};

/* Where objects go. PLACE names the destination of an object, block_bytes or state_bytes long;
 * PLACED says that it is there and verified. Both run on the thread that reads, with no
 * transaction open; an error stops the read. PLACED may be NULL. */
struct head_sink {
    enum err (*place)(void *context, const struct record_object_key *key, void **destination);
    enum err (*placed)(void *context, const struct record_object_key *key);
    void *context;
};

/* Which object was refused, and why. */
struct head_failure {
    enum object_verdict verdict;
    struct record_object_key key;
};

/* Reads what is wanted in order: blocks, tail, state. ERR_CORRUPT and *failure at the first object
 * that is missing or refused; other errors are the store's or the sink's. */
MUST_USE enum err head_reader_stream(struct head_reader *reader, const struct head_plan *plan,
                                     const struct head_want *want, const struct head_sink *sink,
                                     struct head_failure *failure);

/* Asks the system to read what is wanted ahead. */
MUST_USE enum err head_reader_will_need(struct state_env *env, const struct head_plan *plan,
                                        const struct head_want *want);

#endif
