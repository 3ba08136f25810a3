/*
 * PCG-XSH-RR 64/32 (O'Neill 2014, "PCG: A Family of Simple Fast Space-Efficient
 * Statistically Good Algorithms for Random Number Generation"): 64 bits of state,
 * 32 bits out, seeded as its reference implementation seeds. Reproducible
 * everywhere; not for secrets. Embedded by value; not for two threads at once.
 */
#ifndef TERN_BASE_PCG32_H
#define TERN_BASE_PCG32_H

#include <stdint.h>

struct pcg32 {
    uint64_t state;
    uint64_t increment; /* odd; names the stream */
};

/* Streams of different SEQUENCE are different generators; its highest bit is not used. */
void pcg32_init(struct pcg32 *generator, uint64_t seed, uint64_t sequence);
uint32_t pcg32_next(struct pcg32 *generator);

/* A multiple of 2^-53 in [0, 1), from two outputs: the first gives the upper bits. */
double pcg32_next_unit(struct pcg32 *generator);

#endif
