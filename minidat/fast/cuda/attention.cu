// Y = softmax(scale · Q Kᵀ + bias + mask) V of one head in a block's shared memory, where all of it fits: for windows of tokens and
// other small sets. Only Q, K, V, Y and gradients go through global memory; backward computes the weights P again.
//
// Q (outer, n, M, d), K (outer, m, M, d), V (outer, m, M, c); `row` and `v_row` numbers lie between tokens, so that they may be
// parts of one array, in which K begins at `k_at` and V at `v_at`. Their gradients lie as they do. Y (outer, n, M, c).
// bias: matrix / inner % count of its matrices, as in softmax.cu, and how far apart its matrices, rows and columns are. mask
// (count, n, m). Blocks are (outer, head); `lanes` threads share a row of scores.

#include "rows.cuh"

#ifndef ROOM
#define ROOM 2048  // numbers
#endif

// A head's rows of `width` numbers, into shared memory. There they are an odd number apart, so that rows begin in different banks.
__device__ void fetch(const REAL* from, int rows, int width, int row, REAL* to) {
    int step = width | 1;
    for (int t = threadIdx.x; t < rows * width; t += blockDim.x)
        to[t / width * step + t % width] = from[(size_t)(t / width) * row + t % width];
}

__device__ REAL dot(const REAL* a, const REAL* b, int d) {
    REAL sum = 0;
    for (int i = 0; i < d; i++) sum += a[i] * b[i];
    return sum;
}

// P (n, m) in shared memory, from Q and K there. The bias and mask are those of this head, or 0.
__device__ void weights(const REAL* q, const REAL* k, const REAL* bias, const REAL* mask, REAL* p, int n, int m, int d,
                        int bias_row, int bias_col, REAL scale, int lanes) {
    int lane = threadIdx.x % lanes, step = d | 1;
    for (int first = 0; first < n; first += blockDim.x / lanes) {  // all threads stay: the shuffles need them
        int i = first + threadIdx.x / lanes;
        REAL top = 0, sum = 0;
        for (int j = lane; j < m && i < n; j += lanes) {
            REAL s = scale * dot(q + i * step, k + j * step, d);
            if (bias) s += bias[i * bias_row + j * bias_col];
            if (mask) s += mask[i * m + j];
            p[i * m + j] = s;
            top = j == lane ? s : fmax(top, s);
        }
        top = row_max(top, lanes);
        for (int j = lane; j < m && i < n; j += lanes) sum += p[i * m + j] = exp(p[i * m + j] - top);
        sum = 1 / row_sum(sum, lanes);
        for (int j = lane; j < m && i < n; j += lanes) p[i * m + j] *= sum;
    }
}

extern "C" __global__ void attention(const REAL* q, const REAL* k, const REAL* v, const REAL* bias, const REAL* mask,
                                     REAL* y, int heads, int n, int m, int d, int c, int row, int v_row, int k_at,
                                     int v_at, int bias_inner, int bias_count, int bias_matrix, int bias_row,
                                     int bias_col, int mask_inner, int mask_count, REAL scale, int lanes) {
    __shared__ REAL room[ROOM];
    int outer = blockIdx.x, head = blockIdx.y, matrix = outer * heads + head, step = c | 1;
    REAL *qs = room, *ks = qs + n * (d | 1), *vs = ks + m * (d | 1), *p = vs + m * step;
    fetch(q + (size_t)outer * n * row + head * d, n, d, row, qs);
    fetch(k + k_at + (size_t)outer * m * row + head * d, m, d, row, ks);
    fetch(v + v_at + (size_t)outer * m * v_row + head * c, m, c, v_row, vs);
    __syncthreads();
    weights(qs, ks, bias_count ? bias + (size_t)(matrix / bias_inner % bias_count) * bias_matrix : 0,
            mask_count ? mask + (size_t)(matrix / mask_inner % mask_count) * n * m : 0, p, n, m, d, bias_row, bias_col,
            scale, lanes);
    __syncthreads();
    for (int t = threadIdx.x; t < n * c; t += blockDim.x) {
        int i = t / c, channel = t % c;
        REAL sum = 0;
        for (int j = 0; j < m; j++) sum += p[i * m + j] * vs[j * step + channel];
        y[((size_t)(outer * n + i) * heads + head) * c + channel] = sum;
    }
}

#define PIECES 4  // of a row of scores in a thread: at most 128 keys

