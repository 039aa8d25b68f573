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

#define PIECES 4  // of a row of scores in a thread: at most 128 keys

// s_j = a · b_j for a row a of `width` numbers and the rows b_j that are this thread's: j = lane, lane + lanes, …
__device__ void dots(const REAL* a, const REAL* b, int m, int width, int lanes, REAL* s) {
    int lane = threadIdx.x % lanes, step = width | 1;
    const REAL* row[PIECES];
#pragma unroll
    for (int piece = 0; piece < PIECES; piece++) {
        row[piece] = b + min(piece * lanes + lane, m - 1) * step;
        s[piece] = 0;
    }
    for (int i = 0; i < width; i++) {
        REAL v = a[i];
#pragma unroll
        for (int piece = 0; piece < PIECES; piece++)
            if (piece * lanes < m) s[piece] += v * row[piece][i];
    }
}

// P (n, m) in shared memory, from Q and K there. The bias and mask are those of this head, or 0.
__device__ void weights(const REAL* q, const REAL* k, const REAL* bias, const REAL* mask, REAL* p, int n, int m, int d,
                        int bias_row, int bias_col, REAL scale, int lanes) {
    int lane = threadIdx.x % lanes;
    for (int first = 0; first < n; first += blockDim.x / lanes) {  // all threads stay: the shuffles need them
        int i = first + threadIdx.x / lanes;
        REAL s[PIECES], top = 0, sum = 0;
        dots(q + min(i, n - 1) * (d | 1), k, m, d, lanes, s);
#pragma unroll
        for (int piece = 0; piece < PIECES; piece++) {
            int j = piece * lanes + lane;
            if (j >= m || i >= n) continue;
            s[piece] *= scale;
            if (bias) s[piece] += bias[i * bias_row + j * bias_col];
            if (mask) s[piece] += mask[i * m + j];
            top = piece ? fmax(top, s[piece]) : s[piece];
        }
        top = row_max(top, lanes);
#pragma unroll
        for (int piece = 0; piece < PIECES; piece++)
            if (piece * lanes + lane < m && i < n) sum += s[piece] = exp(s[piece] - top);
        sum = 1 / row_sum(sum, lanes);
#pragma unroll
        for (int piece = 0; piece < PIECES; piece++)
            if (piece * lanes + lane < m && i < n) p[i * m + piece * lanes + lane] = s[piece] * sum;
    }
}

#define ROWS 4  // of a product in a thread, so that a number of B is loaded once for all of them

// out_ic = scale · Σ_j a_ij b_jc: a (rows, inner) in shared memory, transposed or not by its strides, b (inner, width) as `fetch`
// leaves it; rows of `out` are `row` numbers apart.
__device__ void product(const REAL* a, int a_row, int a_col, const REAL* b, int rows, int inner, int width, REAL scale,
                        REAL* out, int row) {
    int step = width | 1;
    for (int t = threadIdx.x; t < (rows + ROWS - 1) / ROWS * width; t += blockDim.x) {
        int first = t / width * ROWS, channel = t % width;
        const REAL* of[ROWS];
        REAL sum[ROWS] = {};
#pragma unroll
        for (int r = 0; r < ROWS; r++) of[r] = a + min(first + r, rows - 1) * a_row;
        for (int j = 0; j < inner; j++) {
            REAL v = b[j * step + channel];
#pragma unroll
            for (int r = 0; r < ROWS; r++) sum[r] += of[r][j * a_col] * v;
        }
#pragma unroll
        for (int r = 0; r < ROWS; r++)
            if (first + r < rows) out[(size_t)(first + r) * row + channel] = scale * sum[r];
    }
}

extern "C" __global__ void attention(const REAL* q, const REAL* k, const REAL* v, const REAL* bias, const REAL* mask,
                                     REAL* y, int heads, int n, int m, int d, int c, int row, int v_row, int k_at,
                                     int v_at, int bias_inner, int bias_count, int bias_matrix, int bias_row,
                                     int bias_col, int mask_inner, int mask_count, REAL scale, int lanes) {
    __shared__ REAL room[ROOM];
    int outer = blockIdx.x, head = blockIdx.y, matrix = outer * heads + head;
    REAL *qs = room, *ks = qs + n * (d | 1), *vs = ks + m * (d | 1), *p = vs + m * (c | 1);
    fetch(q + (size_t)outer * n * row + head * d, n, d, row, qs);
    fetch(k + k_at + (size_t)outer * m * row + head * d, m, d, row, ks);
    fetch(v + v_at + (size_t)outer * m * v_row + head * c, m, c, v_row, vs);
    __syncthreads();
    weights(qs, ks, bias_count ? bias + (size_t)(matrix / bias_inner % bias_count) * bias_matrix : 0,
            mask_count ? mask + (size_t)(matrix / mask_inner % mask_count) * n * m : 0, p, n, m, d, bias_row, bias_col,
            scale, lanes);
    __syncthreads();
    product(p, m, 1, vs, n, m, c, 1, y + ((size_t)outer * n * heads + head) * c, heads * c);
}

// dS = P (dP − Σ_j P dP) with dP = dY Vᵀ, in P's place, bottom-up from Y = P V.
__device__ void weights_vjp(const REAL* dy, const REAL* v, REAL* p, int n, int m, int c, int lanes) {
    int lane = threadIdx.x % lanes;
    for (int first = 0; first < n; first += blockDim.x / lanes) {
        int i = first + threadIdx.x / lanes;
        REAL dp[PIECES], along = 0;
        dots(dy + min(i, n - 1) * (c | 1), v, m, c, lanes, dp);
#pragma unroll
        for (int piece = 0; piece < PIECES; piece++) {
            int j = piece * lanes + lane;
            if (j < m && i < n) along += p[i * m + j] * dp[piece];
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
    int begin = blockIdx.x * share, head = blockIdx.y;
    REAL *qs = room, *ks = qs + n * (d | 1), *vs = ks + m * (d | 1), *dys = vs + m * (c | 1), *p = dys + n * (c | 1);
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
        product(p, 1, m, dys, m, n, c, 1, dv + values, v_row);  // dV = Pᵀ dY
        __syncthreads();
        weights_vjp(dys, vs, p, n, m, c, lanes);
        __syncthreads();
        product(p, m, 1, ks, n, m, d, scale, dq + q_at, row);  // dQ = scale · dS K
        product(p, 1, m, qs, m, n, d, scale, dk + keys, row);  // dK = scale · dSᵀ Q
        for (int t = threadIdx.x; t < n * m && kept; t += blockDim.x) ds[t] = outer == begin ? p[t] : ds[t] + p[t];
    }
}
