"""Bilinear sampling on the GPU: forward each thread gathers; backward each block gathers too, so that sums have a fixed order."""

from __future__ import annotations

from minidat import ops
from minidat.autograd import array_module
from minidat.fast.cuda.compile import WARP, blocks, kernels
from minidat.fast.dispatch import CUDA

THREADS = 256


@CUDA.implements(ops.bilinear_sample)
def bilinear_sample(x, points):
    """x̃ = φ(x; p); see `ops.bilinear_sample`."""
    b, h, w, c = x.shape
    groups, n = points.shape[1:3]
    if c % groups:
        return NotImplemented  # the plain op raises the error
    xp, cuda = array_module(x), kernels("bilinear.cu", x)
    y = xp.empty((b, n, c), x.dtype)
    sizes = h, w, c, groups, n
    cuda.launch("bilinear", blocks(y.size, THREADS), THREADS, x, points, y, y.size, *sizes)

    def vjp(dy):
        dy, dx, dpoints = xp.ascontiguousarray(dy), xp.empty_like(x), xp.empty_like(points)
        count, width = b * groups * n, c // groups
        cuda.launch("bilinear_dpoints", blocks(count, THREADS // WARP), THREADS, x, points, dy, dpoints, count, *sizes)
        block = min(blocks(width, WARP) * WARP, THREADS)
        cuda.launch("bilinear_dx", (b * groups * h * w, blocks(width, block)), block, points, dy, dx, *sizes)
        return dx, dpoints

    return y, vjp