// dS = P (dP − Σ_j P dP) with dP = dY Vᵀ, in P's place, bottom-up from Y = P V.
__device__ void weights_vjp(const REAL* dy, const REAL* v, REAL* p, int n, int m, int c, int lanes) {
    int lane = threadIdx.x % lanes, step = c | 1;
    for (int first = 0; first < n; first += blockDim.x / lanes) {
        int i = first + threadIdx.x / lanes;
        REAL dp[PIECES], along = 0;
#pragma unroll
        for (int piece = 0; piece < PIECES; piece++) {
            int j = piece * lanes + lane;
            if (j >= m || i >= n) continue;
            dp[piece] = dot(dy + i * step, v + j * step, c);
            along += p[i * m + j] * dp[piece];
        }
        along = row_sum(along, lanes);
#pragma unroll
        for (int piece = 0; piece < PIECES; piece++) {
            int j = piece * lanes + lane;
            if (j < m && i < n) p[i * m + j] *= dp[piece] - along;
        }
    }
}

// A block handles `share` neighbours along the outer axis, one after the other. ds (blocks, M, n, m): dS of each block, summed
// over its share in order; written where `kept`.
extern "C" __global__ void attention_vjp(const REAL* q, const REAL* k, const REAL* v, const REAL* bias, const REAL* mask,
                                         const REAL* dy, REAL* dq, REAL* dk, REAL* dv, REAL* ds, int kept, int share,
                                         int count, int heads, int n, int m, int d, int c, int row, int v_row, int k_at,
                                         int v_at, int bias_inner, int bias_count, int bias_matrix, int bias_row,
                                         int bias_col, int mask_inner, int mask_count, REAL scale, int lanes) {
    __shared__ REAL room[ROOM];
    int begin = blockIdx.x * share, head = blockIdx.y, step = d | 1, v_step = c | 1;
    REAL *qs = room, *ks = qs + n * step, *vs = ks + m * step, *dys = vs + m * v_step, *p = dys + n * v_step;
    ds += ((size_t)blockIdx.x * heads + head) * n * m;
    for (int outer = begin; outer < min(begin + share, count); outer++) {
        int matrix = outer * heads + head;
        size_t q_at = (size_t)outer * n * row + head * d, keys = k_at + (size_t)outer * m * row + head * d;
        size_t values = v_at + (size_t)outer * m * v_row + head * c;
        __syncthreads();
        fetch(q + q_at, n, d, row, qs);
        fetch(k + keys, m, d, row, ks);
        fetch(v + values, m, c, v_row, vs);
        fetch(dy + (size_t)outer * n * heads * c + head * c, n, c, heads * c, dys);
        __syncthreads();
        weights(qs, ks, bias_count ? bias + (size_t)(matrix / bias_inner % bias_count) * bias_matrix : 0,
                mask_count ? mask + (size_t)(matrix / mask_inner % mask_count) * n * m : 0, p, n, m, d, bias_row,
                bias_col, scale, lanes);
        __syncthreads();
        for (int t = threadIdx.x; t < m * c; t += blockDim.x) {  // dV = Pᵀ dY
            int j = t / c, channel = t % c;
            REAL sum = 0;
            for (int i = 0; i < n; i++) sum += p[i * m + j] * dys[i * v_step + channel];
            dv[values + (size_t)j * v_row + channel] = sum;
        }
        __syncthreads();
        weights_vjp(dys, vs, p, n, m, c, lanes);
        __syncthreads();
        for (int t = threadIdx.x; t < n * d; t += blockDim.x) {  // dQ = scale · dS K
            int i = t / d, channel = t % d;
            REAL sum = 0;
            for (int j = 0; j < m; j++) sum += p[i * m + j] * ks[j * step + channel];
            dq[q_at + (size_t)i * row + channel] = scale * sum;
        }
        for (int t = threadIdx.x; t < m * d; t += blockDim.x) {  // dK = scale · dSᵀ Q
            int j = t / d, channel = t % d;
            REAL sum = 0;
            for (int i = 0; i < n; i++) sum += p[i * m + j] * qs[i * step + channel];
            dk[keys + (size_t)j * row + channel] = scale * sum;
        }
        for (int t = threadIdx.x; t < n * m && kept; t += blockDim.x) ds[t] = outer == begin ? p[t] : ds[t] + p[t];
    }
}
