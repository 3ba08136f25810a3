/*
 * Mamba-2's recurrence. Lanes are head dimensions; a unit is a slice of a head
 * of a sequence, all of whose rows run before the next unit, so that the slice
 * of state stays in the first-level cache over a chunk and is updated in place.
 * Two rows go through the state at once, which halves its loads and stores and
 * changes no operation.
 */
#include "gpu/host/kernel_transcendental.h"

enum {
    SLICE_VECTORS = SIMD_REGISTERS >= 32 ? 2 : 1,
    SLICE_LANES = SLICE_VECTORS * SIMD_LANES,
    PARTIAL_SUMS = 4,
    STEP_ROWS = SIMD_LANES, /* rows whose dt and decay are computed together */
};

struct scan_slice {
    const struct op_ssm_scan *op;
    const struct batch_sequence *sequence;
    int first_row;
    int head;
    int start; /* first dimension of the slice */
    int lanes; /* dimensions in it */
};

/* The factors of one head and STEP_ROWS rows. */
struct scan_steps {
    float dt[STEP_ROWS];
    float decay[STEP_ROWS];
};

/* One row's part in a walk over the state. */
struct scan_row {
    const float *b;
    const float *c;
    const float *x;
    float *out;
    float dt;
    float decay;
};

static void compute_steps(const struct scan_slice *slice, int row, int rows,
                          struct scan_steps *steps) {
    const struct op_ssm_scan *op = slice->op;
    const float *dt_in =
        kernel_plan_row(op->dt, op->dt_stride, (size_t)(slice->first_row + row)) + slice->head;
    float lane[SIMD_LANES] = {0};
    for (int i = 0; i < rows; i++) {
        lane[i] = dt_in[(size_t)i * op->dt_stride];
    }
    const float *dt_bias = host_memory_at(op->dt_bias);
    const float *a = host_memory_at(op->a);
    struct simd dt =
        kernel_transcendental_softplus(simd_add(simd_load(lane), simd_set1(dt_bias[slice->head])));
    simd_store(steps->dt, dt);
    simd_store(steps->decay, kernel_transcendental_exp(simd_mul(dt, simd_set1(a[slice->head]))));
}

KERNEL_INLINE struct simd load_lanes(const float *from, int v, int lanes) {
    int rest = lanes - v * SIMD_LANES;
    from += v * SIMD_LANES;
    return rest >= SIMD_LANES ? simd_load(from) : simd_load_part(from, rest);
}

KERNEL_INLINE void store_lanes(float *to, struct simd x, int v, int lanes) {
    int rest = lanes - v * SIMD_LANES;
    to += v * SIMD_LANES;
    if (rest >= SIMD_LANES) {
        simd_store(to, x);
    } else {
        simd_store_part(to, x, rest);
    }
}

/* What a walk over the state carries along. */
struct scan_walk {
    const float *b[2];
    const float *c[2];
    struct simd decay[2];
    struct simd u[2][SLICE_VECTORS];
    struct simd y[2][PARTIAL_SUMS][SLICE_VECTORS];
};

/* One state dimension N of ROWS rows, whose products go to partial sum I. */
KERNEL_INLINE void scan_dimension(struct scan_walk *walk, float *at, int n, int i, int rows,
                                  int vectors, int lanes) {
#pragma GCC unroll 2
    for (int v = 0; v < vectors; v++) {
        struct simd s = load_lanes(at, v, lanes);
#pragma GCC unroll 2
        for (int r = 0; r < rows; r++) {
            struct simd in = simd_mul(simd_set1(walk->b[r][n]), walk->u[r][v]);
            s = simd_fma(s, walk->decay[r], in);
            walk->y[r][i][v] = simd_fma(simd_set1(walk->c[r][n]), s, walk->y[r][i][v]);
        }
        store_lanes(at, s, v, lanes);
    }
}

