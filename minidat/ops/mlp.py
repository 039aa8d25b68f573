"""The MLP of a block as one op: two products with GELU between them, block by block of rows.

The hidden layer is the widest array of the network. A few of its rows at a time are multiplied, bent and multiplied again
while they lie in the cache; backward, they give their share of both weights' gradients there.
"""

from __future__ import annotations

import numpy as np

from minidat.autograd.backend import array_module
from minidat.autograd.engine import is_recording, op
from minidat.ops.gelu import value_and_slope
from minidat.ops.normalise import column_sum

HIDDEN = 131072  # elements of the hidden layer in a block: half a megabyte
ROWS = 128  # at least, for the products' sake


@op("... c, c e, e, e d, d -> ... d")
def mlp(x, w1, b1, w2, b2):
    """y = GELU(x W₁ + b₁) W₂ + b₂, token by token: the MLP of                                           DAT eq. (5)

    W₁ (C, E), W₂ (E, D). With h = x W₁ + b₁ and a = GELU(h): dW₂ = aᵀ dy, dh = (dy W₂ᵀ) GELU′(h), dW₁ = xᵀ dh,
    dx = dh W₁ᵀ; the gradient of a bias is the sum over tokens.
    """
    xp = array_module(x)
    recording = is_recording()
    (c, e), d = w1.shape, w2.shape[1]
    x2 = x.reshape(-1, c)  # (tokens, c)
    n = len(x2)
    rows = max(ROWS, HIDDEN // e) if xp is np else max(n, 1)
    blocks = [slice(start, min(start + rows, n)) for start in range(0, n, rows)]
    y = xp.empty((n, d), x.dtype)
    a = xp.empty((n if recording else min(rows, n), e), x.dtype)  # without a tape one block's memory serves all
    slope = xp.empty((n if recording else 0, e), x.dtype)
    for block in blocks:
        h = a[block] if recording else a[: block.stop - block.start]
        xp.matmul(x2[block], w1, out=h)
        h += b1
        value_and_slope(h, h, slope[block] if recording else None)
        xp.matmul(h, w2, out=y[block])
    y += b2

    def vjp(dy):
        dy2 = dy.reshape(-1, d)
        dx = xp.empty_like(x2)
        dw1, db1, dw2 = (xp.zeros_like(p) for p in (w1, b1, w2))
        for block in blocks:
            dh = dy2[block] @ w2.T
            dh *= slope[block]
            xp.matmul(dh, w1.T, out=dx[block])
            dw1 += x2[block].T @ dh
            dw2 += a[block].T @ dy2[block]
            db1 += column_sum(dh)
        return dx.reshape(x.shape), dw1, db1, dw2, column_sum(dy2)

    return y.reshape(*x.shape[:-1], d), vjp
