// The sum over the block's 256 threads, in the first one; in a fixed order.
__device__ double block_sum(double v) {
    __shared__ double of[256];
    __syncthreads();  // nobody reads an earlier sum's any more
    of[threadIdx.x] = v;
    for (int half = 128; half; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) of[threadIdx.x] += of[threadIdx.x + half];
    }
    return of[0];
}
