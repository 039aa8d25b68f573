"""The MLP in blocks of rows, as `fast/numpy/mlp.py`, with one compiled loop between its products, forward and backward.

For the gradient it keeps the hidden layer before GELU alone. GELU and its slope are computed once more backward, while the
block is in the cache: that takes no longer than to write both forward and read them again, and half the memory.
"""

from __future__ import annotations

import numpy as np

from minidat import ops
from minidat.autograd import is_recording
from minidat.fast.dispatch import NUMBA
from minidat.fast.numba.gelu import bias_gelu, bias_gelu_vjp, coefficients
from minidat.fast.numpy.mlp import blocks_of
from minidat.ops.sums import column_sum


@NUMBA.implements(ops.mlp)
def mlp(x, w1, b1, w2, b2):
    """y = GELU(x W₁ + b₁) W₂ + b₂; see `ops.mlp`."""
    if x.dtype != np.float32:
        return NotImplemented
    recording, polynomial = is_recording(), coefficients()
    (c, e), d = w1.shape, w2.shape[1]
    x2 = x.reshape(-1, c)  # (tokens, c)
    n = len(x2)
    blocks = blocks_of(n, e)
    y, a = np.empty((n, d), x.dtype), np.empty((blocks[0].stop, e), x.dtype)
    hidden = np.empty((n if recording else blocks[0].stop, e), x.dtype)  # without a tape one block's memory serves all
    for block in blocks:
        rows = block.stop - block.start
        h = hidden[block] if recording else hidden[:rows]
        np.matmul(x2[block], w1, out=h)
        bias_gelu(h, b1, polynomial, a[:rows])
        np.matmul(a[:rows], w2, out=y[block])
    y += b2

    def vjp(dy):
        if not recording:
            raise RuntimeError("mlp: it ran under no_grad() and kept nothing for a gradient")
        dy2 = dy.reshape(-1, d)
        dx, a = np.empty_like(x2), np.empty((blocks[0].stop, e), x.dtype)
        dw1, db1, dw2 = np.empty_like(w1), np.zeros_like(b1), np.empty_like(w2)
        for block in blocks:
            own = a[: block.stop - block.start]
            dh = dy2[block] @ w2.T
            bias_gelu_vjp(hidden[block], b1, polynomial, dh, db1, own)
            np.matmul(dh, w1.T, out=dx[block])
            _add_product(x2[block].T, dh, dw1, first=block is blocks[0])
            _add_product(own.T, dy2[block], dw2, first=block is blocks[0])
        return dx.reshape(x.shape), dw1, db1, dw2, column_sum(dy2)

    return y.reshape(*x.shape[:-1], d), vjp


def _add_product(a: np.ndarray, b: np.ndarray, total: np.ndarray, *, first: bool) -> None:
    """total ← a b for the first of several, total + a b for others."""
    if first:
        np.matmul(a, b, out=total)
    else:
        total += a @ b
