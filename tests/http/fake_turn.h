/*
 * A turn service that plays scripts, for tests of the HTTP layer: the last message's
 * content says, one instruction a line, what the turn's sink is told.
 *
 *   start            started, with the turn that this conversation has reached
 *   text TEXT        a piece of text; \n in it is a line end
 *   repeat N TEXT    N pieces, as fast as the sink takes them
 *   numbers N        N pieces "0 ", "1 ", ...
 *   sleep MS         waits, also for a cancel
 *   wait             waits for a cancel
 *   stubborn MS      waits and does not look at cancels, as a commit does
 *   finish REASON    finished
 *   fail STATUS CODE failed
 *   conflict TURN    failed: 409 conversation_turn_conflict
 *   missing TOKENS   failed: 409 conversation_state_missing
 *   busy             failed: 409 conversation_busy with a time to try again
 *   echo             text: what the request was understood as, in JSON
 *
 * A script that ends without finish or fail is completed with "start" and "finish stop". Each turn
 * has a thread of its own. What happens is printed to standard output, one line each:
 * "submitted", "cancelled STAGE" as soon as it is known, "ended".
 */
#ifndef TERN_TESTS_FAKE_TURN_H
#define TERN_TESTS_FAKE_TURN_H

#include "server/server_snapshot.h"
#include "server/turn.h"

MUST_USE enum err fake_turn_create(struct turn_service **out);

/* Cancels what runs and waits for it. */
void fake_turn_destroy(struct turn_service *service);

void fake_turn_snapshot(void *service, struct server_snapshot *out);

#endif
