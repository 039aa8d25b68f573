"""The MLP in blocks of rows.

The hidden layer is the widest array of the network. A few of its rows at a time are multiplied, put through GELU and
multiplied again while they are in the cache; backward, they give their share of both weights' gradients there. Smaller
products are a little slower for BLAS. Chapter 16 measures the gain.
"""

from __future__ import annotations

import numpy as np

from minidat import ops
from minidat.autograd import is_recording
from minidat.fast.dispatch import NUMPY
from minidat.fast.numpy.gelu import value_and_slope
from minidat.ops.sums import column_sum

HIDDEN = 131072  # elements of the hidden layer in a block: half a megabyte
ROWS = 512  # at least: smaller products are slower, and each block adds to all of the gradients of the weights


def blocks_of(n: int, e: int) -> list[slice]:
    """n rows of a hidden layer of e channels, cut into blocks."""
    rows = max(ROWS, HIDDEN // e)
    return [slice(start, min(start + rows, n)) for start in range(0, n, rows)]


@NUMPY.implements(ops.mlp)
def mlp(x, w1, b1, w2, b2):
    """y = GELU(x W₁ + b₁) W₂ + b₂; see `ops.mlp`."""
    if x.dtype != np.float32:
        return NotImplemented
    recording = is_recording()
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
        h += b1
        value_and_slope(h, h, slope[block] if recording else None)
        np.matmul(h, w2, out=y[block])
    y += b2

    def vjp(dy):
        if not recording:
            raise RuntimeError("mlp: it ran under no_grad() and kept nothing for a gradient")
        dy2 = dy.reshape(-1, d)
        dx = np.empty_like(x2)
        dw1, db1, dw2 = (np.zeros_like(p) for p in (w1, b1, w2))
        for block in blocks:
            dh = dy2[block] @ w2.T
            dh *= slope[block]
            np.matmul(dh, w1.T, out=dx[block])
            dw1 += x2[block].T @ dh
            dw2 += a[block].T @ dy2[block]
            db1 += column_sum(dh)
        return dx.reshape(x.shape), dw1, db1, dw2, column_sum(dy2)

    return y.reshape(*x.shape[:-1], d), vjp
