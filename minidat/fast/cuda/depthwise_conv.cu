// Depthwise convolution and its gradients. Channels are cut into G groups of E that share the kernel W (K, L, E):
// x (B, H, W, G, E), y (B, G, I, J, E). One group is the plain one, with y (B, I, J, C).
// y[b, g, i, j, e] = Σ_(k, l) x[b, i·stride + k − padding, j·stride + l − padding, g, e] W[k, l, e] + bias[e]

extern "C" __global__ void depthwise(const REAL* x, const REAL* w, const REAL* bias, REAL* y, int biased, int count,
                                     int height, int width, int groups, int e, int kernel, int kernel2, int rows,
                                     int cols, int stride, int padding) {
    int t = blockIdx.x * blockDim.x + threadIdx.x;  // of y
    if (t >= count) return;
    int channel = t % e, j = t / e % cols, i = t / e / cols % rows, plane = t / e / cols / rows;
    int step = groups * e, top = i * stride - padding, left = j * stride - padding;
    x += (size_t)(plane / groups) * height * width * step + plane % groups * e + channel;
    REAL total = biased ? bias[channel] : 0;
    for (int k = max(0, -top); k < min(kernel, height - top); k++)
        for (int l = max(0, -left); l < min(kernel2, width - left); l++)
            total += x[(size_t)((top + k) * width + left + l) * step] * w[(k * kernel2 + l) * e + channel];
    y[t] = total;
}

extern "C" __global__ void depthwise_dx(const REAL* w, const REAL* dy, REAL* dx, int count, int height, int width,
                                        int groups, int e, int kernel, int kernel2, int rows, int cols, int stride,
                                        int padding) {
    int t = blockIdx.x * blockDim.x + threadIdx.x;  // of x
    if (t >= count) return;
    int channel = t % e, group = t / e % groups, col = t / e / groups % width;
    int row = t / e / groups / width % height, image = t / e / groups / width / height;
    dy += (size_t)(image * groups + group) * rows * cols * e + channel;
    REAL total = 0;
    for (int k = (row + padding) % stride; k < kernel && k <= row + padding; k += stride) {  // taps that met this row
        int i = (row + padding - k) / stride;
        if (i >= rows) continue;
        for (int l = (col + padding) % stride; l < kernel2 && l <= col + padding; l += stride) {
            int j = (col + padding - l) / stride;
            if (j < cols) total += dy[(size_t)(i * cols + j) * e] * w[(k * kernel2 + l) * e + channel];
        }
    }
    dx[t] = total;
}

#define TAPS 9     // the widest kernel
#define SLICES 8   // warps of a block
#define CHANNELS 32

// Row k of dW, summed over `share` of the places of y: [blockIdx.z, k, l, e]. A thread holds the row's taps of a channel;
// each of 8 warps goes over an eighth of the places.
extern "C" __global__ void depthwise_dw(const REAL* x, const REAL* dy, REAL* dw, int places, int share, int height,
                                        int width, int groups, int e, int kernel, int kernel2, int rows, int cols,
                                        int stride, int padding) {
    __shared__ REAL part[SLICES][CHANNELS];
    int channel = blockIdx.x * CHANNELS + threadIdx.x, k = blockIdx.y, step = groups * e;
    int first = blockIdx.z * share, end = min(first + share, places);
    REAL total[TAPS] = {};
    for (int t = first + threadIdx.y; t < end && channel < e; t += SLICES) {
        int j = t % cols, i = t / cols % rows, plane = t / cols / rows;
        int row = i * stride + k - padding, left = j * stride - padding;
        if (row < 0 || row >= height) continue;
        REAL d = dy[(size_t)t * e + channel];
        const REAL* z = x + ((size_t)(plane / groups) * height + row) * width * step + plane % groups * e + channel;
#pragma unroll
        for (int l = 0; l < TAPS; l++)
            if (l < kernel2 && left + l >= 0 && left + l < width) total[l] += d * z[(left + l) * step];
    }
#pragma unroll
    for (int l = 0; l < TAPS; l++) {
        if (l >= kernel2) break;
        __syncthreads();
        part[threadIdx.y][threadIdx.x] = total[l];
        __syncthreads();
        if (threadIdx.y > 0 || channel >= e) continue;
        REAL sum = 0;
        for (int i = 0; i < SLICES; i++) sum += part[i][threadIdx.x];
        dw[((size_t)(blockIdx.z * kernel + k) * kernel2 + l) * e + channel] = sum;
    }
}