/* Walks ROWS rows (1 or 2) of VECTORS vectors through all state dimensions. */
KERNEL_INLINE void scan_rows(const struct op_ssm_scan *op, float *state, const struct scan_row *row,
                             int rows, float d, int vectors, int lanes) {
    struct scan_walk walk;
    size_t stride = (size_t)op->head_size;
    int state_size = op->state_size;
#pragma GCC unroll 2
    for (int r = 0; r < rows; r++) {
        walk.b[r] = row[r].b;
        walk.c[r] = row[r].c;
        walk.decay[r] = simd_set1(row[r].decay);
#pragma GCC unroll 2
        for (int v = 0; v < vectors; v++) {
            walk.u[r][v] = simd_mul(simd_set1(row[r].dt), load_lanes(row[r].x, v, lanes));
#pragma GCC unroll 4
            for (int i = 0; i < PARTIAL_SUMS; i++) {
                walk.y[r][i][v] = simd_zero();
            }
        }
    }
    int n = 0;
    for (; n + PARTIAL_SUMS <= state_size; n += PARTIAL_SUMS) {
#pragma GCC unroll 4
        for (int i = 0; i < PARTIAL_SUMS; i++) {
            scan_dimension(&walk, state, n + i, i, rows, vectors, lanes);
            state += stride;
        }
    }
#pragma GCC unroll 3
    for (int i = 0; i < PARTIAL_SUMS - 1; i++) {
        if (n + i < state_size) {
            scan_dimension(&walk, state, n + i, i, rows, vectors, lanes);
            state += stride;
        }
    }
#pragma GCC unroll 2
    for (int r = 0; r < rows; r++) {
#pragma GCC unroll 2
        for (int v = 0; v < vectors; v++) {
            struct simd sum = simd_add(simd_add(walk.y[r][0][v], walk.y[r][1][v]),
                                       simd_add(walk.y[r][2][v], walk.y[r][3][v]));
            struct simd x = load_lanes(row[r].x, v, lanes);
            store_lanes(row[r].out, simd_fma(simd_set1(d), x, sum), v, lanes);
        }
    }
}

static void scan_one(const struct op_ssm_scan *op, float *state, const struct scan_row *row,
                     float d, int lanes) {
    if (lanes == SLICE_LANES) {
        scan_rows(op, state, row, 1, d, SLICE_VECTORS, SLICE_LANES);
    } else if (lanes > SIMD_LANES) {
        scan_rows(op, state, row, 1, d, SLICE_VECTORS, lanes);
    } else {
        scan_rows(op, state, row, 1, d, 1, lanes);
    }
}

static void scan_two(const struct op_ssm_scan *op, float *state, const struct scan_row *row,
                     float d, int lanes) {
    if (lanes == SLICE_LANES) {
        scan_rows(op, state, row, 2, d, SLICE_VECTORS, SLICE_LANES);
    } else if (lanes > SIMD_LANES) {
        scan_rows(op, state, row, 2, d, SLICE_VECTORS, lanes);
    } else {
        scan_rows(op, state, row, 2, d, 1, lanes);
    }
}

static float *state_at(const struct scan_slice *slice, int slot) {
    const struct op_ssm_scan *op = slice->op;
    size_t offset = (size_t)slot * op->state.slot_bytes + op->state.offset_bytes;
    return (float *)host_memory_at(device_ptr_at(op->state.pool, offset)) +
           (size_t)slice->head * (size_t)op->state_size * (size_t)op->head_size + slice->start;
}

static void copy_state(const struct scan_slice *slice, const float *from, float *to) {
    size_t stride = (size_t)slice->op->head_size;
    size_t bytes = (size_t)slice->lanes * sizeof *to;
    for (int n = 0; n < slice->op->state_size; n++) {
        memcpy(to + (size_t)n * stride, from + (size_t)n * stride, bytes);
    }
}

