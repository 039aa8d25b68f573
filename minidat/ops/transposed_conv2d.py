"""Transposed convolution whose stride is its kernel: every pixel becomes k×k pixels of its own."""

from __future__ import annotations

from minidat.autograd.engine import op
from minidat.ops.linear import linear
from minidat.ops.sums import column_sum


@op("b h w c, k k c d, d? -> b i j d")
def transposed_conv2d(x, w, bias):
    """y[b, k·i + u, k·j + v] = x[b, i, j] W[u, v] (+ bias)

    x (B, H, W, C_in), W (k, k, C_in, C_out), bias (C_out) or None → (B, k·H, k·W, C_out). Patches do not overlap, so this is one
    product and a reshape: the vjp, to the map, of a convolution with stride k and the same weights.
    """
    (b, h, wd, c), (k, _, _, d) = x.shape, w.shape
    flat = w.transpose(2, 0, 1, 3).reshape(c, k * k * d)  # (c, k·k·d)
    y, linear_vjp = linear.raw(x, flat, None)
    y = y.reshape(b, h, wd, k, k, d).swapaxes(2, 3).reshape(b, k * h, k * wd, d)
    if bias is not None:
        y = y + bias

    def vjp(dy):
        patches = dy.reshape(b, h, k, wd, k, d).swapaxes(2, 3).reshape(b, h, wd, k * k * d)
        dx, dflat, _ = linear_vjp(patches)
        dw = dflat.reshape(c, k, k, d).transpose(1, 2, 0, 3)
        return dx, dw, None if bias is None else column_sum(dy.reshape(-1, d))

    return y, vjp
