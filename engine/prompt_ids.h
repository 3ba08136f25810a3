/*
 * The token ids of a rendered prompt. Special tokens are recognised only in what the template
 * itself wrote; text of the template and of messages that touches is tokenized as one stretch.
 * Embedded by value, zero-initialised; owns its ids.
 */
#ifndef TERN_ENGINE_PROMPT_IDS_H
#define TERN_ENGINE_PROMPT_IDS_H

#include "engine/marked_text.h"
#include "engine/token_list.h"
#include "engine/tokenizer.h"

struct prompt_ids {
    struct token_list list;
    /*
     * How many of them lie in front of the generation prompt. A token that reaches across this
     * border, which only a template without a special token there can cause, lies behind it.
     */
    size_t prompt_end;
};

void prompt_ids_done(struct prompt_ids *ids); /* also fits CLEANUP */

/*
 * Replaces IDS by those of TEXT, whose generation prompt begins at byte GENERATION_AT; neither BOS
 * nor EOS is added. On failure IDS is as before.
 */
MUST_USE enum err prompt_ids_encode(const struct tokenizer *tokenizer,
                                    const struct marked_text *text, size_t generation_at,
                                    struct prompt_ids *ids);

/* Puts ID in front, or takes the first one (there must be one) away. */
MUST_USE enum err prompt_ids_push_front(struct prompt_ids *ids, int32_t id);
void prompt_ids_pop_front(struct prompt_ids *ids);

#endif
