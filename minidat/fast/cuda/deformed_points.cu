// Deformed points of equation (7), in pixels, and their slopes with respect to the offsets: see ops/deformed_points.py. `limit`: the index
// in LIMITS. amplitude and half = (n − 1)/2, the pixels in one normalised unit, of rows (0) and columns (1).
extern "C" __global__ void deformed_points(const REAL* offsets, const REAL* reference, REAL* points, REAL* slope,
                                           int count, int numbers, int limit, REAL amplitude0, REAL amplitude1,
                                           REAL half0, REAL half1) {
    int t = blockIdx.x * blockDim.x + threadIdx.x;
    if (t >= count) return;
    REAL p = reference[t % numbers], amplitude = t % 2 ? amplitude1 : amplitude0, half = t % 2 ? half1 : half0;
    REAL free = p + offsets[t], steep = 1;
    if (limit == 0) {  // tanh
        REAL s = tanh(offsets[t]);
        free = p + amplitude * s;
        steep = amplitude * (1 - s * s);
    } else if (limit == 1) {  // squash
        free = tanh(free);
        steep = 1 - free * free;
    } else if (limit == 2) {  // clamp
        steep = free >= -1 && free <= 1;
        free = free < -1 ? -1 : free > 1 ? 1 : free;
    }
    points[t] = (free + 1) * half;
    slope[t] = steep * half;
}
