// The patches of a convolution with kernel K×L, laid out as rows, and the sum of their gradients into the map:
// x (B, H, W, C), patches (B, I, J, K, L, C) = x[b, i·stride + k − padding, j·stride + l − padding, c], 0 off the map.

extern "C" __global__ void patches(const REAL* x, REAL* rows_of, int count, int height, int width, int c, int kernel,
                                   int kernel2, int rows, int cols, int stride, int padding) {
    int t = blockIdx.x * blockDim.x + threadIdx.x;  // of the patches
    if (t >= count) return;
    int channel = t % c, l = t / c % kernel2, k = t / c / kernel2 % kernel, place = t / c / kernel2 / kernel;
    int row = place / cols % rows * stride + k - padding, col = place % cols * stride + l - padding;
    bool on = row >= 0 && row < height && col >= 0 && col < width;
    rows_of[t] = on ? x[((size_t)(place / cols / rows * height + row) * width + col) * c + channel] : 0;
}

// dx: a pixel's gradients from all patches that contain it, added tap by tap.
extern "C" __global__ void patches_vjp(const REAL* d, REAL* dx, int count, int height, int width, int c, int kernel,
                                       int kernel2, int rows, int cols, int stride, int padding) {
    int t = blockIdx.x * blockDim.x + threadIdx.x;  // of x
    if (t >= count) return;
    int channel = t % c, col = t / c % width, row = t / c / width % height, image = t / c / width / height;
    REAL total = 0;
    for (int k = (row + padding) % stride; k < kernel && k <= row + padding; k += stride) {  // taps that met this row
        int i = (row + padding - k) / stride;
        if (i >= rows) continue;
        for (int l = (col + padding) % stride; l < kernel2 && l <= col + padding; l += stride) {
            int j = (col + padding - l) / stride;
            size_t place = ((size_t)image * rows + i) * cols + j;
            if (j < cols) total += d[((place * kernel + k) * kernel2 + l) * c + channel];
        }
    }
    dx[t] = total;
}
