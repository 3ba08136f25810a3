#include "gpu/dtype.h"

#include <strings.h>

struct dtype_fact {
    const char *name;
    size_t block_values;
    size_t block_bytes;
};

static const struct dtype_fact facts[DTYPE_COUNT] = {
    [DTYPE_F32] = {"F32", 1, 4},
    [DTYPE_F16] = {"F16", 1, 2},
    [DTYPE_BF16] = {"BF16", 1, 2},
    [DTYPE_Q8_0] = {"Q8_0", 32, 34},
};

static const struct dtype_fact *fact_of(enum dtype type) {
    assert((size_t)type < ARRAY_LEN(facts));
    return &facts[type];
}

size_t dtype_block_values(enum dtype type) {
    return fact_of(type)->block_values;
}

size_t dtype_block_bytes(enum dtype type) {
    return fact_of(type)->block_bytes;
}

size_t dtype_bytes(enum dtype type, size_t values) {
    const struct dtype_fact *fact = fact_of(type);
    assert(values % fact->block_values == 0);
    return values / fact->block_values * fact->block_bytes;
}

const char *dtype_name(enum dtype type) {
    return fact_of(type)->name;
}

enum err dtype_parse(const char *name, enum dtype *out) {
    for (size_t i = 0; i < ARRAY_LEN(facts); i++) {
        if (strcasecmp(name, facts[i].name) == 0) {
            *out = (enum dtype)i;
            return ERR_OK;
        }
    }
    return err_fail(ERR_INVALID, "unknown element type '%s'", name);
}
