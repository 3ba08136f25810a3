/* The coded objects on disk, as `tern inspect --objects` lists them. */
#ifndef TERN_TOOLS_INSPECT_OBJECTS_H
#define TERN_TOOLS_INSPECT_OBJECTS_H

#include "tools/listing.h"
#include "tools/store_view.h"

/* The objects under the lineages of CONVERSATION and those that its heads share, or all. */
MUST_USE enum err inspect_objects_list(const struct store_view *view,
                                       const struct conversation_record *conversation,
                                       struct listing *listing);

#endif
