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

#ifndef PIECES
#define PIECES 2  // of 32 columns, one in each lane: a row is held in registers
#endif

// dx = (d − mean d − x̂ mean(d x̂)) / √(var + ε), where d = γ dy. In the same pass dγ = Σ_rows dy x̂ and dβ = Σ_rows dy of `part` rows,
// side by side in a row of `sums` (parts, 2c). A block has 8 warps, each with every eighth of its rows.
extern "C" __global__ void layer_norm_vjp(const REAL* dy, const REAL* x, const REAL* gamma, const REAL* mean,
                                          const REAL* inverse_std, int rows, int c, int part, REAL* dx, REAL* sums) {
    __shared__ REAL of[2][8][32];
    int lane = threadIdx.x, warp = threadIdx.y, first = blockIdx.x * part;
    REAL d[PIECES], x_hat[PIECES], dgamma[PIECES] = {}, dbeta[PIECES] = {};
    for (int row = first + warp; row < min(first + part, rows); row += 8) {
        REAL mu = mean[row], inverse = inverse_std[row], sum = 0, dot = 0;
        long long start = (long long)row * c;
#pragma unroll
        for (int piece = 0; piece < PIECES; piece++) {
            int i = piece * 32 + lane;
            if (i >= c) continue;
            REAL of_y = dy[start + i];
            x_hat[piece] = (x[start + i] - mu) * inverse;
            d[piece] = gamma[i] * of_y;
            sum += d[piece];
            dot += d[piece] * x_hat[piece];
            dgamma[piece] += of_y * x_hat[piece];
            dbeta[piece] += of_y;
        }
        REAL along_ones = warp_sum(sum) / c, along_x = warp_sum(dot) / c;
#pragma unroll
        for (int piece = 0; piece < PIECES; piece++) {
            int i = piece * 32 + lane;
            if (i < c) dx[start + i] = inverse * (d[piece] - along_ones - x_hat[piece] * along_x);
        }
    }
#pragma unroll
    for (int piece = 0; piece < PIECES; piece++) {
        int column = piece * 32 + lane;
        __syncthreads();
        of[0][warp][lane] = dgamma[piece];
        of[1][warp][lane] = dbeta[piece];
        __syncthreads();
        if (warp > 1 || column >= c) continue;  // one warp adds up dγ, another one dβ
        REAL sum = 0;
        for (int k = 0; k < 8; k++) sum += of[warp][k][lane];
        sums[((long long)blockIdx.x * 2 + warp) * c + column] = sum;
    }
}
