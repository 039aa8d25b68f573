// y = x Φ(x), Φ(x) = ½ (1 + erf(x/√2)), and dy/dx = Φ(x) + x φ(x), φ(x) = e^(−x²/2) / √2π; of x, and of x + b with
// one b per column. The slope is computed again backward: storing it would cost one more write and save no read.

__device__ REAL gelu_of(REAL x) { return x * ((REAL)0.5 + (REAL)0.5 * erf(x * (REAL)0.7071067811865476)); }

__device__ REAL slope_of(REAL x) {
    REAL cdf = (REAL)0.5 + (REAL)0.5 * erf(x * (REAL)0.7071067811865476);
    return cdf + x * exp((REAL)-0.5 * x * x) * (REAL)0.3989422804014327;
}

extern "C" __global__ void gelu(const REAL* x, int n, REAL* y) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = gelu_of(x[i]);
}

extern "C" __global__ void gelu_dx(const REAL* dy, const REAL* x, int n, REAL* dx) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) dx[i] = dy[i] * slope_of(x[i]);
}

#include "four.cuh"

// A thread for each element, or for four (`each`). Rows lie along the grid's x.
extern "C" __global__ void bias_gelu(const REAL* x, const REAL* b, int rows, int c, int each, REAL* y) {
    int row = blockIdx.x * blockDim.y + threadIdx.y, column = (blockIdx.y * blockDim.x + threadIdx.x) * each;
    if (row >= rows || column >= c) return;
    x += (long long)row * c + column;
    y += (long long)row * c + column;
    b += column;
    if (each == 4) {
        Four v = *(const Four*)x;
        *(Four*)y = {gelu_of(v.x + b[0]), gelu_of(v.y + b[1]), gelu_of(v.z + b[2]), gelu_of(v.w + b[3])};
    } else
        *y = gelu_of(*x + *b);
}

// dx = dy · slope, and db = Σ_rows dx of `part` rows in a row of `sums` (parts, c): as in columns.cu. dx may be dy.
extern "C" __global__ void bias_gelu_dx(const REAL* dy, const REAL* x, const REAL* b, int rows, int c, int part,
                                        REAL* dx, REAL* sums) {
    __shared__ REAL of[8][32];
    int column = blockIdx.x * 32 + threadIdx.x, first = blockIdx.y * part;
    REAL sum = 0;
    if (column < c)
        for (int row = first + threadIdx.y; row < min(first + part, rows); row += 8) {
            long long i = (long long)row * c + column;
            REAL d = dy[i] * slope_of(x[i] + b[column]);
            dx[i] = d;
            sum += d;
        }
    of[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y || column >= c) return;
    for (int k = 1; k < 8; k++) sum += of[k][threadIdx.x];
    sums[(long long)blockIdx.y * c + column] = sum;
}
