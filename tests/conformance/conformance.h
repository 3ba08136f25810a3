/*
 * The conformance suite: each case runs one op by the reference and, through the public interface
 * of gpu/, on every device under test (one of ISA "reference" among them), from equal inputs, and
 * compares every buffer bit for bit: outputs, strides' padding, whole pools. Any NaN equals
 * any other, since which operand's payload survives is the processor's choice.
 *
 * A family of ops has a file cases_<family>.c. A case is a build function and a shape: the build
 * function is called once per device with the same seed, makes buffers, weights and the batch
 * through a `struct conformance_side`, and fills in the command.
 *
 * One thread. A failure of the harness itself (no memory, a device that won't open) ends the
 * program with status 2.
 */
#ifndef TERN_TESTS_CONFORMANCE_H
#define TERN_TESTS_CONFORMANCE_H

#include "gpu/command.h"

struct conformance;
struct conformance_side;

/* What inputs are filled with. */
enum conformance_fill {
    CONFORMANCE_ORDINARY, /* -2 to 2 */
    CONFORMANCE_WIDE,     /* exponents from -60 to 60 */
    CONFORMANCE_SPECIAL,  /* zeros of both signs, denormals, the largest, thresholds */
    CONFORMANCE_TINY,     /* around 2^-100, below which activations are quantised to zeros */
    CONFORMANCE_TIES,     /* half way between two values that are rounded to */
    CONFORMANCE_POISON,   /* ordinary, but some rows hold NaN or infinities */
    CONFORMANCE_FILL_COUNT,
};

typedef void conformance_build_fn(struct conformance_side *side, const void *shape,
                                  struct command *out);

struct conformance_case {
    conformance_build_fn *build;
    const void *shape;
    enum conformance_fill fill;
    int is_on_copy_stream;
    const char *text; /* the shape, for a failure's message */
};

/* Runs one case on the oracle and on every device under test. */
void conformance_run(struct conformance *suite, const struct conformance_case *test);

/* A random number from LOW to HIGH for choosing shapes; depends on the suite's seed alone. */
int conformance_choose(struct conformance *suite, int low, int high);

/* --- for build functions; everything lives until the case has run ----------------------- */

uint64_t conformance_random(struct conformance_side *side);
int conformance_uniform(struct conformance_side *side, int low, int high);

/* A value of the case's fill (ordinary, if the fill is poison). */
float conformance_value(struct conformance_side *side);

/*
 * A buffer of BYTES elements of TYPE at the address that is returned, in front of and behind
 * which more bytes lie that must stay; *image is its content, to be written before the build
 * function returns. It begins as random bits without NaN.
 */
struct device_ptr conformance_buffer(struct conformance_side *side, const char *name,
                                     enum dtype type, size_t bytes, uint8_t **image);

/* The same, all bits set: NaN in every type. */
struct device_ptr conformance_nan_buffer(struct conformance_side *side, const char *name,
                                         enum dtype type, size_t bytes, uint8_t **image);

/* F32 [rows][columns], filled; the padding of each row is not. */
struct device_ptr conformance_input(struct conformance_side *side, const char *name, int rows,
                                    int columns, size_t stride);
struct device_ptr conformance_output(struct conformance_side *side, const char *name, int rows,
                                     int columns, size_t stride);

struct device_weight *conformance_weight(struct conformance_side *side, enum dtype type, int rows,
                                         int columns);

/* Stores value IDX of an array of F32, F16 or BF16. */
void conformance_store(enum dtype type, uint8_t *array, size_t idx, float value);

enum { CONFORMANCE_SEQUENCES_MAX = 6 };

enum conformance_marks {
    CONFORMANCE_MARKS_NONE,
    CONFORMANCE_MARKS_FIRST,
    CONFORMANCE_MARKS_LAST,
    CONFORMANCE_MARKS_ALL,
    CONFORMANCE_MARKS_SOME,
};

struct conformance_batch_shape {
    int sequence_count;
    int rows[CONFORMANCE_SEQUENCES_MAX];
    int positions[CONFORMANCE_SEQUENCES_MAX];
    int block_size; /* 0: no attention */
    int has_state;
    enum conformance_marks marks;
    int vocabulary; /* token ids are below it; at least 1 */
    int output_count;
    int shares_prefix; /* sequences read the first one's blocks where both are full */
};

struct conformance_batch {
    struct batch *batch;
    const struct batch_layout *layout;
    int rows;
    int block_count; /* blocks that a pool must have; more than are used, in no order */
    int slot_count;
};

/* Makes and sets a batch; *out points into SIDE. */
void conformance_make_batch(struct conformance_side *side,
                            const struct conformance_batch_shape *shape,
                            struct conformance_batch *out);

/* Fills SHAPE's sequences with one of several patterns of rows and positions, empty ones among
 * them; *text names it. False past the last pattern. */
int conformance_batch_pattern(int idx, struct conformance_batch_shape *shape, const char **text);

/* --- the families ---------------------------------------------------------------------- */

void conformance_cases_rows(struct conformance *suite);
void conformance_cases_product(struct conformance *suite);
void conformance_cases_attention(struct conformance *suite);
void conformance_cases_recurrence(struct conformance *suite);
void conformance_cases_pool(struct conformance *suite);

#endif
