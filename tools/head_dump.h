/*
 * A head on disk as a safetensors file: the KV blocks and the tail of each attention layer joined
 * to exactly the head's tokens, and the terminal state of each recurrent layer.
 *
 *   blk.L.attn.key    [tokens, kv_heads, key_size]     in the pool's type
 *   blk.L.attn.value  [tokens, kv_heads, value_size]   likewise
 *   blk.L.conv        [taps - 1, channels]             F32
 *   blk.L.ssm         [heads, state_size, head_size]   F32
 */
#ifndef TERN_TOOLS_HEAD_DUMP_H
#define TERN_TOOLS_HEAD_DUMP_H

#include "store/layout.h"
#include "store/record.h"
#include "store/state_env.h"

#include <jansson.h>

/* ERR_CONFLICT, with a message that says what differs, unless the sizes and types of LAYOUT are
 * those of HEAD. */
MUST_USE enum err head_dump_check(const struct record_head *head, const struct layout *layout);

struct head_dump_params {
    struct state_env *env;
    const struct record_head *head;
    const struct layout *layout; /* that fits the head */
    const json_t *metadata;      /* texts for the file's metadata */
    const char *path;
};

/* Reads and verifies every object of the head; nothing stands at PATH unless it returns ERR_OK. */
MUST_USE enum err head_dump_write(const struct head_dump_params *params);

/* The type of a pool that stores ELEMENT; ERR_CONFLICT for one that no pool has. */
MUST_USE enum err head_dump_kv_type(uint32_t element, enum dtype *out);

#endif
