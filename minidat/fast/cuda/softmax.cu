// Softmax over rows of m, and its vjp. `lanes` threads, a power of two up to 32 and m, share a row. They read it three times, all but
// the first from the cache, and write it once.

#include "rows.cuh"

// The row of a bias or mask that is added to this row of the scores. A term is `count` matrices (n, m). Each is used for `inner`
// consecutive score matrices, and the whole sequence is repeated over the axes before. count 0: no such term.
__device__ const REAL* met(const REAL* term, int row, int n, int m, int inner, int count) {
    return count ? term + ((size_t)(row / n / inner % count) * n + row % n) * m : 0;
}

__device__ REAL logit(const REAL* s, const REAL* bias, const REAL* mask, int i) {
    return s[i] + (bias ? bias[i] : 0) + (mask ? mask[i] : 0);
}

// p_i = e^(x_i) / Σ_j e^(x_j) with x = s + bias + mask; p may be s
extern "C" __global__ void softmax(const REAL* s, REAL* p, const REAL* bias, const REAL* mask, int bias_inner,
                                   int bias_count, int mask_inner, int mask_count, int rows, int n, int m, int lanes) {
    int row = blockIdx.x * (blockDim.x / lanes) + threadIdx.x / lanes, lane = threadIdx.x % lanes;
    bool writes = row < rows;  // all threads stay: the shuffles need them
    row = min(row, rows - 1);
    s += (size_t)row * m;
    p += (size_t)row * m;
    bias = met(bias, row, n, m, bias_inner, bias_count);
    mask = met(mask, row, n, m, mask_inner, mask_count);
    REAL top = logit(s, bias, mask, lane), sum = 0;
    for (int i = lane + lanes; i < m; i += lanes) top = fmax(top, logit(s, bias, mask, i));
    top = row_max(top, lanes);
    for (int i = lane; i < m; i += lanes) sum += exp(logit(s, bias, mask, i) - top);
    sum = 1 / row_sum(sum, lanes);
    for (int i = lane; i < m && writes; i += lanes) p[i] = exp(logit(s, bias, mask, i) - top) * sum;
}

// dx = p (dy − Σ_j dy_j p_j); dx may be dy
extern "C" __global__ void softmax_vjp(const REAL* p, const REAL* dy, REAL* dx, int rows, int m, int lanes) {
    int row = blockIdx.x * (blockDim.x / lanes) + threadIdx.x / lanes, lane = threadIdx.x % lanes;
    bool writes = row < rows;
    row = min(row, rows - 1);
    p += (size_t)row * m;
    dy += (size_t)row * m;
    dx += (size_t)row * m;
    REAL dot = 0;
    for (int i = lane; i < m; i += lanes) dot += dy[i] * p[i];
    dot = row_sum(dot, lanes);
    for (int i = lane; i < m && writes; i += lanes) dx[i] = p[i] * (dy[i] - dot);
}
