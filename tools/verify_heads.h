/*
 * Whether the ledger knows the heads that lie in the state environment: each one's conversation,
 * its turn, and the token chain digest there. Heads are collected in windows, since a head's key is
 * a hash of its conversation's, and each window is met with all conversations once.
 *
 * One thread. Memory: a window.
 */
#ifndef TERN_TOOLS_VERIFY_HEADS_H
#define TERN_TOOLS_VERIFY_HEADS_H

#include "tools/verify_findings.h"

enum { VERIFY_HEADS_WINDOW = 8192 };

struct verify_heads {
    struct verify_findings *findings;
    struct record_head *heads; /* a window of them */
    uint8_t *is_owned;
    size_t count;
};

MUST_USE enum err verify_heads_begin(struct verify_heads *heads, struct verify_findings *findings);
void verify_heads_done(struct verify_heads *heads);

MUST_USE enum err verify_heads_add(struct verify_heads *heads, const struct record_head *head);
MUST_USE enum err verify_heads_flush(struct verify_heads *heads);

#endif
