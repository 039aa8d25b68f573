// y = γ x̂ + β with x̂ = (x − mean x) / √(var x + ε) for each row of x (rows, c): one warp per row, so no barrier is needed.

__device__ REAL warp_sum(REAL v) {
    for (int bits = 16; bits; bits /= 2) v += __shfl_xor_sync(0xffffffffu, v, bits);
    return v;
}

// Also writes mean x and 1/√(var x + ε) for the gradient. The variance is computed from x − mean x: E x² − (E x)² would cancel.
extern "C" __global__ void layer_norm(const REAL* x, const REAL* gamma, const REAL* beta, int rows, int c, REAL eps,
                                      REAL* y, REAL* mean, REAL* inverse_std) {
    int row = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (row >= rows) return;
    x += (long long)row * c;
    y += (long long)row * c;
    REAL sum = 0, squares = 0;
    for (int i = lane; i < c; i += 32) sum += x[i];
    REAL mu = warp_sum(sum) / c;
    for (int i = lane; i < c; i += 32) squares += (x[i] - mu) * (x[i] - mu);
    REAL inverse = 1 / sqrt(warp_sum(squares) / c + eps);
    for (int i = lane; i < c; i += 32) y[i] = (x[i] - mu) * inverse * gamma[i] + beta[i];
    if (lane == 0) mean[row] = mu, inverse_std[row] = inverse;
}

// dx = (d − mean d − x̂ mean(d x̂)) / √(var + ε), where d = γ dy
extern "C" __global__ void layer_norm_dx(const REAL* dy, const REAL* x, const REAL* gamma, const REAL* mean,
                                         const REAL* inverse_std, int rows, int c, REAL* dx) {
    int row = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (row >= rows) return;
    x += (long long)row * c;
    dy += (long long)row * c;
    dx += (long long)row * c;
    REAL mu = mean[row], inverse = inverse_std[row], sum = 0, dot = 0;
    for (int i = lane; i < c; i += 32) {
        REAL d = gamma[i] * dy[i];
        sum += d;
        dot += d * (x[i] - mu) * inverse;
    }
    REAL along_ones = warp_sum(sum) / c, along_x = warp_sum(dot) / c;
    for (int i = lane; i < c; i += 32)
        dx[i] = inverse * (gamma[i] * dy[i] - along_ones - (x[i] - mu) * inverse * along_x);
}

// dγ = Σ_rows dy x̂ and dβ = Σ_rows dy of `part` rows, side by side in a row of `sums` (parts, 2c): as in columns.cu.
extern "C" __global__ void layer_norm_dgamma(const REAL* dy, const REAL* x, const REAL* mean, const REAL* inverse_std,
                                             int rows, int c, int part, REAL* sums) {
    __shared__ REAL dgammas[8][32], dbetas[8][32];
    int column = blockIdx.x * 32 + threadIdx.x, first = blockIdx.y * part;
    REAL dgamma = 0, dbeta = 0;
    if (column < c)
        for (int row = first + threadIdx.y; row < min(first + part, rows); row += 8) {
            long long i = (long long)row * c + column;
            dgamma += dy[i] * (x[i] - mean[row]) * inverse_std[row];
            dbeta += dy[i];
        }
    dgammas[threadIdx.y][threadIdx.x] = dgamma;
    dbetas[threadIdx.y][threadIdx.x] = dbeta;
    __syncthreads();
    if (threadIdx.y || column >= c) return;
    for (int k = 1; k < 8; k++) dgamma += dgammas[k][threadIdx.x], dbeta += dbetas[k][threadIdx.x];
    sums[(long long)blockIdx.y * 2 * c + column] = dgamma;
    sums[(long long)blockIdx.y * 2 * c + c + column] = dbeta;
}
