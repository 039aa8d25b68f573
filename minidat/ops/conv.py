"""Convolutions, channels last. y[b, i, j] = Σ_(k, l) x[b, i·stride + k − padding, j·stride + l − padding] W[k, l] (+ bias)"""

from __future__ import annotations

from functools import cache

import numpy as np

from minidat.autograd.backend import array_module
from minidat.autograd.engine import op
from minidat.ops.linear import linear
from minidat.ops.normalise import column_sum

BANDED_PIXELS = 64  # up to so many, and no more than there are maps, a matrix of pixels × pixels is the faster way


def output_size(n: int, kernel: int, stride: int, padding: int) -> int:
    """⌊(n + 2·padding − kernel)/stride⌋ + 1"""
    return (n + 2 * padding - kernel) // stride + 1


def _padded(x, p: int):
    return array_module(x).pad(x, ((0, 0), (p, p), (p, p), (0, 0))) if p else x


def _cropped(x, p: int):
    return x[:, p:-p, p:-p] if p else x


def _check_fits(name: str, x, kernel: tuple[int, int], padding: int) -> None:
    h, w = x.shape[1:3]
    if h + 2 * padding < kernel[0] or w + 2 * padding < kernel[1]:
        raise ValueError(f"{name}: the kernel {kernel} is larger than the map {h}×{w} padded by {padding}")


def _shifted(x, i: int, j: int, rows: int, cols: int, stride: int):
    """The (rows, cols) elements of a padded map that kernel tap (i, j) meets. A view."""
    return x[:, i : i + (rows - 1) * stride + 1 : stride, j : j + (cols - 1) * stride + 1 : stride]


@op("b h w c, k l c d, d? -> b i j d")
def conv2d(x, w, bias, *, stride: int = 1, padding: int = 0):
    """y = x ∗ W + bias, W (k, l, C_in, C_out), bias (C_out) or None.

    One product with the patches laid out as rows (i j, k l c). Where patches do not overlap (stride = k, no padding, as
    in patch embedding) laying them out is a reshape, and so is its inverse; otherwise the vjp adds overlapping ones up.
    """
    k, k2, c, d = w.shape
    _check_fits("conv2d", x, (k, k2), padding)
    xp = array_module(x)
    xpad = _padded(x, padding)
    b, h, wd, _ = xpad.shape
    rows, cols = output_size(h, k, stride, 0), output_size(wd, k2, stride, 0)
    tiled = stride == k == k2 and h % k == 0 and wd % k2 == 0
    if tiled:
        patches = xpad.reshape(b, rows, k, cols, k2, c).swapaxes(2, 3)  # (b, rows, cols, k, k2, c)
    else:
        taps = [_shifted(xpad, i, j, rows, cols, stride) for i in range(k) for j in range(k2)]
        patches = xp.stack(taps, axis=3)  # (b, rows, cols, k·k2, c)
    flat = patches.reshape(-1, k * k2 * c)
    y, linear_vjp = linear.raw(flat, w.reshape(-1, d), bias)

    def vjp(dy):
        dflat, dw, dbias = linear_vjp(dy.reshape(-1, d))
        if tiled:
            dx = dflat.reshape(b, rows, cols, k, k2, c).swapaxes(2, 3).reshape(xpad.shape)
        else:
            dtaps = dflat.reshape(b, rows, cols, k, k2, c)
            dx = xp.zeros_like(xpad)
            for i in range(k):
                for j in range(k2):
                    _shifted(dx, i, j, rows, cols, stride)[...] += dtaps[:, :, :, i, j]
        return _cropped(dx, padding), dw.reshape(w.shape), dbias

    return y.reshape(b, rows, cols, d), vjp


@op("b h w c, k l c, c? -> b i j c")
def depthwise_conv(x, w, bias, *, stride: int = 1, padding: int = 0):
    """y[…, c] = Σ_(k, l) x[…, c] shifted by (k, l) · W[k, l, c] (+ bias): every channel by itself. W (k, l, C).

    On the CPU a channel of a small map, many images at once, is one product with a matrix; else the whole map is
    multiplied and added once for each tap.
    """
    _check_fits("depthwise_conv", x, w.shape[:2], padding)
    b, h, wd, _ = x.shape
    banded = array_module(x) is np and h * wd <= min(BANDED_PIXELS, b)
    y, vjp = (_banded if banded else _tapped)(x, w, stride, padding)
    if bias is None:
        return y, lambda dy: (*vjp(dy), None)
    y += bias
    return y, lambda dy: (*vjp(dy), column_sum(dy.reshape(-1, dy.shape[-1])))


def _tapped(x, w, stride: int, padding: int):
    """One multiply-add of the whole map for each tap; the vjp meets the same shifted views."""
    k, k2, c = w.shape
    xp = array_module(x)
    xpad = _padded(x, padding)
    rows, cols = output_size(xpad.shape[1], k, stride, 0), output_size(xpad.shape[2], k2, stride, 0)
    taps = [(i, j) for i in range(k) for j in range(k2)]
    y = xp.zeros((x.shape[0], rows, cols, c), x.dtype)
    for i, j in taps:
        y += _shifted(xpad, i, j, rows, cols, stride) * w[i, j]

    def vjp(dy):
        dx, dw = xp.zeros_like(xpad), xp.empty_like(w)
        for i, j in taps:
            _shifted(dx, i, j, rows, cols, stride)[...] += dy * w[i, j]
            dw[i, j] = xp.einsum("bijc,bijc->c", _shifted(xpad, i, j, rows, cols, stride), dy)
        return _cropped(dx, padding), dw

    return y, vjp


def _banded(x: np.ndarray, w: np.ndarray, stride: int, padding: int):
    """y_c = x_c T_c, a channel's maps as rows of pixels: T_c[p, p′] = W[k, l, c] where tap (k, l) leads from pixel p of the
    map to pixel p′ of y, and 0 where none does: a band matrix."""
    b, h, wd, c = x.shape
    tap, shape = _tap_between((h, wd), w.shape[:2], stride, padding)  # (pixels, pixels of y)
    taps = np.zeros((c, w[..., 0].size + 1), x.dtype)  # the last one is no tap
    taps[:, :-1] = w.reshape(-1, c).T
    t = taps[:, tap.reshape(-1)].reshape(c, *tap.shape)  # (c, pixels, pixels of y)
    xc = _channels_first(x)  # (c, b, pixels)
    y = _channels_last(xc @ t).reshape(b, *shape, c)

    def vjp(dy):
        dyc = _channels_first(dy)
        dx = _channels_last(dyc @ t.swapaxes(1, 2)).reshape(x.shape)
        dt = (xc.swapaxes(1, 2) @ dyc).reshape(c, -1)
        of_tap = (tap.reshape(-1, 1) == np.arange(w[..., 0].size)).astype(x.dtype)
        return dx, (dt @ of_tap).T.reshape(w.shape)

    return y, vjp


def _channels_first(x: np.ndarray) -> np.ndarray:
    """(b, h, w, c) → (c, b, h·w), a copy."""
    b, _, _, c = x.shape
    return np.ascontiguousarray(x.reshape(b, -1, c).transpose(2, 0, 1))


def _channels_last(x: np.ndarray) -> np.ndarray:
    """(c, b, pixels) → (b, pixels, c), a copy."""
    return np.ascontiguousarray(x.transpose(1, 2, 0))


@cache
def _tap_between(size: tuple[int, int], kernel: tuple[int, int], stride: int, padding: int):
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
