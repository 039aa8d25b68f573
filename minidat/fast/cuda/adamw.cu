// The gradient's norm, clipping and AdamW over flat arrays of n, with nothing brought to the host. What changes from step to
// step is read from arrays, since a CUDA graph replays its launches with the arguments that they were recorded with:
//   scalars  rate, floor, kept, max_norm
//   state    the gradient's norm, the first step at which it was not finite or −1, the number of steps

#include "block_sum.cuh"

// sums[block] = Σ g² over the block's share: in float64, so that squares of float32 neither overflow nor vanish.
extern "C" __global__ void square_sums(const REAL* g, int n, double* sums) {
    double sum = 0;
    for (long long i = blockIdx.x * 256 + threadIdx.x; i < n; i += gridDim.x * 256) sum += (double)g[i] * g[i];
    sum = block_sum(sum);
    if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

// One block: the norm from `count` sums of squares, and the step counted.
extern "C" __global__ void gradient_norm(const double* sums, int count, double* state) {
    double sum = 0;
    for (int i = threadIdx.x; i < count; i += 256) sum += sums[i];
    sum = block_sum(sum);
    if (threadIdx.x) return;
    state[0] = sqrt(sum);
    state[2] += 1;
    if (!isfinite(sum) && state[1] < 0) state[1] = state[2];
}

// m ← β₁ m + (1 − β₁) g    v ← β₂ v + (1 − β₂) g²    θ ← kept θ − rate · m/(√v + floor), kept = 1 for i ≥ decayed
// where g is clipped to max_norm. From the first step whose norm was not finite on, nothing is changed.
extern "C" __global__ void adamw(const REAL* grad, int n, int decayed, REAL keep1, REAL take1, REAL keep2, REAL take2,
                                 const REAL* scalars, const double* state, REAL* theta, REAL* m, REAL* v) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n || state[1] >= 0) return;
    REAL rate = scalars[0], floor = scalars[1], kept = i < decayed ? scalars[2] : 1, max_norm = scalars[3];
    REAL g = state[0] > max_norm ? (REAL)(max_norm / state[0]) * grad[i] : grad[i];
    m[i] = keep1 * m[i] + take1 * g;
    v[i] = keep2 * v[i] + take2 * (g * g);
    theta[i] = kept * theta[i] - rate * (m[i] / (sqrt(v[i]) + floor));
}
