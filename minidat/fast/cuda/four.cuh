// Four neighbouring numbers, which one instruction loads or stores where they are float32. Their address must be a multiple of their size.
struct alignas(4 * sizeof(REAL)) Four {
    REAL x, y, z, w;
};
