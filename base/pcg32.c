#include "base/pcg32.h"

static const uint64_t MULTIPLIER = 6364136223846793005u;

void pcg32_init(struct pcg32 *generator, uint64_t seed, uint64_t sequence) {
    generator->state = 0;
    generator->increment = sequence << 1 | 1;
    (void)pcg32_next(generator);
    generator->state += seed;
    (void)pcg32_next(generator);
}

uint32_t pcg32_next(struct pcg32 *generator) {
    uint64_t state = generator->state;
    generator->state = state * MULTIPLIER + generator->increment;
    uint32_t folded = (uint32_t)((state >> 18 ^ state) >> 27);
    uint32_t turn = (uint32_t)(state >> 59);
    return folded >> turn | folded << (-turn & 31u);
}

double pcg32_next_unit(struct pcg32 *generator) {
    uint64_t upper = pcg32_next(generator);
    uint64_t lower = pcg32_next(generator);
    return (double)((upper << 32 | lower) >> 11) * 0x1p-53;
}
