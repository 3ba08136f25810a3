#include "tests/gguf/gguf_mutator.h"

#include <stdlib.h>
#include <string.h>

/* What a field is for; a field's size follows from it but for names. */
enum field_kind {
    FIELD_VERSION,
    FIELD_COUNT,     /* 8 bytes */
    FIELD_DIM_COUNT, /* 4 bytes */
    FIELD_LENGTH,    /* 8 bytes */
    FIELD_TYPE,      /* 4 bytes */
    FIELD_SCALAR,
    FIELD_DIM,    /* 8 bytes */
    FIELD_OFFSET, /* 8 bytes */
    FIELD_KEY,    /* the bytes of a name; the length stands 8 in front */
    FIELD_TENSOR, /* likewise */
};

struct field {
    enum field_kind kind;
    size_t at;
    size_t bytes;
};

struct gguf_mutator {
    const uint8_t *seed;
    size_t bytes;
    struct field *fields;
    size_t field_count;
    size_t field_capacity;
    size_t keys_at;
    size_t header_bytes; /* all in front of the data */
    size_t used_bytes;   /* up to the last byte that the file cannot lack */
};

enum { ALIGNMENT = 32 };

enum { ELEMENTS_NOTED = 8 }; /* of each string array, so that they do not crowd out the rest */

/* ---- random numbers: splitmix64 ---- */

static uint64_t draw(uint64_t *state) {
    uint64_t z = *state += 0x9e3779b97f4a7c15;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return z ^ (z >> 31);
}

static size_t below(uint64_t *state, size_t end) {
    return end == 0 ? 0 : (size_t)(draw(state) % end);
}

/* ---- the seed's fields ---- */

static void must(int condition) {
    if (!condition) {
        abort();
    }
}

static uint32_t load_u32(const uint8_t *at) {
    uint32_t value;
    memcpy(&value, at, sizeof value);
    return value;
}

static uint64_t load_u64(const uint8_t *at) {
    uint64_t value;
    memcpy(&value, at, sizeof value);
    return value;
}

/* Passes BYTES and notes them as a field. */
static const uint8_t *note(struct gguf_mutator *mutator, size_t *at, enum field_kind kind,
                           size_t bytes) {
    must(bytes <= mutator->bytes - *at);
    if (mutator->field_count == mutator->field_capacity) {
        mutator->field_capacity = mutator->field_capacity * 2 + 64;
        mutator->fields =
            realloc(mutator->fields, mutator->field_capacity * sizeof *mutator->fields);
        must(mutator->fields != NULL);
    }
    mutator->fields[mutator->field_count++] = (struct field){kind, *at, bytes};
    *at += bytes;
    return mutator->seed + *at - bytes;
}

static void scan_string(struct gguf_mutator *mutator, size_t *at) {
    uint64_t len = load_u64(note(mutator, at, FIELD_LENGTH, 8));
    must(len <= mutator->bytes - *at);
    *at += len;
}

static void scan_name(struct gguf_mutator *mutator, size_t *at, enum field_kind kind) {
    uint64_t len = load_u64(note(mutator, at, FIELD_LENGTH, 8));
    note(mutator, at, kind, len);
}

static size_t scalar_bytes(uint32_t type) {
    static const uint8_t sizes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
    must(type < sizeof sizes && sizes[type] != 0);
    return sizes[type];
}

static void scan_array(struct gguf_mutator *mutator, size_t *at) {
    enum { TYPE_STRING = 8 };
    uint32_t type = load_u32(note(mutator, at, FIELD_TYPE, 4));
    uint64_t count = load_u64(note(mutator, at, FIELD_COUNT, 8));
    for (uint64_t i = 0; i < count; i++) {
        size_t noted = mutator->field_count;
        if (type == TYPE_STRING) {
            scan_string(mutator, at);
        } else {
            note(mutator, at, FIELD_SCALAR, scalar_bytes(type));
        }
        if (i >= ELEMENTS_NOTED) {
            mutator->field_count = noted;
        }
    }
}

static void scan_key(struct gguf_mutator *mutator, size_t *at) {
    enum { TYPE_STRING = 8, TYPE_ARRAY = 9 };
    scan_name(mutator, at, FIELD_KEY);
    uint32_t type = load_u32(note(mutator, at, FIELD_TYPE, 4));
    if (type == TYPE_STRING) {
        scan_string(mutator, at);
    } else if (type == TYPE_ARRAY) {
        scan_array(mutator, at);
    } else {
        note(mutator, at, FIELD_SCALAR, scalar_bytes(type));
    }
}

