// What a run reports of its steps, without a copy to the host.

#include "block_sum.cuh"

// The first of the largest of k numbers.
__device__ int largest(const REAL* x, int k) {
    int at = 0;
    for (int i = 1; i < k; i++)
        if (x[i] > x[at]) at = i;
    return at;
}

// One block of 256 threads. now (2) += B · loss and how many of the logits (B, K) are largest where the targets are.
extern "C" __global__ void tally(const REAL* logits, const REAL* targets, const REAL* loss, int b, int k,
                                 double* now) {
    double correct = 0;
    for (int i = threadIdx.x; i < b; i += 256)
        correct += largest(logits + (size_t)i * k, k) == largest(targets + (size_t)i * k, k);
    correct = block_sum(correct);
    if (threadIdx.x) return;
    now[0] += (double)loss[0] * b;
    now[1] += correct;
}

// One thread, at the end of a batch. sums (2) += now; last (2) = mean loss and norm, of this step or of the first one whose norm was
// not finite; then now = 0. state: AdamW's.
extern "C" __global__ void report(double* now, int batch, const double* state, double* sums, double* last) {
    sums[0] += now[0];
    sums[1] += now[1];
    if (state[1] < 0 || state[1] >= state[2]) last[0] = now[0] / batch, last[1] = state[0];
    now[0] = now[1] = 0;
}
