/* The heads on disk, as `tern inspect --heads` lists them. */
#ifndef TERN_TOOLS_INSPECT_HEADS_H
#define TERN_TOOLS_INSPECT_HEADS_H

#include "tools/listing.h"
#include "tools/store_view.h"

/* The heads of CONVERSATION, or where that is NULL all heads there are. */
MUST_USE enum err inspect_heads_list(const struct store_view *view,
                                     const struct conversation_record *conversation,
                                     struct listing *listing);

#endif
