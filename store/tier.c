#include "store/tier.h"

#include "base/object.h"

static const char *const names[TIER_COUNT] = {"none", "device", "host", "disk"};

const char *tier_name(enum tier tier) {
    assert((unsigned)tier < TIER_COUNT);
    return names[tier];
}
