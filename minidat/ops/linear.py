"""A linear layer."""

from __future__ import annotations

from minidat.autograd.engine import op
from minidat.ops.sums import column_sum


@op("... c, c d, d? -> ... d")
def linear(x, w, b):
    """y = x W + b, token by token. W is (C_in, C_out); b may be None. A 1×1 convolution, channels last.

    One two-dimensional product: dX = dY Wᵀ, dW = Xᵀ dY, db = Σ dY over tokens.
    """
    c, d = w.shape
    x2 = x.reshape(-1, c)  # (tokens, c)
    y = x2 @ w
    if b is not None:
        y += b

    def vjp(dy):
        dy2 = dy.reshape(-1, d)  # (tokens, d)
        dx = (dy2 @ w.T).reshape(x.shape)
        return dx, x2.T @ dy2, None if b is None else column_sum(dy2)

    return y.reshape(*x.shape[:-1], d), vjp
