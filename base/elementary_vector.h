/*
 * Exponentials by the thousand, for softmax over a vocabulary: about ten times as
 * fast as calls of elementary_exp, since without fma the compiler's vectors do it on
 * every x86-64 processor. The same bits on every machine; not those of
 * elementary_exp.
 */
#ifndef TERN_BASE_ELEMENTARY_VECTOR_H
#define TERN_BASE_ELEMENTARY_VECTOR_H

#include <stddef.h>

/*
 * values[i] = e^values[i] for values of 0 and below, -infinity included. Relative error below
 * 1e-15; exactly 1 at 0; 0 below -708, where results would soon be denormal. A value's result
 * does not depend on its place or its neighbours.
 */
void elementary_vector_exp(double *values, size_t count);

#endif
