// What a run reports of its steps, without a copy to the host.

#include "block_sum.cuh"

// The first of the largest of k numbers.
__device__ int largest(const REAL* x, int k) {
    int at = 0;
    for (int i = 1; i < k; i++)
        if (x[i] > x[at]) at = i;
    return at;
}

// One block of 256 threads. sums (2) += B · loss and how many of the logits (B, K) are largest where the targets are; of_batch
// += loss / parts: of the batch that this is one of so many parts of.
extern "C" __global__ void tally(const REAL* logits, const REAL* targets, const REAL* loss, int b, int k, int parts,
                                 double* of_batch, double* sums) {
    double correct = 0;
    for (int i = threadIdx.x; i < b; i += 256)
        correct += largest(logits + (size_t)i * k, k) == largest(targets + (size_t)i * k, k);
    correct = block_sum(correct);
    if (threadIdx.x) return;
    of_batch[0] += (double)loss[0] / parts;
    sums[0] += (double)loss[0] * b;
    sums[1] += correct;
}

// One thread. last (2) = loss and norm, of this step or of the first one whose norm was not finite; then loss = 0. state: AdamW's.
extern "C" __global__ void report(double* loss, const double* state, double* last) {
    if (state[1] < 0 || state[1] >= state[2]) last[0] = loss[0], last[1] = state[0];
    loss[0] = 0;
}
