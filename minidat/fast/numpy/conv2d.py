"""Convolution of patches that do not overlap, as in patch embedding: laying them out is a reshape, and so is its inverse,
where `ops.conv2d` copies every tap and adds it back."""

from __future__ import annotations

from minidat import ops
from minidat.fast.dispatch import NUMPY


@NUMPY.implements(ops.conv2d)
def conv2d(x, w, bias, *, stride: int = 1, padding: int = 0):
    """y = x ∗ W + bias where patches tile the map: stride = k = l, no padding; see `ops.conv2d`."""
    (b, h, wd, c), (k, k2, _, d) = x.shape, w.shape
    if padding or not stride == k == k2 or h % k or wd % k or h < k or wd < k:
        return NotImplemented
    rows, cols = h // k, wd // k
    patches = x.reshape(b, rows, k, cols, k, c).swapaxes(2, 3)  # (b, rows, cols, k, k, c)
    y, linear_vjp = ops.linear.raw(patches.reshape(-1, k * k * c), w.reshape(-1, d), bias)

    def vjp(dy):
        dflat, dw, dbias = linear_vjp(dy.reshape(-1, d))
        dx = dflat.reshape(b, rows, cols, k, k, c).swapaxes(2, 3).reshape(x.shape)
        return dx, dw.reshape(w.shape), dbias

    return y.reshape(b, rows, cols, d), vjp
