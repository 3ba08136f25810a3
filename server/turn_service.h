/*
 * What turns run on: one ledger, one store, one engine, one tokenizer and
 * template, and the thread that commits. Made once at start, torn down when every
 * turn has been told its end.
 */
#ifndef TERN_SERVER_TURN_SERVICE_H
#define TERN_SERVER_TURN_SERVICE_H

#include "engine/chat_template.h"
#include "engine/engine.h"
#include "ledger/ledger.h"
#include "server/front.h"
#include "server/turn.h"

struct turn_service_config {
    struct ledger *ledger; /* all of these outlive the service */
    const struct secret *secret;
    struct store *store;
    struct engine *engine;
    const struct tokenizer *tokenizer;
    const struct chat_template *chat_template;
    struct front *front;
    int context; /* tokens of a turn's whole context */
};

/* Finishes what deletions were left by an earlier process. */
MUST_USE enum err turn_service_create(const struct turn_service_config *config,
                                      struct turn_service **out);

/* Waits until every turn has ended; turn_service_cancel_all makes that soon. */
void turn_service_destroy(struct turn_service *service);

/* Cancels what has not reached its ledger transaction. */
void turn_service_cancel_all(struct turn_service *service);

/* Turns that have not been told their end. */
int turn_service_active(struct turn_service *service);

struct turn_service_counters {
    uint64_t turns_committed;
    uint64_t turns_failed;
    uint64_t turns_cancelled;
    uint64_t turns_rebuilt;
    uint64_t conversations_created;
    uint64_t conversations_deleted;
    uint64_t tokens_reused[TIER_COUNT];
    struct histogram commit_seconds; /* of turns, from the last token to the ledger's answer */
    int active;
};
void turn_service_get_counters(struct turn_service *service, struct turn_service_counters *out);

#endif