static struct scan_row row_at(const struct scan_slice *slice, int row,
                              const struct scan_steps *steps) {
    const struct op_ssm_scan *op = slice->op;
    size_t at = (size_t)(slice->first_row + row);
    size_t group = (size_t)(slice->head / (op->heads / op->groups));
    size_t x_offset = (size_t)slice->head * (size_t)op->head_size + (size_t)slice->start;
    return (struct scan_row){
        .b = kernel_plan_row(op->b, op->b_stride, at) + group * (size_t)op->state_size,
        .c = kernel_plan_row(op->c, op->c_stride, at) + group * (size_t)op->state_size,
        .x = kernel_plan_row(op->x, op->x_stride, at) + x_offset,
        .out = kernel_plan_row(op->out, op->out_stride, at) + x_offset,
        .dt = steps->dt[row % STEP_ROWS],
        .decay = steps->decay[row % STEP_ROWS],
    };
}

static void scan_slice_run(const struct scan_slice *slice) {
    const struct batch_sequence *sequence = slice->sequence;
    float *state = state_at(slice, sequence->state_slot);
    const float *d = host_memory_at(slice->op->d);
    struct scan_steps steps;
    int mark = 0;
    int done;
    for (int t = 0; t < sequence->rows; t += done) {
        int left = sequence->rows - t;
        if (t % STEP_ROWS == 0) {
            compute_steps(slice, t, left < STEP_ROWS ? left : STEP_ROWS, &steps);
        }
        int is_marked = mark < sequence->mark_count && sequence->marks[mark].row == t;
        struct scan_row rows[2] = {row_at(slice, t, &steps)};
        done = 1;
        if (!is_marked && left > 1 && (t + 1) % STEP_ROWS != 0) {
            rows[1] = row_at(slice, t + 1, &steps);
            done = 2;
            scan_two(slice->op, state, rows, d[slice->head], slice->lanes);
        } else {
            scan_one(slice->op, state, rows, d[slice->head], slice->lanes);
        }
        if (mark < sequence->mark_count && sequence->marks[mark].row == t + done - 1) {
            copy_state(slice, state, state_at(slice, sequence->marks[mark].slot));
            mark++;
        }
    }
}

static void ssm_scan_run(const struct kernel_call *call, size_t begin, size_t end, int worker) {
    (void)worker;
    const struct op_ssm_scan *op = &call->command->ssm_scan;
    const struct batch_layout *layout = &op->batch->layout;
    size_t slices = ((size_t)op->head_size + SLICE_LANES - 1) / SLICE_LANES;
    size_t per_sequence = slices * (size_t)op->heads;
    for (size_t unit = begin; unit < end; unit++) {
        int s = (int)(unit / per_sequence);
        int start = (int)(unit % slices) * SLICE_LANES;
        int rest = op->head_size - start;
        struct scan_slice slice = {
            .op = op,
            .sequence = &layout->sequences[s],
            .first_row = kernel_plan_first_row(layout, s),
            .head = (int)(unit % per_sequence / slices),
            .start = start,
            .lanes = rest < SLICE_LANES ? rest : SLICE_LANES,
        };
        if (slice.sequence->rows > 0) {
            scan_slice_run(&slice);
        }
    }
}

void KERNEL_SYMBOL(kernel_plan_ssm_scan)(const struct command *command, int threads,
                                         struct kernel_plan *out) {
    const struct op_ssm_scan *op = &command->ssm_scan;
    size_t sequences = (size_t)op->batch->layout.sequence_count;
    size_t slices = ((size_t)op->head_size + SLICE_LANES - 1) / SLICE_LANES;
    size_t units = sequences * (size_t)op->heads * slices;
    size_t rows = (size_t)op->batch->rows;
    size_t cost = 200 + (1 + rows / (sequences + 1)) * (size_t)op->state_size * SLICE_VECTORS * 3;
    out->phase_count = 1;
    out->phases[0] = kernel_plan_phase(ssm_scan_run, units, cost, threads);
}
