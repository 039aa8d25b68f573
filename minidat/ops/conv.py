"""Convolutions, channels last. y[b, i, j] = Σ_(k, l) x[b, i·stride + k − padding, j·stride + l − padding] W[k, l] (+ bias)"""

from __future__ import annotations

from minidat.autograd.backend import array_module
from minidat.autograd.engine import op
from minidat.ops.linear import linear


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

    One multiply-add of the whole map for each tap; the vjp meets the same shifted views.
    """
    k, k2, c = w.shape
    _check_fits("depthwise_conv", x, (k, k2), padding)
    xp = array_module(x)
    xpad = _padded(x, padding)
    rows, cols = output_size(xpad.shape[1], k, stride, 0), output_size(xpad.shape[2], k2, stride, 0)
    taps = [(i, j) for i in range(k) for j in range(k2)]
    y = xp.zeros((x.shape[0], rows, cols, c), x.dtype)
    for i, j in taps:
        y += _shifted(xpad, i, j, rows, cols, stride) * w[i, j]
    if bias is not None:
        y += bias

    def vjp(dy):
        dx, dw = xp.zeros_like(xpad), xp.empty_like(w)
        for i, j in taps:
            _shifted(dx, i, j, rows, cols, stride)[...] += dy * w[i, j]
            dw[i, j] = xp.einsum("bijc,bijc->c", _shifted(xpad, i, j, rows, cols, stride), dy)
        return _cropped(dx, padding), dw, None if bias is None else dy.sum((0, 1, 2))

    return y, vjp
