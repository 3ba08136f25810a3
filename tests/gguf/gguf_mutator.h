/*
 * Damages a valid GGUF on purpose: cuts it, changes counts, lengths, types, names,
 * dimensions, offsets and the alignment, flips bits. It knows where each field of the
 * seed file stands, so most damage lands where the reader decides something.
 * The same seed file and number give the same mutant on every machine.
 */
#ifndef TERN_TESTS_GGUF_MUTATOR_H
#define TERN_TESTS_GGUF_MUTATOR_H

#include "base/err.h"

enum gguf_mutation {
    GGUF_MUTATION_CUT,       /* at a field, next to one, or anywhere */
    GGUF_MUTATION_COUNT,     /* of keys, tensors, array elements or dimensions */
    GGUF_MUTATION_LENGTH,    /* of a string or name */
    GGUF_MUTATION_TYPE,      /* of a value, of elements or of a tensor */
    GGUF_MUTATION_NUMBER,    /* a scalar, a dimension, an offset or the version */
    GGUF_MUTATION_BITS,      /* one to eight bits of the header */
    GGUF_MUTATION_NUL,       /* within a name */
    GGUF_MUTATION_TWICE,     /* a name takes the place of another one */
    GGUF_MUTATION_SPLICE,    /* bytes of the header are left out or put in */
    GGUF_MUTATION_ALIGNMENT, /* a key general.alignment comes in front */
    GGUF_MUTATION_SEVERAL,   /* two to four of those that keep the size */
    /* Edits: a reader may well take the file, and what loads the model has to judge it. */
    GGUF_MUTATION_NEAR,     /* a scalar or array element becomes another likely number */
    GGUF_MUTATION_EXCHANGE, /* two scalars, or two tensors' names, change places */
    GGUF_MUTATION_DIMS,     /* of one tensor change places, or a factor of two moves */
    GGUF_MUTATION_RETYPE,   /* a tensor gets another type that tern runs */
    GGUF_MUTATION_RENAME,   /* one letter of a key or tensor changes */
    GGUF_MUTATION_REMOVE,   /* a key or tensor is taken out */
    GGUF_MUTATION_DATA,     /* random bytes in the weights */
};

/* Damage comes first, edits behind it. */
enum {
    GGUF_MUTATION_DAMAGES = GGUF_MUTATION_SEVERAL + 1,
    GGUF_MUTATION_KINDS = GGUF_MUTATION_DATA + 1,
};

struct gguf_mutator;

struct gguf_mutant {
    uint8_t *data; /* exactly `bytes` long, to be freed by the caller */
    size_t bytes;
    enum gguf_mutation kind;
    int must_fail; /* no reader may take it: false means either way is right */
};

/* Aborts unless SEED is a valid GGUF v3 with an alignment of 32; it is the caller's until destroy.
 */
struct gguf_mutator *gguf_mutator_create(const uint8_t *seed, size_t bytes);
void gguf_mutator_destroy(struct gguf_mutator *mutator);

/* Damage. */
void gguf_mutator_make(const struct gguf_mutator *mutator, uint64_t number,
                       struct gguf_mutant *out);

/* An edit or, in one case out of four, damage. */
void gguf_mutator_edit(const struct gguf_mutator *mutator, uint64_t number,
                       struct gguf_mutant *out);

const char *gguf_mutator_kind_name(enum gguf_mutation kind);

#endif
