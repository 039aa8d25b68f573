// The deformable relative position bias φ(B̂; R) of equation (9), and its gradients. Table (M, R, C); points (B, G, N, 2);
// queries rows (H) × cols (W); bias (B, M, H·W, N). On each axis the table is read at cells·(query − point) + centre.

__device__ REAL place(REAL query, REAL point, REAL cells, int lines) {
    return (query - point) * cells + (REAL)(lines - 1) / 2;
}

#include "hat.cuh"

__device__ REAL read(const REAL* table, int u, int v, int r, int c) {
    return u >= 0 && u < r && v >= 0 && v < c ? table[u * c + v] : 0;
}

extern "C" __global__ void position_bias(const REAL* table, const REAL* points, const REAL* rows, const REAL* cols,
                                         REAL* bias, int tiles, int m, int r, int c, int groups, int n, int h, int w,
                                         REAL down_cells, REAL right_cells) {
    int plane = blockIdx.x / tiles, t = blockIdx.x % tiles * blockDim.x + threadIdx.x;  // of (B, M) and of (H·W, N)
    if (t >= h * w * n) return;
    int key = t % n, query = t / n, head = plane % m, image = plane / m;
    const REAL* p = points + ((size_t)(image * groups + head / (m / groups)) * n + key) * 2;
    REAL a = place(rows[query / w], p[0], down_cells, r), e = place(cols[query % w], p[1], right_cells, c);
    int u = before(a, r), v = before(e, c);
    REAL down = a - u, right = e - v;
    table += (size_t)head * r * c;
    bias[(size_t)plane * h * w * n + t] =
        (1 - down) * ((1 - right) * read(table, u, v, r, c) + right * read(table, u, v + 1, r, c)) +
        down * ((1 - right) * read(table, u + 1, v, r, c) + right * read(table, u + 1, v + 1, r, c));
}

#define SLICES 8

// 32 neighbouring keys a block; each of its 8 warps goes over an eighth of their group's heads and queries.
extern "C" __global__ void position_bias_dpoints(const REAL* table, const REAL* points, const REAL* rows,
                                                 const REAL* cols, const REAL* dbias, REAL* dpoints, int m, int r,
                                                 int c, int groups, int n, int h, int w, REAL down_cells,
                                                 REAL right_cells) {
    __shared__ REAL part[2][SLICES][32];
    int key = blockIdx.y * 32 + threadIdx.x, plane = blockIdx.x, share = m / groups;
    int image = plane / groups, first = plane % groups * share;  // the group's first head
    size_t point = (size_t)plane * n + min(key, n - 1);
    REAL row = points[2 * point], col = points[2 * point + 1], drow = 0, dcol = 0;
    for (int i = threadIdx.y; i < share * h * w && key < n; i += SLICES) {
        int head = first + i / (h * w), query = i % (h * w);
        const REAL* z = table + (size_t)head * r * c;
        REAL a = place(rows[query / w], row, down_cells, r), e = place(cols[query % w], col, right_cells, c);
        int u = before(a, r), v = before(e, c);
        REAL down = a - u, right = e - v, d = dbias[((size_t)(image * m + head) * h * w + query) * n + key];
        REAL z00 = read(z, u, v, r, c), z01 = read(z, u, v + 1, r, c);
        REAL z10 = read(z, u + 1, v, r, c), z11 = read(z, u + 1, v + 1, r, c);
        drow += d * ((1 - right) * (z10 - z00) + right * (z11 - z01));
        dcol += d * ((1 - down) * (z01 - z00) + down * (z11 - z10));
    }
    part[0][threadIdx.y][threadIdx.x] = drow;
    part[1][threadIdx.y][threadIdx.x] = dcol;
    __syncthreads();
    if (threadIdx.y > 1 || key >= n) return;
    REAL total = 0;
    for (int i = 0; i < SLICES; i++) total += part[threadIdx.y][i][threadIdx.x];
    dpoints[2 * point + threadIdx.y] = -total * (threadIdx.y ? right_cells : down_cells);
}

// reach[point, line] = the first and the last query that read this line of the table, on one axis, for this point
extern "C" __global__ void reach(const REAL* points, const REAL* queries, int* reach, int axis, int count, int number,
                                 int lines, REAL cells) {
    int t = blockIdx.x * blockDim.x + threadIdx.x;  // of (points, lines)
    if (t >= count) return;
    REAL point = points[t / lines * 2 + axis];
    int first = number, last = -1;
    for (int i = 0; i < number; i++)
        if (g(place(queries[i], point, cells, lines), t % lines) != 0) first = min(first, i), last = i;
    reach[2 * t] = first;
    reach[2 * t + 1] = last;
}

#define KEYS 8     // a sector of memory in float32
#define MOST 4096  // numbers of dbias at a time

// dB̂[m, u, v] = Σ_(i, j, n) g(R_row(i, n), u) g(R_col(j, n), v) dbias[m, (i, j), n] of one image: a thread for each cell
// (u, v). dbias comes by bands of the map for 8 keys at a time, and a cell takes of it what its reach says.
extern "C" __global__ void position_bias_dtable(const REAL* points, const REAL* rows, const REAL* cols,
                                                const REAL* dbias, const int* row_reach, const int* col_reach,
                                                REAL* dtable, int m, int r, int c, int groups, int n, int h, int w,
                                                REAL down_cells, REAL right_cells) {
    __shared__ REAL band[MOST];
    int head = blockIdx.x % m, plane = blockIdx.x / m * groups + head / (m / groups);
    int cell = blockIdx.y * blockDim.x + threadIdx.x, u = cell / c, v = cell % c, high = min(h, MOST / KEYS / w);
    REAL total = 0;
    for (int top = 0; top < h; top += high) {
        int size = min(high, h - top) * w, bottom = min(top + high, h) - 1;
        const REAL* d = dbias + ((size_t)blockIdx.x * h * w + top * w) * n;
        for (int start = 0; start < n; start += KEYS) {
            int keys = min(KEYS, n - start);
            __syncthreads();
            for (int i = threadIdx.x; i < size * KEYS; i += blockDim.x)
                if (i % KEYS < keys) band[i % KEYS * size + i / KEYS] = d[(size_t)(i / KEYS) * n + start + i % KEYS];
            __syncthreads();
            for (int k = 0; k < keys && u < r; k++) {
                int point = plane * n + start + k;
                const int *down = row_reach + 2 * (point * r + u), *right = col_reach + 2 * (point * c + v);
                for (int i = max(top, down[0]); i <= min(bottom, down[1]); i++) {
                    REAL along = 0;
                    for (int j = right[0]; j <= right[1]; j++)
                        along += g(place(cols[j], points[2 * point + 1], right_cells, c), v) *
                                 band[k * size + (i - top) * w + j];
                    total += g(place(rows[i], points[2 * point], down_cells, r), u) * along;
                }
            }
        }
    }
    if (u < r) dtable[((size_t)blockIdx.x * r + u) * c + v] = total;
}
