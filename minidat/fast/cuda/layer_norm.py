"""Layer norm on the GPU: one pass forward and one backward, which computes x̂ again. dγ and dβ need a second stage."""

from __future__ import annotations

from minidat import ops
from minidat.autograd import array_module
from minidat.fast.cuda.columns import Parts
from minidat.fast.cuda.compile import WARP, blocks, kernels
from minidat.fast.cuda.flat_gradient import sums_for, totals
from minidat.fast.dispatch import CUDA

ROWS = 8  # of one block, one warp per row


@CUDA.implements(ops.layer_norm)
def layer_norm(x, gamma, beta, *, eps: float = 1e-5):
    """y = γ x̂ + β over the last axis; see `ops.layer_norm`."""
    xp, c = array_module(x), x.shape[-1]
    rows = x.size // c
    y, mean, inverse_std = xp.empty_like(x), xp.empty(rows, x.dtype), xp.empty(rows, x.dtype)
    cuda = kernels("layer_norm.cu", x)
    by_row = blocks(rows, ROWS), ROWS * WARP
    cuda.launch("layer_norm", *by_row, x, gamma, beta, rows, c, float(eps), y, mean, inverse_std)

    def vjp(dy):
        dx, parts = xp.empty_like(x), Parts(rows, c)
        sums = sums_for(parts.count, gamma, beta)
        arrays = xp.ascontiguousarray(dy), x, gamma, mean, inverse_std
        held = kernels("layer_norm.cu", x, PIECES=blocks(c, WARP))
        held.launch("layer_norm_vjp", parts.count, parts.block, *arrays, rows, c, parts.size, dx, sums)
        return dx, *totals(sums, gamma, beta)

    return y, vjp
