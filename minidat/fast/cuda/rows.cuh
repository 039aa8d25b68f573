// `lanes` neighbouring threads, a power of two up to 32, share a row: its maximum and its sum, in all of them.

__device__ REAL row_max(REAL v, int lanes) {
    for (int o = lanes / 2; o; o /= 2) v = fmax(v, __shfl_xor_sync(~0u, v, o));
    return v;
}

__device__ REAL row_sum(REAL v, int lanes) {
    for (int o = lanes / 2; o; o /= 2) v += __shfl_xor_sync(~0u, v, o);
    return v;
}