/* Returns the offset of the tensor's data. */
static uint64_t scan_tensor(struct gguf_mutator *mutator, size_t *at) {
    scan_name(mutator, at, FIELD_TENSOR);
    uint32_t dims = load_u32(note(mutator, at, FIELD_DIM_COUNT, 4));
    for (uint32_t i = 0; i < dims; i++) {
        note(mutator, at, FIELD_DIM, 8);
    }
    note(mutator, at, FIELD_TYPE, 4);
    return load_u64(note(mutator, at, FIELD_OFFSET, 8));
}

static void scan(struct gguf_mutator *mutator) {
    size_t at = 4;
    must(mutator->bytes >= 24 && memcmp(mutator->seed, "GGUF", 4) == 0);
    note(mutator, &at, FIELD_VERSION, 4);
    uint64_t tensors = load_u64(note(mutator, &at, FIELD_COUNT, 8));
    uint64_t keys = load_u64(note(mutator, &at, FIELD_COUNT, 8));
    mutator->keys_at = at;
    for (uint64_t i = 0; i < keys; i++) {
        scan_key(mutator, &at);
    }
    uint64_t last_offset = 0;
    for (uint64_t i = 0; i < tensors; i++) {
        uint64_t offset = scan_tensor(mutator, &at);
        last_offset = offset > last_offset ? offset : last_offset;
    }
    mutator->header_bytes = at;
    mutator->used_bytes = tensors == 0 ? at : at + last_offset;
}

struct gguf_mutator *gguf_mutator_create(const uint8_t *seed, size_t bytes) {
    struct gguf_mutator *mutator = calloc(1, sizeof *mutator);
    must(mutator != NULL);
    mutator->seed = seed;
    mutator->bytes = bytes;
    scan(mutator);
    return mutator;
}

void gguf_mutator_destroy(struct gguf_mutator *mutator) {
    if (mutator != NULL) {
        free(mutator->fields);
        free(mutator);
    }
}

/* ---- one change ---- */

/* A random field of one of the kinds in MASK (1 << kind); NULL if the seed has none. */
static const struct field *pick(const struct gguf_mutator *mutator, uint64_t *state,
                                unsigned mask) {
    size_t start = below(state, mutator->field_count);
    for (size_t i = 0; i < mutator->field_count; i++) {
        const struct field *field = &mutator->fields[(start + i) % mutator->field_count];
        if ((mask & (1U << field->kind)) != 0) {
            return field;
        }
    }
    return NULL;
}

/* A number near a border of the reader's arithmetic, or near the one that stands there. */
static uint64_t odd_number(uint64_t *state, uint64_t before, size_t file_bytes) {
    static const uint64_t borders[] = {
        0,
        1,
        UINT8_MAX,
        UINT16_MAX,
        INT32_MAX,
        1ULL << 31,
        UINT32_MAX,
        1ULL << 32,
        (1ULL << 32) + 1,
        1ULL << 53,
        1ULL << 60,
        1ULL << 61,
        INT64_MAX,
        1ULL << 63,
        UINT64_MAX - 31,
        UINT64_MAX - 7,
        UINT64_MAX / 8,
        UINT64_MAX / 34,
        UINT64_MAX,
        64,
        65,
    };
    switch (below(state, 6)) {
    case 0:
        return before + 1 + below(state, 9);
    case 1:
        return before - 1 - below(state, 9);
    case 2:
        return file_bytes / (1 + below(state, 40)) + below(state, 5);
    case 3:
        return before << (1 + below(state, 62));
    default:
        return borders[below(state, ARRAY_LEN(borders))];
    }
}

static void change_number(struct gguf_mutant *mutant, const struct field *field, uint64_t *state) {
    if (field == NULL || field->bytes > 8) {
        return;
    }
    uint64_t before = 0;
    memcpy(&before, mutant->data + field->at, field->bytes);
    uint64_t after = odd_number(state, before, mutant->bytes);
    memcpy(mutant->data + field->at, &after, field->bytes);
}

static void change_type(struct gguf_mutant *mutant, const struct field *field, uint64_t *state) {
    uint32_t type = (uint32_t)below(state, 44);
    if (below(state, 8) == 0) {
        type = (uint32_t)draw(state);
    }
    memcpy(mutant->data + field->at, &type, sizeof type);
}

static void flip_bits(struct gguf_mutant *mutant, size_t end, uint64_t *state) {
    for (size_t i = 1 + below(state, 8); i > 0; i--) {
        mutant->data[below(state, end)] ^= (uint8_t)(1U << below(state, 8));
    }
}

