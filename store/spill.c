#include "store/spill.h"

#include "store/codec.h"
#include "store/head_reader.h"

#include <string.h>

const char *spill_outcome_name(enum spill_outcome outcome) {
    static const char *const names[] = {"durable", "superseded", "cancelled", "failed"};
    return (unsigned)outcome < ARRAY_LEN(names) ? names[outcome] : "unknown";
}

static int is_element(uint32_t element, uint64_t bytes) {
    size_t size = codec_element_bytes((enum codec_element)element);
    return size != 0 && bytes % size == 0;
}

static enum err check_head(const struct record_head *head) {
    if (head->lineage == 0 || head->block_size == 0 || head->tail_tokens >= head->block_size ||
        head->block_count > UINT32_MAX || head->length > INT64_MAX ||
        head->length != head->block_count * head->block_size + head->tail_tokens) {
        return err_fail(ERR_INVALID,
                        "spill: length %llu is not %llu blocks of %u tokens and a tail of %u",
                        (unsigned long long)head->length, (unsigned long long)head->block_count,
                        (unsigned)head->block_size, (unsigned)head->tail_tokens);
    }
    if (!is_element(head->block_element, head->block_bytes) ||
        !is_element(head->state_element, head->state_bytes) ||
        (head->block_bytes == 0 && head->state_bytes == 0)) {
        return err_fail(ERR_INVALID,
                        "spill: blocks of %llu bytes and a state of %llu bytes are "
                        "no arrays of their element types",
                        (unsigned long long)head->block_bytes,
                        (unsigned long long)head->state_bytes);
    }
    return ERR_OK;
}

enum err spill_check(const struct spill_job *job) {
    const struct record_head *head = &job->head;
    TRY(check_head(head));
    if (job->segment_count == 0 || job->segment_count > HEAD_PLAN_LINEAGES_MAX) {
        return err_fail(ERR_INVALID, "spill: %zu lineages, expected 1 to %d", job->segment_count,
                        HEAD_PLAN_LINEAGES_MAX);
    }
    uint64_t lineage = 0;
    uint64_t block = 0;
    for (size_t i = 0; i < job->segment_count; i++) {
        const struct spill_segment *segment = &job->segments[i];
        if (segment->lineage <= lineage || segment->first_block != block ||
            segment->end_block < block) {
            return err_fail(ERR_INVALID, "spill: lineage %llu does not go on at block %llu",
                            (unsigned long long)segment->lineage, (unsigned long long)block);
        }
        lineage = segment->lineage;
        block = segment->end_block;
    }
    const struct spill_segment *last = &job->segments[job->segment_count - 1];
    if (lineage != head->lineage || block != head->block_count ||
        memcmp(last->conversation, head->key.conversation, RECORD_CONVERSATION_BYTES) != 0) {
        return err_fail(ERR_INVALID, "spill: the last lineage is not the head's");
    }
    return ERR_OK;
}

uint64_t spill_bytes_max(const struct spill_job *job) {
    uint64_t blocks = 0;
    for (size_t i = 0; i < job->segment_count; i++) {
        const struct spill_segment *segment = &job->segments[i];
        uint64_t from =
            segment->held_from > segment->first_block ? segment->held_from : segment->first_block;
        blocks += segment->end_block > from ? segment->end_block - from : 0;
    }
    blocks += job->head.tail_tokens > 0;
    return blocks * job->head.block_bytes + job->head.state_bytes;
}

int spill_supersedes(const struct spill_job *newer, const struct spill_job *older) {
    const struct record_head *a = &newer->head;
    const struct record_head *b = &older->head;
    if ((older->flags & SPILL_MUST_WRITE) != 0 || a->key.turn <= b->key.turn ||
        a->key.kind != b->key.kind || a->lineage != b->lineage ||
        newer->segment_count != older->segment_count ||
        ((older->flags & ~newer->flags) & SPILL_REPLACES_NEWER) != 0 ||
        memcmp(a->key.conversation, b->key.conversation, RECORD_CONVERSATION_BYTES) != 0 ||
        memcmp(a->key.state_digest, b->key.state_digest, RECORD_DIGEST_BYTES) != 0) {
        return 0;
    }
    for (size_t i = 0; i < newer->segment_count; i++) {
        if (newer->segments[i].lineage != older->segments[i].lineage ||
            newer->segments[i].held_from > older->segments[i].held_from ||
            newer->segments[i].end_block < older->segments[i].end_block) {
            return 0;
        }
    }
    return 1;
}

int spill_is_independent(const struct spill_job *left, const struct spill_job *right) {
    if (memcmp(left->head.key.conversation, right->head.key.conversation,
               RECORD_CONVERSATION_BYTES) == 0) {
        return 0;
    }
    for (size_t i = 0; i < left->segment_count; i++) {
        for (size_t j = 0; j < right->segment_count; j++) {
            if (left->segments[i].lineage == right->segments[j].lineage) {
                return 0;
            }
        }
    }
    return 1;
}
