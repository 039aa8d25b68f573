"""Bilinear sampling φ(z; p), equation (8): read a map between its pixels.

φ(z; p) = Σ_(r, c) g(p_row, r) g(p_col, c) z[r, c],   g(a, b) = max(0, 1 − |a − b|)

Only the four pixels around p have a weight; what lies outside the map counts as zero. Two formulations, one value: on
maps of few pixels and many channels the sum as it stands, a product with the (few) hat functions of every row and column;
on others the four corners gathered and, backward, scattered.
"""

from __future__ import annotations

from minidat.autograd.backend import array_module
from minidat.autograd.engine import op

DENSE_PIXELS = 5  # for each channel of a group: up to so many pixels the product over the whole map is the faster one


def g(a, n: int):
    """g(a, b) = max(0, 1 − |a − b|) for b = 0 … n−1: one more axis, of n."""
    xp = array_module(a)
    t = a[..., None] - xp.arange(n, dtype=a.dtype)  # (..., n)
    xp.abs(t, out=t)
    xp.subtract(1, t, out=t)
    return xp.clip(t, 0.0, 1.0, out=t)


def g_slope(a, n: int):
    """∂g/∂a for b = 0 … n−1: one more axis, of n. g has kinks at a − b ∈ {−1, 0, 1}; there the slope is the one on the
    right, as if a were a little larger."""
    t = a[..., None] - array_module(a).arange(n, dtype=a.dtype)  # (..., n)
    return ((t >= -1) & (t < 0)).astype(a.dtype) - ((t >= 0) & (t < 1))


def along_slope(dg, a):
    """Σ_b dg[…, b] ∂g(a, b)/∂a, the last axis kept as one of 1: two hats have a slope at a, that of ⌊a⌋ falls and the next
    one rises. The same as a product with `g_slope`, at its kinks too."""
    xp = array_module(a)
    n = dg.shape[-1]
    b = xp.floor(a)[..., None]  # (..., 1)

    def read(b):
        inside = (b >= 0) & (b < n)
        return xp.take_along_axis(dg, xp.where(inside, b, 0).astype(xp.int64), -1) * inside

    return read(b + 1) - read(b)


@op("b h w c, b g n 2 -> b n c")
def bilinear_sample(x, points):
    """x̃ = φ(x; p)                                                                                      DAT eq. (8)

    x (B, H, W, C); points (B, G, N, 2), (row, col) in pixels of the map: pixel centres are the integers, (0, 0) the
    first. Channels are cut into G groups, each read at its own N points. Returns (B, N, C). Outside counts as zero.
    Gradient to the map: the same weights, backward. To a point: the slope of the surface there, from the right at kinks.
    Raises ValueError when G does not divide C.
    """
    c, groups = x.shape[3], points.shape[1]
    if c % groups:
        raise ValueError(f"bilinear_sample: axis 'c' is {c} in input 0, which {groups} groups (axis 'g') do not divide")
    dense = x.shape[1] * x.shape[2] <= DENSE_PIXELS * (c // groups)
    return (_dense if dense else _corners)(x, points)


def _by_group(x, groups: int):
    """(B, L, C) → (B, G, L, C/G). A view."""
    return x.reshape(*x.shape[:2], groups, -1).swapaxes(1, 2)


def _dense(x, points):
    """x̃ = Φ x with Φ[p, (r, c)] = g(p_row, r) g(p_col, c), a matrix for each image and group."""
    xp = array_module(x)
    b, h, w, c = x.shape
    groups, n = points.shape[1:3]
    gy, gx = g(points[..., 0], h), g(points[..., 1], w)  # (b, g, n, h), (b, g, n, w)
    phi = (gy[..., :, None] * gx[..., None, :]).reshape(b, groups, n, h * w)
    xg = _by_group(x.reshape(b, h * w, c), groups)
    y = xp.empty((b, n, c), x.dtype)
    xp.matmul(phi, xg, out=_by_group(y, groups))

    def vjp(dy):
        dyg = _by_group(dy, groups)
        dx = xp.empty((b, h * w, c), x.dtype)
        xp.matmul(phi.swapaxes(-1, -2), dyg, out=_by_group(dx, groups))
        dphi = (dyg @ xg.swapaxes(-1, -2)).reshape(b, groups, n, h, w)
        drow = along_slope((dphi @ gx[..., None])[..., 0], points[..., 0])  # (b, g, n, 1)
        dcol = along_slope((gy[..., None, :] @ dphi)[..., 0, :], points[..., 1])
        return dx.reshape(x.shape), xp.concatenate([drow, dcol], -1)

    return y, vjp


def _corners(x, points):
    """x̃ = Σ over the four pixels around p: gathered forward, scattered backward."""
    xp = array_module(x)
    b, h, w, c = x.shape
    groups, n = points.shape[1:3]
    xg = xp.ascontiguousarray(_by_group(x.reshape(b, h * w, c), groups)).reshape(-1, c // groups)  # (b·g·h·w, c/g)
    first = xp.floor(points)
    after = points - first  # weight of the second row and column
    plane = (xp.arange(b * groups) * (h * w)).reshape(b, groups, 1)
    corners = []
    for i in (0, 1):
        for j in (0, 1):
            row, col = first[..., 0] + i, first[..., 1] + j
            inside = (row >= 0) & (row < h) & (col >= 0) & (col < w)
            flat = xp.clip(row, 0, h - 1).astype(xp.int64) * w + xp.clip(col, 0, w - 1).astype(xp.int64)
            wrow = after[..., 0] if i else 1 - after[..., 0]
            wcol = after[..., 1] if j else 1 - after[..., 1]
            value = xg[flat + plane] * inside[..., None]  # (b, g, n, c/g)
            corners.append((i, j, inside, flat + plane, wrow, wcol, value))
    y = xp.zeros((b, groups, n, c // groups), x.dtype)
    for *_, wrow, wcol, value in corners:
        y += (wrow * wcol)[..., None] * value

    def vjp(dy):
        dyg = _by_group(dy, groups)  # (b, g, n, c/g)
        dxg = xp.zeros(xg.size, x.dtype)
        dpoints = xp.zeros_like(points)
        channels = xp.arange(c // groups)
        for i, j, inside, flat, wrow, wcol, value in corners:
            weighted = (wrow * wcol * inside)[..., None] * dyg
            xp.add.at(dxg, (flat[..., None] * (c // groups) + channels).reshape(-1), weighted.reshape(-1))
            along = (dyg * value).sum(-1)  # (b, g, n)
            dpoints[..., 0] += along * wcol * (2 * i - 1)
            dpoints[..., 1] += along * wrow * (2 * j - 1)
        dx = dxg.reshape(b, groups, h * w, c // groups).swapaxes(1, 2)
        return dx.reshape(x.shape), dpoints

    return y.swapaxes(1, 2).reshape(b, n, c), vjp