/* The changes that keep the file's size. */
static void change_in_place(const struct gguf_mutator *mutator, enum gguf_mutation kind,
                            uint64_t *state, struct gguf_mutant *mutant) {
    const unsigned names = 1U << FIELD_KEY | 1U << FIELD_TENSOR;
    switch (kind) {
    case GGUF_MUTATION_COUNT:
        change_number(mutant, pick(mutator, state, 1U << FIELD_COUNT | 1U << FIELD_DIM_COUNT),
                      state);
        return;
    case GGUF_MUTATION_LENGTH:
        change_number(mutant, pick(mutator, state, 1U << FIELD_LENGTH), state);
        return;
    case GGUF_MUTATION_TYPE:
        change_type(mutant, pick(mutator, state, 1U << FIELD_TYPE), state);
        return;
    case GGUF_MUTATION_NUMBER:
        change_number(
            mutant,
            pick(mutator, state,
                 1U << FIELD_SCALAR | 1U << FIELD_DIM | 1U << FIELD_OFFSET | 1U << FIELD_VERSION),
            state);
        return;
    case GGUF_MUTATION_NUL: {
        const struct field *name = pick(mutator, state, names);
        mutant->data[name->at + below(state, name->bytes)] = 0;
        return;
    }
    default:
        flip_bits(mutant, mutator->header_bytes, state);
        return;
    }
}

/* Puts LEN bytes in place of the REMOVED ones at AT. */
static void replace(struct gguf_mutant *mutant, size_t at, size_t removed, const void *bytes,
                    size_t len) {
    must(at <= mutant->bytes && removed <= mutant->bytes - at);
    size_t behind = mutant->bytes - at - removed;
    uint8_t *data = malloc(at + len + behind);
    must(data != NULL);
    memcpy(data, mutant->data, at);
    memcpy(data + at, bytes, len);
    memcpy(data + at + len, mutant->data + at + removed, behind);
    free(mutant->data);
    mutant->data = data;
    mutant->bytes = at + len + behind;
}

static void cut(const struct gguf_mutator *mutator, uint64_t *state, struct gguf_mutant *mutant) {
    const struct field *field = &mutator->fields[below(state, mutator->field_count)];
    size_t at = below(state, mutator->bytes);
    switch (below(state, 4)) {
    case 0:
        at = field->at;
        break;
    case 1:
        at = field->at + below(state, field->bytes + 8);
        break;
    case 2:
        at = below(state, mutator->header_bytes);
        break;
    default:
        break;
    }
    mutant->bytes = at < mutant->bytes ? at : mutant->bytes;
    /* Exactly as long as it says, so that a sanitizer sees the first byte read behind it. */
    mutant->data = realloc(mutant->data, mutant->bytes > 0 ? mutant->bytes : 1);
    must(mutant->data != NULL);
    mutant->must_fail = mutant->bytes < mutator->used_bytes;
}

/* One name in place of another of its kind, with the right length: the record stays well-formed. */
static void double_name(const struct gguf_mutator *mutator, uint64_t *state,
                        struct gguf_mutant *mutant) {
    const struct field *one = pick(mutator, state, 1U << FIELD_KEY | 1U << FIELD_TENSOR);
    const struct field *other = pick(mutator, state, 1U << one->kind);
    uint8_t text[8 + 256];
    must(other->bytes <= 256);
    memcpy(text, mutator->seed + other->at - 8, 8 + other->bytes);
    replace(mutant, one->at - 8, 8 + one->bytes, text, 8 + other->bytes);
    mutant->must_fail = one != other;
}

static void splice(const struct gguf_mutator *mutator, uint64_t *state,
                   struct gguf_mutant *mutant) {
    uint8_t bytes[32];
    size_t at = below(state, mutator->header_bytes);
    for (size_t i = 0; i < sizeof bytes; i++) {
        bytes[i] = (uint8_t)draw(state);
    }
    size_t left = mutant->bytes - at;
    size_t removed = below(state, 2) == 0 ? 0 : below(state, left < 32 ? left : 32);
    replace(mutant, at, removed, bytes, below(state, 2) == 0 ? 0 : below(state, 32));
}

