// A map, rolled by −shift, as windows, and back: x (B, H, W, C), tokens (B, windows, window², C).

// The pixel of the map that token t is: its number.
__device__ size_t origin(int t, int h, int w, int window, int shift) {
    int col = t % window, row = t / window % window, n = t / window / window;
    int across = w / window, image = n / across / (h / window);
    row = (n / across * window + row + shift) % h;
    col = (n % across * window + col + shift) % w;
    return (size_t)(image * h + row) * w + col;
}

#include "four.cuh"

// A thread for each element of the tokens, or for four (`each`, and then c counts fours). Tokens lie along the grid's x.
extern "C" __global__ void window_partition(const REAL* x, REAL* tokens, int count, int h, int w, int c, int window,
                                            int shift, int each) {
    int t = blockIdx.x * blockDim.y + threadIdx.y, channel = blockIdx.y * blockDim.x + threadIdx.x;
    if (t >= count || channel >= c) return;
    size_t to = (size_t)t * c + channel, from = origin(t, h, w, window, shift) * c + channel;
    if (each == 4)
        ((Four*)tokens)[to] = ((const Four*)x)[from];
    else
        tokens[to] = x[from];
}

extern "C" __global__ void window_merge(const REAL* tokens, REAL* x, int count, int h, int w, int c, int window,
                                        int shift, int each) {
    int t = blockIdx.x * blockDim.y + threadIdx.y, channel = blockIdx.y * blockDim.x + threadIdx.x;
    if (t >= count || channel >= c) return;
    size_t from = (size_t)t * c + channel, to = origin(t, h, w, window, shift) * c + channel;
    if (each == 4)
        ((Four*)x)[to] = ((const Four*)tokens)[from];
    else
        x[to] = tokens[from];
}
