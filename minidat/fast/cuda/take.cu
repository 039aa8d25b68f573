// dx[o, j, i] = Σ of dy[o, q, i] over all q with indices[q] = j: one warp per element of dx searches the indices. In dy, `across`
// numbers lie between neighbours q, `along` between neighbours i.
extern "C" __global__ void take_vjp(const REAL* dy, const long long* indices, REAL* dx, int count, int places, int n,
                                    int inner, int across, int along) {
    int t = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    if (t >= count) return;
    int i = t % inner, j = t / inner % n, outer = t / inner / n;
    REAL total = 0;
    for (int q = threadIdx.x % 32; q < places; q += 32)
        if (indices[q] == j) total += dy[(size_t)outer * places * inner + (size_t)q * across + (size_t)i * along];
    for (int o = 16; o; o /= 2) total += __shfl_xor_sync(~0u, total, o);
    if (threadIdx.x % 32 == 0) dx[t] = total;
}