static void add_alignment(const struct gguf_mutator *mutator, uint64_t *state,
                          struct gguf_mutant *mutant) {
    static const uint32_t values[] = {0,   1,    2,  4,  8,  16,         32,       64,
                                      128, 4096, 24, 33, 48, UINT32_MAX, 1U << 31, (2U << 20) + 1};
    uint8_t key[8 + 17 + 4 + 4] = {17};
    uint32_t type = below(state, 8) == 0 ? (uint32_t)below(state, 13) : 4;
    uint32_t value = values[below(state, ARRAY_LEN(values))];
    memcpy(key + 8, "general.alignment", 17);
    memcpy(key + 8 + 17, &type, sizeof type);
    memcpy(key + 8 + 17 + 4, &value, sizeof value);
    replace(mutant, mutator->keys_at, 0, key, sizeof key);
    uint64_t keys = load_u64(mutant->data + 16) + 1;
    memcpy(mutant->data + 16, &keys, sizeof keys);
    mutant->must_fail = type == 4 && (value < 8 || (value & (value - 1)) != 0);
}

void gguf_mutator_make(const struct gguf_mutator *mutator, uint64_t number,
                       struct gguf_mutant *out) {
    uint64_t state = number * 0x2545f4914f6cdd1d + 1;
    struct gguf_mutant mutant = {.bytes = mutator->bytes};
    mutant.kind = (enum gguf_mutation)below(&state, GGUF_MUTATION_DAMAGES);
    mutant.data = malloc(mutator->bytes);
    must(mutant.data != NULL);
    memcpy(mutant.data, mutator->seed, mutator->bytes);
    switch (mutant.kind) {
    case GGUF_MUTATION_CUT:
        cut(mutator, &state, &mutant);
        break;
    case GGUF_MUTATION_TWICE:
        double_name(mutator, &state, &mutant);
        break;
    case GGUF_MUTATION_SPLICE:
        splice(mutator, &state, &mutant);
        break;
    case GGUF_MUTATION_ALIGNMENT:
        add_alignment(mutator, &state, &mutant);
        break;
    case GGUF_MUTATION_SEVERAL:
        for (size_t i = 2 + below(&state, 3); i > 0; i--) {
            size_t span = GGUF_MUTATION_NUL - GGUF_MUTATION_COUNT + 1;
            change_in_place(mutator,
                            (enum gguf_mutation)(GGUF_MUTATION_COUNT + below(&state, span)), &state,
                            &mutant);
        }
        break;
    default:
        change_in_place(mutator, mutant.kind, &state, &mutant);
        mutant.must_fail = mutant.kind == GGUF_MUTATION_NUL;
        break;
    }
    *out = mutant;
}

/* ---- edits: the file stays well-formed ---- */

