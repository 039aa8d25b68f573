// A map, rolled by −shift, as windows, and back: x (B, H, W, C), tokens (B, windows, window², C).

// The pixel of the map that token t is: its number.
__device__ size_t origin(int t, int h, int w, int window, int shift) {
    int col = t % window, row = t / window % window, n = t / window / window;
    int across = w / window, image = n / across / (h / window);
    row = (n / across * window + row + shift) % h;
    col = (n % across * window + col + shift) % w;
    return (size_t)(image * h + row) * w + col;
}

// A thread for each element, tokens along the grid's x.
extern "C" __global__ void window_partition(const REAL* x, REAL* tokens, int count, int h, int w, int c, int window,
                                            int shift) {
    int t = blockIdx.x * blockDim.y + threadIdx.y, channel = blockIdx.y * blockDim.x + threadIdx.x;
    if (t < count && channel < c) tokens[(size_t)t * c + channel] = x[origin(t, h, w, window, shift) * c + channel];
}

extern "C" __global__ void window_merge(const REAL* tokens, REAL* x, int count, int h, int w, int c, int window,
                                        int shift) {
    int t = blockIdx.x * blockDim.y + threadIdx.y, channel = blockIdx.y * blockDim.x + threadIdx.x;
    if (t < count && channel < c) x[origin(t, h, w, window, shift) * c + channel] = tokens[(size_t)t * c + channel];
}
