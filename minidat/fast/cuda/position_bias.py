"""The deformable relative position bias on the GPU: one thread per pair of query and key; backward sums without atomics."""

from __future__ import annotations

from minidat import ops
from minidat.autograd import array_module
from minidat.fast.cuda.compile import WARP, blocks, kernels
from minidat.fast.cuda.flat_gradient import sums_for, totals
from minidat.fast.dispatch import CUDA

THREADS = 256
SLICES = 8  # of a block of position_bias_dpoints
WIDEST = 512  # columns of queries: one row of the map must fit the kernel's shared memory, for eight keys at a time


@CUDA.implements(ops.position_bias, constants=(2, 3))
def position_bias(table, points, rows, cols, *, cells: tuple[float, float] = (1.0, 1.0)):
    """bias[m, (i, j), n] = φ(B̂_m; R); see `ops.position_bias`."""
    (m, r, c), (b, groups, n, _), h, w = table.shape, points.shape, rows.shape[0], cols.shape[0]
    if m % groups or w > WIDEST:
        return NotImplemented
    xp, cuda = array_module(table), kernels("position_bias.cu", table)
    down, right = (float(cell) for cell in cells)
    inputs, sizes = (points, rows, cols), (m, r, c, groups, n, h, w, down, right)
    bias = xp.empty((b, m, h * w, n), table.dtype)
    tiles = blocks(h * w * n, THREADS)
    cuda.launch("position_bias", b * m * tiles, THREADS, table, *inputs, bias, tiles, *sizes)

    def reach(queries, axis, lines, cell):
        found = xp.empty((b, groups, n, lines, 2), xp.int32)
        count = found.size // 2
        arguments = points, queries, found, axis, count, queries.shape[0], lines, cell
        cuda.launch("reach", blocks(count, THREADS), THREADS, *arguments)
        return found

    def vjp(dbias):
        dbias, dpoints = xp.ascontiguousarray(dbias), xp.empty_like(points)
        grid, block = (b * groups, blocks(n, WARP)), (WARP, SLICES)
        cuda.launch("position_bias_dpoints", grid, block, table, *inputs, dbias, dpoints, *sizes)
        reaches = reach(rows, 0, r, down), reach(cols, 1, c, right)
        sums = sums_for(b, table)
        grid = b * m, blocks(r * c, THREADS)
        cuda.launch("position_bias_dtable", grid, THREADS, *inputs, dbias, *reaches, sums, *sizes)
        return *totals(sums, table), dpoints, None, None

    return bias, vjp
