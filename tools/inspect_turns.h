/* The turns of a conversation as `tern inspect --turns` lists them. */
#ifndef TERN_TOOLS_INSPECT_TURNS_H
#define TERN_TOOLS_INSPECT_TURNS_H

#include "tools/listing.h"
#include "tools/store_view.h"

/*
 * One row for each turn whose ids are on the line: turn, messages, prompt_ids, generated_ids. The
 * ids of all rows, joined, are what the model saw: what the template adds behind an answer stands
 * at the beginning of the next turn's prompt_ids, and is left out after the last turn, and of a
 * turn that a later one replaced from the middle on, the ids are there that stayed.
 */
MUST_USE enum err inspect_turns_list(const struct store_view *view,
                                     const struct conversation_record *conversation,
                                     struct listing *listing);

#endif
