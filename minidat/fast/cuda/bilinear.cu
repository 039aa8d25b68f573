// φ(z; p) of equation (8), and its gradients to the map and to the points. Maps (B, H, W, C), points (B, G, N, 2), y (B, N, C).

#include "hat.cuh"

__device__ bool on(int row, int col, int h, int w) { return row >= 0 && row < h && col >= 0 && col < w; }

// One of the four pixels around a point, channel by channel; outside counts as zero.
__device__ REAL read(const REAL* x, int row, int col, int h, int w, int c) {
    return on(row, col, h, w) ? x[(size_t)(row * w + col) * c] : 0;
}

extern "C" __global__ void bilinear(const REAL* x, const REAL* points, REAL* y, int count, int h, int w, int c,
                                    int groups, int n) {
    int t = blockIdx.x * blockDim.x + threadIdx.x;  // of y
    if (t >= count) return;
    int channel = t % c, point = t / c % n, image = t / c / n, group = channel / (c / groups);
    const REAL* p = points + ((size_t)(image * groups + group) * n + point) * 2;
    int row = before(p[0], h), col = before(p[1], w);
    REAL down = p[0] - row, right = p[1] - col;
    x += (size_t)image * h * w * c + channel;
    y[t] = (1 - down) * ((1 - right) * read(x, row, col, h, w, c) + right * read(x, row, col + 1, h, w, c)) +
           down * ((1 - right) * read(x, row + 1, col, h, w, c) + right * read(x, row + 1, col + 1, h, w, c));
}

// A warp for each point: the slope of the surface there, summed over the group's channels.
extern "C" __global__ void bilinear_dpoints(const REAL* x, const REAL* points, const REAL* dy, REAL* dpoints, int count,
                                            int h, int w, int c, int groups, int n) {
    int t = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;  // of (B, G, N)
    if (t >= count) return;
    int point = t % n, group = t / n % groups, image = t / n / groups, width = c / groups;
    int row = before(points[2 * t], h), col = before(points[2 * t + 1], w);
    REAL down = points[2 * t] - row, right = points[2 * t + 1] - col, drow = 0, dcol = 0;
    x += (size_t)image * h * w * c + group * width;
    dy += ((size_t)image * n + point) * c + group * width;
    for (int i = threadIdx.x % 32; i < width; i += 32) {
        REAL z00 = read(x + i, row, col, h, w, c), z01 = read(x + i, row, col + 1, h, w, c);
        REAL z10 = read(x + i, row + 1, col, h, w, c), z11 = read(x + i, row + 1, col + 1, h, w, c);
        drow += dy[i] * ((1 - right) * (z10 - z00) + right * (z11 - z01));
        dcol += dy[i] * ((1 - down) * (z01 - z00) + down * (z11 - z10));
    }
    for (int o = 16; o; o /= 2) {
        drow += __shfl_xor_sync(~0u, drow, o);
        dcol += __shfl_xor_sync(~0u, dcol, o);
    }
    if (threadIdx.x % 32 == 0) dpoints[2 * t] = drow, dpoints[2 * t + 1] = dcol;
}

#define MOST 256  // threads of a block

// A block for each pixel of each group, a thread for each channel: the points that read the pixel, in their own order.
extern "C" __global__ void bilinear_dx(const REAL* points, const REAL* dy, REAL* dx, int h, int w, int c, int groups,
                                       int n) {
    __shared__ REAL weight[MOST];
    int pixel = blockIdx.x % (h * w), plane = blockIdx.x / (h * w), image = plane / groups, group = plane % groups;
    int width = c / groups, channel = blockIdx.y * blockDim.x + threadIdx.x;
    points += (size_t)plane * n * 2;
    dy += (size_t)image * n * c + group * width + channel;
    REAL total = 0;
    for (int start = 0; start < n; start += blockDim.x) {
        const REAL* p = points + (start + threadIdx.x) * 2;
        __syncthreads();
        weight[threadIdx.x] = start + threadIdx.x < n ? g(p[0], pixel / w) * g(p[1], pixel % w) : 0;
        __syncthreads();
        int count = min((int)blockDim.x, n - start);
        for (int i = 0; i < count && channel < width; i++)
            if (weight[i] != 0) total += weight[i] * dy[(size_t)(start + i) * c];
    }
    if (channel < width) dx[((size_t)image * h * w + pixel) * c + group * width + channel] = total;
}