/* Puts LEN bytes in place of the REMOVED ones at AT of the header; the data stays aligned. */
static void edit_header(const struct gguf_mutator *mutator, struct gguf_mutant *mutant, size_t at,
                        size_t removed, const void *bytes, size_t len) {
    static const uint8_t zeros[ALIGNMENT];
    size_t data_at = (mutator->header_bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    if (data_at <= mutant->bytes) {
        size_t header_bytes = mutator->header_bytes - removed + len;
        size_t padding = (ALIGNMENT - header_bytes % ALIGNMENT) % ALIGNMENT;
        replace(mutant, mutator->header_bytes, data_at - mutator->header_bytes, zeros, padding);
    }
    replace(mutant, at, removed, bytes, len);
}

static uint64_t load_field(const struct gguf_mutant *mutant, const struct field *field) {
    uint64_t value = 0;
    memcpy(&value, mutant->data + field->at, field->bytes);
    return value;
}

static void store_field(struct gguf_mutant *mutant, const struct field *field, uint64_t value) {
    memcpy(mutant->data + field->at, &value, field->bytes);
}

static void edit_near(const struct gguf_mutator *mutator, uint64_t *state,
                      struct gguf_mutant *mutant) {
    const struct field *field = pick(mutator, state, 1U << FIELD_SCALAR);
    const struct field *other = pick(mutator, state, 1U << FIELD_SCALAR);
    if (field == NULL) {
        return;
    }
    uint64_t before = load_field(mutant, field);
    uint64_t after[] = {before + 1,
                        before - 1,
                        before * 2,
                        before / 2,
                        below(state, 20),
                        1ULL << below(state, 25),
                        0,
                        load_field(mutant, other)};
    store_field(mutant, field, after[below(state, ARRAY_LEN(after))]);
}

static void edit_exchange(const struct gguf_mutator *mutator, uint64_t *state,
                          struct gguf_mutant *mutant) {
    unsigned kind = below(state, 2) == 0 ? FIELD_TENSOR : FIELD_SCALAR;
    const struct field *one = pick(mutator, state, 1U << kind);
    const struct field *other = pick(mutator, state, 1U << kind);
    if (one == NULL || one == other) {
        return;
    }
    if (kind == FIELD_SCALAR) {
        if (one->bytes == other->bytes) {
            uint64_t value = load_field(mutant, one);
            store_field(mutant, one, load_field(mutant, other));
            store_field(mutant, other, value);
        }
        return;
    }
    const struct field *first = one->at < other->at ? one : other;
    const struct field *last = first == one ? other : one;
    /* From the back, so that the place of the first is still right; the header keeps its size. */
    replace(mutant, last->at - 8, 8 + last->bytes, mutator->seed + first->at - 8, 8 + first->bytes);
    replace(mutant, first->at - 8, 8 + first->bytes, mutator->seed + last->at - 8, 8 + last->bytes);
}

static void edit_dims(const struct gguf_mutator *mutator, uint64_t *state,
                      struct gguf_mutant *mutant) {
    const struct field *one = pick(mutator, state, 1U << FIELD_DIM);
    if (one == NULL || one + 1 == mutator->fields + mutator->field_count ||
        one[1].kind != FIELD_DIM) {
        return;
    }
    uint64_t first = load_field(mutant, one);
    uint64_t second = load_field(mutant, one + 1);
    int is_swap = below(state, 2) == 0;
    store_field(mutant, one, is_swap ? second : first * 2);
    store_field(mutant, one + 1, is_swap ? first : second / 2);
}

static void edit_retype(const struct gguf_mutator *mutator, uint64_t *state,
                        struct gguf_mutant *mutant) {
    static const uint32_t types[] = {0, 1, 8, 30};
    const struct field *offset = pick(mutator, state, 1U << FIELD_OFFSET);
    if (offset != NULL) {
        store_field(mutant, offset - 1, types[below(state, ARRAY_LEN(types))]);
    }
}

static void edit_name(const struct gguf_mutator *mutator, uint64_t *state,
                      struct gguf_mutant *mutant) {
    static const char letters[] = "0123456789abx._";
    const struct field *name = pick(mutator, state, 1U << FIELD_KEY | 1U << FIELD_TENSOR);
    size_t at = name->at + below(state, name->bytes);
    mutant->data[at] = (uint8_t)letters[below(state, sizeof letters - 1)];
}

static void edit_remove(const struct gguf_mutator *mutator, uint64_t *state,
                        struct gguf_mutant *mutant) {
    const struct field *name = pick(mutator, state, 1U << FIELD_KEY | 1U << FIELD_TENSOR);
    const struct field *next = name + 1;
    const struct field *end = mutator->fields + mutator->field_count;
    while (next < end && next->kind != FIELD_KEY && next->kind != FIELD_TENSOR) {
        next++;
    }
    size_t from = name->at - 8;
    size_t to = next < end ? next->at - 8 : mutator->header_bytes;
    size_t count_at = name->kind == FIELD_TENSOR ? 8 : 16;
    uint64_t count = load_u64(mutant->data + count_at) - 1;
    memcpy(mutant->data + count_at, &count, sizeof count);
    edit_header(mutator, mutant, from, to - from, "", 0);
}

static void edit_data(const struct gguf_mutator *mutator, uint64_t *state,
                      struct gguf_mutant *mutant) {
    size_t span = mutant->bytes - mutator->header_bytes;
    for (size_t i = 1 + below(state, 64); span > 0 && i > 0; i--) {
        mutant->data[mutator->header_bytes + below(state, span)] = (uint8_t)draw(state);
    }
}

void gguf_mutator_edit(const struct gguf_mutator *mutator, uint64_t number,
                       struct gguf_mutant *out) {
    static void (*const edits[])(const struct gguf_mutator *, uint64_t *, struct gguf_mutant *) = {
        edit_near, edit_exchange, edit_dims, edit_retype, edit_name, edit_remove, edit_data};
    uint64_t state = number * 0x9fb21c651e98df25 + 1;
    if (below(&state, 4) == 0) {
        gguf_mutator_make(mutator, number, out);
        return;
    }
    size_t kind = below(&state, ARRAY_LEN(edits));
    struct gguf_mutant mutant = {.bytes = mutator->bytes,
                                 .kind = (enum gguf_mutation)(GGUF_MUTATION_DAMAGES + kind)};
    mutant.data = malloc(mutator->bytes);
    must(mutant.data != NULL);
    memcpy(mutant.data, mutator->seed, mutator->bytes);
    edits[kind](mutator, &state, &mutant);
    *out = mutant;
}

const char *gguf_mutator_kind_name(enum gguf_mutation kind) {
    static const char *const names[GGUF_MUTATION_KINDS] = {
        "cut",      "count", "length", "type",      "number",  "bits",
        "nul",      "twice", "splice", "alignment", "several", "near",
        "exchange", "dims",  "retype", "rename",    "remove",  "data"};
    return names[kind];
}
