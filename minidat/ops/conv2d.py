"""Convolution, channels last: one product with the patches laid out as rows."""

from __future__ import annotations

from typing import Any

from minidat.autograd.backend import array_module
from minidat.autograd.engine import op
from minidat.ops.coordinates import output_size
from minidat.ops.linear import linear


@op("b h w c, k l c d, d? -> b i j d")
def conv2d(x, w, bias, *, stride: int = 1, padding: int = 0):
    """y[b, i, j] = Σ_(k, l) x[b, i·stride + k − padding, j·stride + l − padding] W[k, l] (+ bias)

    x (B, H, W, C_in), W (k, l, C_in, C_out), bias (C_out) or None; pixels off the map count as zero. The patches are rows
    (i j, k l c), and the convolution is one product with them; the vjp adds up what overlapping patches share. Raises
    ValueError for a kernel that is larger than the padded map.
    """
    k, k2, c, d = w.shape
    check_kernel_fits("conv2d", x, (k, k2), stride, padding)
    xp = array_module(x)
    xpad = padded(x, padding)
    b, rows, cols = len(x), output_size(x.shape[1], k, stride, padding), output_size(x.shape[2], k2, stride, padding)
    taps = [(i, j) for i in range(k) for j in range(k2)]
    patches = xp.stack([shifted(xpad, tap, (rows, cols), stride) for tap in taps], axis=3)  # (b, rows, cols, k·l, c)
    y, linear_vjp = linear.raw(patches.reshape(-1, k * k2 * c), w.reshape(-1, d), bias)

    def vjp(dy):
        dflat, dw, dbias = linear_vjp(dy.reshape(-1, d))
        dpatches = dflat.reshape(patches.shape)
        dx = xp.zeros_like(xpad)
        for n, tap in enumerate(taps):
            shifted(dx, tap, (rows, cols), stride)[...] += dpatches[:, :, :, n]
        return cropped(dx, padding), dw.reshape(w.shape), dbias

    return y.reshape(b, rows, cols, d), vjp


def check_kernel_fits(name: str, x: Any, kernel: tuple[int, int], stride: int, padding: int) -> None:
    """Raises ValueError for an empty kernel or one larger than the padded map, and for a stride or padding that is too small."""
    h, w = x.shape[1:3]
    if min(kernel) < 1:
        raise ValueError(f"{name}: the kernel {kernel} has no taps; axes 'k' and 'l' must be at least 1")
    if stride < 1 or padding < 0:
        raise ValueError(f"{name}: stride {stride} must be at least 1 and padding {padding} at least 0")
    if h + 2 * padding < kernel[0] or w + 2 * padding < kernel[1]:
        raise ValueError(f"{name}: the kernel {kernel} is larger than the map {h}×{w} padded by {padding}")


def padded(x: Any, p: int) -> Any:
    """A map with p rows and columns of zeros on every side."""
    return array_module(x).pad(x, ((0, 0), (p, p), (p, p), (0, 0))) if p else x


def cropped(x: Any, p: int) -> Any:
    """The inverse of `padded`. A view."""
    return x[:, p:-p, p:-p] if p else x


def shifted(xpad: Any, tap: tuple[int, int], size: tuple[int, int], stride: int) -> Any:
    """The pixels of a padded map that tap (k, l) of a kernel meets at its (rows, cols) positions. A view."""
    (k, l), (rows, cols) = tap, size  # noqa: E741
    return xpad[:, k : k + (rows - 1) * stride + 1 : stride, l : l + (cols - 1) * stride + 1 : stride]
