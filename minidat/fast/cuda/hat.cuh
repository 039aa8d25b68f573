// The hat g(a, b) = max(0, 1 − |a − b|), and where a coordinate lies between two pixels, or two lines of a table.

__device__ REAL g(REAL a, int b) { return fmax((REAL)0, 1 - fabs(a - b)); }

// The pixel before coordinate a, of pixels 0 … n−1; −2 for a coordinate off the map by more than a pixel: it has no neighbours.
__device__ int before(REAL a, int n) { return a < -1 || a >= n ? -2 : (int)floor(a); }
