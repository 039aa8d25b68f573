"""Depthwise convolution of many small maps as products with band matrices.

y_c = x_c T_c with a channel's maps as rows of pixels, (images, pixels): T_c[p, p′] = W[k, l, c] where tap (k, l) leads from
pixel p of the map to pixel p′ of y, and 0 where none does. One product for each channel takes the place of k·l passes over
the whole map. The matrices take (pixels)² numbers a channel, so this pays for small maps and many images only. Chapter 16
measures the gain.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from minidat import ops
from minidat.fast.dispatch import NUMPY
from minidat.ops.coordinates import output_size
from minidat.ops.sums import column_sum

PIXELS = 64  # used for maps of at most so many pixels, if the batch has at least as many images as a map has pixels


@NUMPY.implements(ops.depthwise_conv)
def depthwise_conv(x, w, bias, *, stride: int = 1, padding: int = 0):
    """y[…, c] = Σ_(k, l) x[…, c] shifted by (k, l) · W[k, l, c] (+ bias); see `ops.depthwise_conv`."""
    b, h, wd, c = x.shape
    if h * wd > min(PIXELS, b) or stride < 1 or padding < 0:
        return NotImplemented
    if h + 2 * padding < w.shape[0] or wd + 2 * padding < w.shape[1]:
        return NotImplemented  # the plain op raises the error
    tap, shape = taps_between((h, wd), w.shape[:2], stride, padding)  # (pixels, pixels of y)
    taps = np.zeros((c, w[..., 0].size + 1), x.dtype)  # the last one stands for no tap
    taps[:, :-1] = w.reshape(-1, c).T
    t = taps[:, tap.reshape(-1)].reshape(c, *tap.shape)  # (c, pixels, pixels of y)
    xc = channels_first(x)  # (c, b, pixels)
    y = channels_last(xc @ t).reshape(b, *shape, c)
    if bias is not None:
        y += bias

    def vjp(dy):
        dyc = channels_first(dy)
        dx = channels_last(dyc @ t.swapaxes(1, 2)).reshape(x.shape)
        dt = (xc.swapaxes(1, 2) @ dyc).reshape(c, -1)
        of_tap = (tap.reshape(-1, 1) == np.arange(w[..., 0].size)).astype(x.dtype)
        return dx, (dt @ of_tap).T.reshape(w.shape), None if bias is None else column_sum(dy.reshape(-1, c))

    return y, vjp


def channels_first(x: np.ndarray) -> np.ndarray:
    """(b, h, w, c) → (c, b, h·w), a copy."""
    b, _, _, c = x.shape
    return np.ascontiguousarray(x.reshape(b, -1, c).transpose(2, 0, 1))


def channels_last(x: np.ndarray) -> np.ndarray:
    """(c, b, pixels) → (b, pixels, c), a copy."""
    return np.ascontiguousarray(x.transpose(1, 2, 0))


@cache
def taps_between(size: tuple[int, int], kernel: tuple[int, int], stride: int, padding: int):
    """(pixels, pixels of y) → the number of the tap that leads from one to the other, k·l where none does; and y's (rows,
    cols)."""
    rows, cols = (output_size(n, k, stride, padding) for n, k in zip(size, kernel, strict=True))

    def along(n: int, k: int, n_out: int):
        tap = np.arange(n)[:, None] + padding - stride * np.arange(n_out)  # (n, n_out)
        return tap, (tap >= 0) & (tap < k)

    (i, i_fits), (j, j_fits) = along(size[0], kernel[0], rows), along(size[1], kernel[1], cols)
    fits = i_fits[:, None, :, None] & j_fits[:, None, :]
    tap = np.where(fits, i[:, None, :, None] * kernel[1] + j[:, None, :], kernel[0] * kernel[1])
    return tap.reshape(size[0] * size[1], rows * cols), (rows, cols)
