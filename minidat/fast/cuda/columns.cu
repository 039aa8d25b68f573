// Sums over the rows of a matrix (rows, c). A block of 32 × 8 threads handles 32 columns and `part` rows; its eight sums of a
// column are added in order. The result is a row of `sums` (parts, c), which is summed again. Without atomics, so the order is fixed.

extern "C" __global__ void column_sums(const REAL* x, int rows, int c, int part, REAL* sums) {
    __shared__ REAL of[8][32];
    int column = blockIdx.x * 32 + threadIdx.x, first = blockIdx.y * part;
    REAL sum = 0;
    if (column < c)
        for (int row = first + threadIdx.y; row < min(first + part, rows); row += 8)
            sum += x[(long long)row * c + column];
    of[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y || column >= c) return;
    for (int k = 1; k < 8; k++) sum += of[k][threadIdx.x];
    sums[(long long)blockIdx.y * c + column] = sum;
}

// The last stage for many such matrices at once, each block's order as above. tiles (count, 5): where a tile of up to 32 columns begins
// in `sums`, how far apart its rows are, how many rows there are, where in `out` their sums go, and how many columns it has.
extern "C" __global__ void column_totals(const REAL* sums, const int* tiles, REAL* out) {
    __shared__ REAL of[8][32];
    const int* tile = tiles + 5 * blockIdx.x;
    int rows = tile[2];
    bool on = threadIdx.x < tile[4];
    sums += tile[0] + threadIdx.x;
    REAL sum = 0;
    if (on)
        for (int row = threadIdx.y; row < rows; row += 8) sum += sums[(long long)row * tile[1]];
    of[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y || !on) return;
    for (int k = 1; k < 8; k++) sum += of[k][threadIdx.x];
    out[tile[3] + threadIdx.x] = sum;
}

// y[row, column] += b[column]
extern "C" __global__ void add_row(const REAL* b, int rows, int c, REAL* y) {
    int row = blockIdx.x * blockDim.y + threadIdx.y, column = blockIdx.y * blockDim.x + threadIdx.x;
    if (row < rows && column < c) y[(long long)row * c + column] += b[column];
}
