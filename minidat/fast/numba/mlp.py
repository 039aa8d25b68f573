"""The MLP in blocks of rows, as `fast/numpy/mlp.py`, with one compiled loop between its products, forward and backward."""

from __future__ import annotations

import numpy as np

from minidat import ops
from minidat.autograd import is_recording
from minidat.fast.dispatch import NUMBA
from minidat.fast.numba.gelu import bias_gelu, gelu_vjp, table
from minidat.fast.numpy.mlp import blocks_of
from minidat.ops.sums import column_sum


@NUMBA.implements(ops.mlp)
def mlp(x, w1, b1, w2, b2):
    """y = GELU(x W₁ + b₁) W₂ + b₂; see `ops.mlp`."""
    if x.dtype != np.float32:
        return NotImplemented
    recording, cubics = is_recording(), table()
    (c, e), d = w1.shape, w2.shape[1]
    x2 = x.reshape(-1, c)  # (tokens, c)
    n = len(x2)
    blocks = blocks_of(n, e)
    y = np.empty((n, d), x.dtype)
    a = np.empty((n if recording else blocks[0].stop, e), x.dtype)  # without a tape one block's memory serves all
    slope = np.empty((n if recording else 0, e), x.dtype)
    for block in blocks:
        h = a[block] if recording else a[: block.stop - block.start]
        np.matmul(x2[block], w1, out=h)
        bias_gelu(h, b1, slope[block], cubics)
        np.matmul(h, w2, out=y[block])
    y += b2

    def vjp(dy):
        dy2 = dy.reshape(-1, d)
        dx = np.empty_like(x2)
        dw1, db1, dw2 = (np.zeros_like(p) for p in (w1, b1, w2))
        for block in blocks:
            dh = dy2[block] @ w2.T
            gelu_vjp(dh, slope[block], db1)
            np.matmul(dh, w1.T, out=dx[block])
            dw1 += x2[block].T @ dh
            dw2 += a[block].T @ dy2[block]
        return dx.reshape(x.shape), dw1, db1, dw2, column_sum(dy2)

    return y.reshape(*x.shape[:-1], d), vjp
