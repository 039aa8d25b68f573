"""Deformable convolution: every tap of the kernel reads the map where its own offset points, by the same φ as equation (8).

Sampled taps are patches like those of `conv2d`, and meet W in one product. The vjp is the parts' own, in reverse:
product → modulation → φ → offsets.
"""

from __future__ import annotations

from typing import Any

from minidat.autograd.backend import array_module
from minidat.autograd.engine import op
from minidat.ops.bilinear import bilinear_sample
from minidat.ops.checks import check_whole
from minidat.ops.coordinates import output_size
from minidat.ops.linear import linear
from minidat.ops.sums import row_dot


def output_shape(
    size: tuple[int, int], kernel: tuple[int, int], *, stride: int = 1, padding: int = 0, dilation: int = 1
) -> tuple[int, int]:
    """(I, J), how often the dilated kernel fits. Raises ValueError when it is larger than the padded map, or for a stride or
    dilation below 1 or a padding below 0."""
    check_whole("deformable_conv", stride=stride, dilation=dilation)
    check_whole("deformable_conv", 0, padding=padding)
    i, j = (output_size(n, (k - 1) * dilation + 1, stride, padding) for n, k in zip(size, kernel, strict=True))
    if i < 1 or j < 1:
        h, w = size
        raise ValueError(
            f"deformable_conv: the kernel {kernel} with dilation {dilation} is larger than the map {h}×{w} padded by {padding}"
        )
    return i, j


def tap_points(offsets: Any, kernel: tuple[int, int], *, stride: int = 1, padding: int = 0, dilation: int = 1) -> Any:
    """p₀ + p_kl + Δp_kl: offsets (B, I, J, G, k·l, 2) → the points that are read, (B, G, N, 2), in pixels of the map.

    N = I·J·k·l runs over output rows, output columns, kernel rows and kernel columns, the last the fastest.
    """
    xp = array_module(offsets)
    (b, rows, cols, groups), (k, k2) = offsets.shape[:4], kernel
    row = xp.arange(rows)[:, None] * stride + xp.arange(k) * dilation - padding  # (i, k)
    col = xp.arange(cols)[:, None] * stride + xp.arange(k2) * dilation - padding  # (j, l)
    shape = (rows, cols, k, k2)
    grid = xp.stack([xp.broadcast_to(row[:, None, :, None], shape), xp.broadcast_to(col[:, None, :], shape)], -1)
    points = offsets + grid.reshape(rows, cols, 1, k * k2, 2).astype(offsets.dtype)
    return points.transpose(0, 3, 1, 2, 4, 5).reshape(b, groups, rows * cols * k * k2, 2)


@op("b h w c, b i j g t 2, b i j g t?, k l c d, d? -> b i j d")
def deformable_conv(x, offsets, modulation, w, bias, *, stride: int = 1, padding: int = 0, dilation: int = 1):
    """y(p₀) = Σ_(k,l) m_kl(p₀) · φ(x; p₀ + p_kl + Δp_kl(p₀)) W[k, l] + bias                 DCN v1 eq. (2), v2 eq. (1)

    p₀ + p_kl = (i·stride − padding + k·dilation, j·stride − padding + l·dilation) for output (i, j) and tap (k, l).
    x (B, H, W, C); offsets Δp (B, I, J, G, k·l, 2), (row, col) in pixels, taps row by row; modulation m (B, I, J, G, k·l)
    or None for ones (v1); W (k, l, C_in, C_out); bias (C_out) or None. Channels are cut into G groups, each with its own
    offsets. Returns (B, I, J, C_out). Outside the map counts as zero; the slope at whole pixels is the one on the right.
    Raises ValueError when G does not divide C, or offsets are not of the kernel's taps or of the output's size.
    """
    k, k2, c, d = w.shape
    b, rows, cols, groups, taps, _ = offsets.shape
    geometry = {"stride": stride, "padding": padding, "dilation": dilation}
    _check(x.shape, offsets.shape, (k, k2), geometry)
    sampled, sample_vjp = bilinear_sample.raw(x, tap_points(offsets, (k, k2), **geometry))  # (b, i·j·t, c)
    read = sampled.reshape(b, rows, cols, taps, groups, c // groups)
    m = None if modulation is None else modulation.swapaxes(-1, -2)[..., None]  # (b, i, j, t, g, 1)
    patches = read if m is None else m * read
    y, linear_vjp = linear.raw(patches.reshape(-1, taps * c), w.reshape(-1, d), bias)

    def vjp(dy):
        dpatches, dw, dbias = linear_vjp(dy.reshape(-1, d))
        dread = dpatches.reshape(read.shape)
        dmodulation = None if m is None else row_dot(dread, read)[..., 0].swapaxes(-1, -2)
        if m is not None:
            dread *= m
        dx, dpoints = sample_vjp(dread.reshape(sampled.shape))
        doffsets = dpoints.reshape(b, groups, rows, cols, taps, 2).transpose(0, 2, 3, 1, 4, 5)
        return dx, doffsets, dmodulation, dw.reshape(w.shape), dbias

    return y.reshape(b, rows, cols, d), vjp


def _check(x: tuple[int, ...], offsets: tuple[int, ...], kernel: tuple[int, int], geometry: dict[str, int]) -> None:
    (_, h, w, c), (_, rows, cols, groups, taps, _), (k, k2) = x, offsets, kernel
    if not groups or c % groups:
        raise ValueError(f"deformable_conv: axis 'c' is {c} in input 0, which {groups} groups (axis 'g') do not divide")
    if taps != k * k2:
        raise ValueError(f"deformable_conv: axis 't' is {taps} in input 1, but the kernel in input 3 has {k}×{k2} taps")
    i, j = output_shape((h, w), kernel, **geometry)
    if (rows, cols) != (i, j):
        how = ", ".join(f"{name} {value}" for name, value in geometry.items())
        raise ValueError(
            f"deformable_conv: axes 'i j' are {rows}×{cols} in input 1, but a {k}×{k2} kernel with {how} meets the map "
            f"{h}×{w} at {i}×{j} places"
        )
