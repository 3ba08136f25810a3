/*
 * The three tiers, hot to cold. A head may lie in several at once; a lookup names
 * the hottest that has it.
 */
#ifndef TERN_STORE_TIER_H
#define TERN_STORE_TIER_H

enum tier { TIER_NONE, TIER_DEVICE, TIER_HOST, TIER_DISK, TIER_COUNT };

/* "none", "device", "host", "disk". */
const char *tier_name(enum tier tier);

#endif
