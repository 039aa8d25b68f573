// L = −(1/B) Σ_b Σ_k t_bk ln softmax(x_b)_k with t = (1 − s) targets + s/K, and its gradient: a warp for each row of K logits.

#include "block_sum.cuh"
#include "rows.cuh"

// ln Σ_k e^(x_k) of a row, in every lane: `top` is its largest logit.
__device__ REAL log_sum(const REAL* x, int k, REAL* top) {
    int lane = threadIdx.x % 32;
    REAL most = x[0], sum = 0;
    for (int i = lane; i < k; i += 32) most = fmax(most, x[i]);
    most = row_max(most, 32);
    for (int i = lane; i < k; i += 32) sum += exp(x[i] - most);
    *top = most;
    return log(row_sum(sum, 32));
}

__device__ REAL smoothed(REAL target, REAL smoothing, int k) { return target * (1 - smoothing) + smoothing / k; }

// rows[b] = −Σ_k t_bk ln softmax(x_b)_k
extern "C" __global__ void cross_entropy(const REAL* x, const REAL* targets, int b, int k, REAL smoothing, REAL* rows) {
    int row = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    if (row >= b) return;
    x += (size_t)row * k;
    targets += (size_t)row * k;
    REAL top, total = 0, log_of_sum = log_sum(x, k, &top);
    for (int i = threadIdx.x % 32; i < k; i += 32) total -= smoothed(targets[i], smoothing, k) * (x[i] - top - log_of_sum);
    total = row_sum(total, 32);
    if (threadIdx.x % 32 == 0) rows[row] = total;
}

// One block: loss = Σ rows / B, added up in float64.
extern "C" __global__ void mean_loss(const REAL* rows, int b, REAL* loss) {
    double sum = 0;
    for (int i = threadIdx.x; i < b; i += 256) sum += rows[i];
    sum = block_sum(sum);
    if (threadIdx.x == 0) loss[0] = (REAL)(sum / b);
}

// dx = dL/B (softmax(x) Σ_k t − t)
extern "C" __global__ void cross_entropy_vjp(const REAL* x, const REAL* targets, const REAL* dloss, int b, int k,
                                             REAL smoothing, REAL* dx) {
    int row = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (row >= b) return;
    x += (size_t)row * k;
    targets += (size_t)row * k;
    dx += (size_t)row * k;
    REAL top, total = 0, log_of_sum = log_sum(x, k, &top), share = dloss[0] / b;
    for (int i = lane; i < k; i += 32) total += smoothed(targets[i], smoothing, k);
    total = row_sum(total, 32);
    for (int i = lane; i < k; i += 32)
        dx[i] = share * (exp(x[i] - top - log_of_sum) * total - smoothed(targets[i], smoothing, k));
}
