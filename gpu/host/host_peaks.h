/*
 * Measures what the workers of a host device do at best: see profile.h. Internal to gpu/host/.
 */
#ifndef TERN_GPU_HOST_PEAKS_H
#define TERN_GPU_HOST_PEAKS_H

#include "gpu/profile.h"

/* ERR_UNSUPPORTED for the reference, which has no speed worth measuring. */
MUST_USE enum err host_peaks_measure(struct device *device, struct profile_peaks *out);

#endif
