/*
 * POST /v1/chat/completions: from an exchange to a turn, and from the turn's sink back to
 * the exchange, streamed or not. The body is read on a front thread; the answer is
 * written on the turn's threads; a client that goes cancels its turn.
 */
#ifndef TERN_SERVER_CHAT_COMPLETIONS_H
#define TERN_SERVER_CHAT_COMPLETIONS_H

#include "server/front.h"
#include "server/http_exchange.h"
#include "server/turn.h"

struct chat_completions {
    struct turn_service *service;
    struct front *front;
    const char *model; /* in responses; outlives every exchange */
    size_t text_max;   /* bytes of an unstreamed answer */
    /* On the loop thread, at the end of an exchange that had any text. May be NULL. */
    void (*note_first_text)(void *context, uint64_t wait_ms);
    void *context;
};

/* On the loop thread, with the whole request. Answers 429 by itself when the front is full. */
void chat_completions_handle(const struct chat_completions *completions,
                             struct http_exchange *exchange, const char *tenant);

#endif
