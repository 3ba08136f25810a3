/*
 * One turn with a server over its HTTP interface: sends the new messages, shows the answer while
 * it comes, and tells what the server says about it. One thread.
 */
#ifndef TERN_TOOLS_CHAT_TURN_H
#define TERN_TOOLS_CHAT_TURN_H

#include "base/buf.h"
#include "tools/http_client.h"

enum { CHAT_TURN_UNKNOWN = -1 };

/* What stays the same from turn to turn; strings are borrowed. */
struct chat_turn_settings {
    const struct http_client_url *url;
    const char *api_key; /* NULL: none; salt likewise */
    const char *conversation_id;
    const char *salt;
    double temperature;    /* below 0: the server's */
    long long max_tokens;  /* 0: the server's */
    int cancel_fd;         /* gives the answer up when readable; -1: never */
    int is_terminal_shown; /* the answer's control characters are kept from the terminal */
};

struct chat_turn {
    const char *system; /* a system message in front; NULL: none */
    const char *message;
    long long expected_turn; /* CHAT_TURN_UNKNOWN: whatever it is */
};

struct chat_turn_outcome {
    int is_answered;          /* the whole answer came, and is committed */
    int is_conflict;          /* the conversation is at committed_turn, not at expected_turn */
    long long turn;           /* of the answer; CHAT_TURN_UNKNOWN if the server did not say */
    long long committed_turn; /* CHAT_TURN_UNKNOWN if the server did not say */
};

/*
 * Writes the answer and a line about it to standard output. A server's refusal is an outcome, and
 * err_message() its code and text; *out is always set. ERR_CANCELLED when cancel_fd ended it.
 */
MUST_USE enum err chat_turn_run(const struct chat_turn_settings *settings,
                                const struct chat_turn *turn, struct chat_turn_outcome *out);

#endif
