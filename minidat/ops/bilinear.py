"""Bilinear sampling φ(z; p), equation (8): read a map between its pixels.

φ(z; p) = Σ_(r, c) g(p_row, r) g(p_col, c) z[r, c],   g(a, b) = max(0, 1 − |a − b|)

Only the four pixels around p have a weight; what lies outside the map counts as zero.
"""

from __future__ import annotations

from minidat.autograd.backend import array_module
from minidat.autograd.engine import op
from minidat.ops.heads import merge_heads, split_heads


def g(a, n: int):
    """g(a, b) = max(0, 1 − |a − b|) for b = 0 … n−1: one more axis, of n."""
    xp = array_module(a)
    return xp.maximum(0, 1 - xp.abs(a[..., None] - xp.arange(n, dtype=a.dtype)))  # (..., n)


def g_slope(a, n: int):
    """∂g/∂a for b = 0 … n−1: one more axis, of n. g has kinks at a − b ∈ {−1, 0, 1}; there the slope is the one on the
    right, as if a were a little larger."""
    t = a[..., None] - array_module(a).arange(n, dtype=a.dtype)  # (..., n)
    return ((t >= -1) & (t < 0)).astype(a.dtype) - ((t >= 0) & (t < 1))


@op("b h w c, b g n 2 -> b n c")
def bilinear_sample(x, points):
    """x̃ = φ(x; p) = Φ x with Φ[p, (r, c)] = g(p_row, r) g(p_col, c)                                    DAT eq. (8)

    x (B, H, W, C); points (B, G, N, 2), (row, col) in pixels of the map: pixel centres are the integers, (0, 0) the
    first. Channels are cut into G groups, each read at its own N points. Returns (B, N, C). Outside counts as zero.
    Gradient to the map: the same weights, backward. To a point: the slope of the surface there, from the right at kinks.
    Raises ValueError when G does not divide C.
    """
    xp = array_module(x)
    (b, h, w, c), (groups, n) = x.shape, points.shape[1:3]
    check_groups(c, groups)
    rows, cols = points[..., 0], points[..., 1]  # (b, g, n)
    gy, gx = g(rows, h), g(cols, w)  # (b, g, n, h), (b, g, n, w)
    phi = (gy[..., :, None] * gx[..., None, :]).reshape(b, groups, n, h * w)  # Φ
    z = split_heads(x.reshape(b, h * w, c), groups)  # (b, g, h·w, c/g)
    y = phi @ z  # (b, g, n, c/g)

    def vjp(dy):
        dy = split_heads(dy, groups)
        dz = phi.swapaxes(-1, -2) @ dy  # Y = Φ Z
        dphi = (dy @ z.swapaxes(-1, -2)).reshape(b, groups, n, h, w)
        dgy = (dphi * gx[..., None, :]).sum(-1)  # (b, g, n, h)
        dgx = (dphi * gy[..., :, None]).sum(-2)  # (b, g, n, w)
        drow, dcol = (dgy * g_slope(rows, h)).sum(-1), (dgx * g_slope(cols, w)).sum(-1)  # (b, g, n)
        return merge_heads(dz).reshape(x.shape), xp.stack([drow, dcol], -1)

    return merge_heads(y), vjp


def check_groups(c: int, groups: int) -> None:
    """Raises ValueError when groups do not divide the channels."""
    if not groups or c % groups:
        raise ValueError(f"bilinear_sample: axis 'c' is {c} in input 0, which {groups} groups (axis 'g') do not divide")
