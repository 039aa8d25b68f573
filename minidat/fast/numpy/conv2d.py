"""Convolution without an array of all patches.

Where patches tile the map, as in patch embedding, laying them out is a reshape, and so is its inverse. Where they overlap
pixel by pixel, `ops.conv2d` writes every pixel k·l times, keeps all of it for the vjp, and adds it back tap by tap. Here a
few rows of the map are laid out at a time and multiplied while they are in the cache, nothing but the map is kept, and the
gradient to the map is a convolution again, with the kernel turned around.
"""

from __future__ import annotations

import numpy as np

from minidat import ops
from minidat.fast.dispatch import NUMPY
from minidat.ops.conv2d import check_kernel_fits, padded
from minidat.ops.sums import column_sum

PATCHES = 131072  # elements of the patches in a block: half a megabyte


@NUMPY.implements(ops.conv2d)
def conv2d(x, w, bias, *, stride: int = 1, padding: int = 0):
    """y = x ∗ W + bias; see `ops.conv2d`."""
    k, l = w.shape[:2]  # noqa: E741
    if not padding and stride == k == l and not x.shape[1] % k and not x.shape[2] % k and min(x.shape[1:3]) >= k:
        return tiled(x, w, bias)
    if stride == 1 and padding < min(k, l):
        return overlapping(x, w, bias, padding)
    return NotImplemented


def tiled(x, w, bias):
    """y = x ∗ W + bias with stride = k = l and no padding."""
    (b, h, wd, c), (k, _, _, d) = x.shape, w.shape
    rows, cols = h // k, wd // k
    patches = x.reshape(b, rows, k, cols, k, c).swapaxes(2, 3)  # (b, rows, cols, k, k, c)
    y, linear_vjp = ops.linear.raw(patches.reshape(-1, k * k * c), w.reshape(-1, d), bias)

    def vjp(dy):
        dflat, dw, dbias = linear_vjp(dy.reshape(-1, d))
        dx = dflat.reshape(b, rows, cols, k, k, c).swapaxes(2, 3).reshape(x.shape)
        return dx, dw.reshape(w.shape), dbias

    return y.reshape(b, rows, cols, d), vjp


def overlapping(x, w, bias, padding: int):
    """y = x ∗ W + bias with stride 1 and padding < k, l."""
    k, l, _, d = w.shape  # noqa: E741
    check_kernel_fits("conv2d", x, (k, l), 1, padding)
    windows = windows_of(padded(x, padding), k, l)
    y = convolve(windows, w)
    if bias is not None:
        y += bias

    def vjp(dy):
        p, q = k - 1 - padding, l - 1 - padding
        around = np.pad(dy, ((0, 0), (p, p), (q, q), (0, 0)))
        dx = convolve(windows_of(around, k, l), w[::-1, ::-1].swapaxes(2, 3))
        return dx, correlate(windows, dy).reshape(w.shape), None if bias is None else column_sum(dy.reshape(-1, d))

    return y, vjp


def windows_of(x, k: int, l: int):  # noqa: E741
    """The k×l pixels at every position of a map: (b, i, j, k, l, c). A view."""
    return np.lib.stride_tricks.sliding_window_view(x, (k, l), axis=(1, 2)).transpose(0, 1, 2, 4, 5, 3)


def convolve(windows, w):
    """y[b, i, j] = Σ_(k, l) windows[b, i, j, k, l] W[k, l]"""
    d = w.shape[3]
    y, flat = np.empty((*windows.shape[:3], d), windows.dtype), w.reshape(-1, d)
    for block, patches in patches_of(windows):
        np.matmul(patches, flat, out=y[block].reshape(-1, d))
    return y


def correlate(windows, dy):
    """dW[k l c, d] = Σ_(b, i, j) windows[b, i, j, k, l, c] dy[b, i, j, d]"""
    d = dy.shape[3]
    dw = np.zeros((np.prod(windows.shape[3:]), d), windows.dtype)
    for block, patches in patches_of(windows):
        dw += patches.T @ dy[block].reshape(-1, d)
    return dw


def patches_of(windows):
    """Blocks of images and rows of the map, each with its patches (positions, k·l·c), laid out in memory that they share."""
    blocks = blocks_of(len(windows), windows.shape[1], windows[0, 0].size)
    memory = np.empty(windows[blocks[0]].size, windows.dtype)
    for block in blocks:
        some = windows[block]
        patches = memory[: some.size].reshape(some.shape)
        np.copyto(patches, some)
        yield block, patches.reshape(-1, windows[0, 0, 0].size)


def blocks_of(images: int, rows: int, row: int) -> list[tuple[slice, slice]]:
    """Whole images, or rows of one, so that a block has about PATCHES elements. row: elements of the patches of a row."""
    together, apart = max(1, PATCHES // (row * rows)), max(1, PATCHES // row)
    if row * rows <= PATCHES:
        return [(slice(i, i + together), slice(None)) for i in range(0, images, together)]
    return [(slice(i, i + 1), slice(r, r + apart)) for i in range(images) for r in range(0, rows, apart)]
