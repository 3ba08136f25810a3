/*
 * DELETE /v1/conversations/{id}?cache_salt=...
 */
#ifndef TERN_SERVER_CONVERSATIONS_H
#define TERN_SERVER_CONVERSATIONS_H

#include "server/front.h"
#include "server/http_exchange.h"
#include "server/turn.h"

/*
 * On the loop thread, with the whole request; ID is what stands in the path, still with its
 * percent signs. Answers 429 by itself when the front is full.
 */
void conversations_delete(struct turn_service *service, struct front *front,
                          struct http_exchange *exchange, const char *tenant, const char *id);

#endif
