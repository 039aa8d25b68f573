// A map, rolled by −shift, as windows, and back: x (B, H, W, C), tokens (B, windows, window², C).

// The index in the map of an element of the tokens.
__device__ size_t origin(int t, int h, int w, int c, int window, int shift) {
    int channel = t % c, col = t / c % window, row = t / c / window % window, n = t / c / window / window;
    int across = w / window, image = n / across / (h / window);
    row = (n / across * window + row + shift) % h;
    col = (n % across * window + col + shift) % w;
    return ((size_t)(image * h + row) * w + col) * c + channel;
}

extern "C" __global__ void window_partition(const REAL* x, REAL* tokens, int count, int h, int w, int c, int window,
                                            int shift) {
    int t = blockIdx.x * blockDim.x + threadIdx.x;
    if (t < count) tokens[t] = x[origin(t, h, w, c, window, shift)];
}

extern "C" __global__ void window_merge(const REAL* tokens, REAL* x, int count, int h, int w, int c, int window,
                                        int shift) {
    int t = blockIdx.x * blockDim.x + threadIdx.x;
    if (t < count) x[origin(t, h, w, c, window, shift)] = tokens[t];
}
