// y[b, i] = x[b, i] · [u_b ≥ rate]/kept, kept = 1 − rate: the branch of an image, whole or not at all. A row of blocks for each image.
extern "C" __global__ void drop_path(const REAL* x, const float* u, int size, REAL rate, REAL kept, REAL* y) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    size_t at = (size_t)blockIdx.y * size + i;
    if (i < size) y[at] = x[at] * ((u[blockIdx.y] >= (float)rate ? (REAL)1 : (REAL)0) / kept);
}
