"""Depthwise convolution: for every output pixel a loop over the taps that are on the map, for all channels."""

from __future__ import annotations

import numpy as np

from minidat import ops
from minidat.fast.dispatch import NUMBA
from minidat.fast.numba.loop import loop
from minidat.ops.coordinates import output_size
from minidat.ops.sums import column_sum


@loop
def add_product(x, y, z):
    """z += x y, all (c)."""
    for i in range(len(z)):
        z[i] += x[i] * y[i]


@loop
def convolve(x, w, stride, padding, y):
    """y[b, i, j] += Σ_(k, m) x[b, i·stride + k − padding, j·stride + m − padding] w[k, m]"""
    batch, rows, cols, _ = y.shape
    for b in range(batch):
        for i in range(rows):
            for k in range(w.shape[0]):
                r = i * stride + k - padding
                if not 0 <= r < x.shape[1]:
                    continue
                for j in range(cols):
                    for m in range(w.shape[1]):
                        c = j * stride + m - padding
                        if 0 <= c < x.shape[2]:
                            add_product(x[b, r, c], w[k, m], y[b, i, j])


@loop
def convolve_vjp(dy, x, w, stride, padding, dx, dw):
    """dx[b, r, c] += dy[b, i, j] w[k, m] and dw[k, m] += dy[b, i, j] x[b, r, c] for every pair of pixels that a tap connects."""
    batch, rows, cols, _ = dy.shape
    for b in range(batch):
        for i in range(rows):
            for k in range(w.shape[0]):
                r = i * stride + k - padding
                if not 0 <= r < x.shape[1]:
                    continue
                for j in range(cols):
                    for m in range(w.shape[1]):
                        c = j * stride + m - padding
                        if 0 <= c < x.shape[2]:
                            add_product(dy[b, i, j], w[k, m], dx[b, r, c])
                            add_product(dy[b, i, j], x[b, r, c], dw[k, m])


@NUMBA.implements(ops.depthwise_conv)
def depthwise_conv(x, w, bias, *, stride: int = 1, padding: int = 0):
    """y[…, c] = Σ_(k, l) x[…, c] shifted by (k, l) · W[k, l, c] (+ bias); see `ops.depthwise_conv`."""
    if stride < 1 or padding < 0:
        return NotImplemented  # the plain op raises the error
    rows, cols = (output_size(n, k, stride, padding) for n, k in zip(x.shape[1:3], w.shape, strict=False))
    if rows < 1 or cols < 1:
        return NotImplemented  # the plain op raises the error
    y = np.zeros((len(x), rows, cols, x.shape[3]), x.dtype)
    if bias is not None:
        y += bias
    convolve(x, w, stride, padding, y)

    def vjp(dy):
        dy = np.ascontiguousarray(dy)
        dx, dw = np.zeros_like(x), np.zeros_like(w)
        convolve_vjp(dy, x, w, stride, padding, dx, dw)
        return dx, dw, None if bias is None else column_sum(dy.reshape(-1, dy.shape[-1]))

    return y, vjp
