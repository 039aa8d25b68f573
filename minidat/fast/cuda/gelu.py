"""GELU on the GPU."""

from __future__ import annotations

from minidat import ops
from minidat.autograd import array_module
from minidat.fast.cuda.compile import blocks, kernels
from minidat.fast.dispatch import CUDA

THREADS = 256


@CUDA.implements(ops.gelu)
def gelu(x):
    """y = x Φ(x); see `ops.gelu`."""
    xp = array_module(x)
    cuda, grid = kernels("gelu.cu", x), blocks(x.size, THREADS)
    y = xp.empty_like(x)
    cuda.launch("gelu", grid, THREADS, x, x.size, y)

    def vjp(dy):
        dx = xp.empty_like(x)
        cuda.launch("gelu_dx", grid, THREADS, xp.ascontiguousarray(dy), x, x.size, dx)
        return (dx,)

    return y, vjp
