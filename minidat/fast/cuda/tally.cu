// What a step adds to a run's sums, in one block of 256 threads: sums (2) += B · loss and how many logits (B, K) are largest where
// the targets are; last (2) = loss and the gradient's norm, of this step or of the first one that failed. state: AdamW's.

#include "block_sum.cuh"

// The first of the largest of k numbers.
__device__ int largest(const REAL* x, int k) {
    int at = 0;
    for (int i = 1; i < k; i++)
        if (x[i] > x[at]) at = i;
    return at;
}

extern "C" __global__ void tally(const REAL* logits, const REAL* targets, const REAL* loss, const double* state, int b,
                                 int k, double* sums, double* last) {
    double correct = 0;
    for (int i = threadIdx.x; i < b; i += 256)
        correct += largest(logits + (size_t)i * k, k) == largest(targets + (size_t)i * k, k);
    correct = block_sum(correct);
    if (threadIdx.x) return;
    sums[0] += (double)loss[0] * b;
    sums[1] += correct;
    if (state[1] >= 0 && state[1] < state[2]) return;  // failed at an earlier step
    last[0] = loss[0];
    last[1] = state[0];
}
