"""Bilinear sampling by corners on large maps, and by the matrix Φ with cheap slopes on small ones.

`ops.bilinear_sample` multiplies with every pixel of the map, of which four around each point have a weight. That product
is the fastest way while a map has few pixels for its channels. On larger maps the four corners are gathered forward and
scattered backward, by `add.at`, which is slow for each number that it adds. Chapter 16 measures the gain of the cheap slopes.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from minidat import ops
from minidat.fast.dispatch import NUMPY
from minidat.ops.heads import split_heads

Array = Any
DENSE_PIXELS = 5  # for each channel of a group: up to so many pixels the product over the whole map is the faster one


@NUMPY.implements(ops.bilinear_sample)
def bilinear_sample(x, points):
    """x̃ = φ(x; p); see `ops.bilinear_sample`."""
    c, groups = x.shape[3], points.shape[1]
    if c % groups:
        return NotImplemented  # the plain op raises the error
    dense = x.shape[1] * x.shape[2] <= DENSE_PIXELS * (c // groups)
    return (by_product if dense else by_corners)(x, points)


def hats(a: Array, n: int) -> Array:
    """g(a, b) for b = 0 … n−1, in one array: one more axis, of n."""
    t = a[..., None] - np.arange(n, dtype=a.dtype)  # (..., n)
    np.abs(t, out=t)
    np.subtract(1, t, out=t)
    return np.clip(t, 0.0, 1.0, out=t)


def along_slope(dg: Array, a: Array) -> Array:
    """Σ_b dg[…, b] ∂g(a, b)/∂a, the last axis kept with size 1. Only two hats have a slope at a: that of ⌊a⌋ falls, the
    next one rises. So two reads take the place of a product with `ops.bilinear.g_slope`, at the kinks too."""
    n = dg.shape[-1]
    b = np.floor(a)[..., None]  # (..., 1)

    def read(b):
        inside = (b >= 0) & (b < n)
        return np.take_along_axis(dg, np.where(inside, b, 0).astype(np.int64), -1) * inside

    return read(b + 1) - read(b)


def by_product(x: Array, points: Array):
    """x̃ = Φ x with Φ[p, (r, c)] = g(p_row, r) g(p_col, c), a matrix for each image and group."""
    b, h, w, c = x.shape
    groups, n = points.shape[1:3]
    gy, gx = hats(points[..., 0], h), hats(points[..., 1], w)  # (b, g, n, h), (b, g, n, w)
    phi = (gy[..., :, None] * gx[..., None, :]).reshape(b, groups, n, h * w)
    xg = split_heads(x.reshape(b, h * w, c), groups)
    y = np.empty((b, n, c), x.dtype)
    np.matmul(phi, xg, out=split_heads(y, groups))

    def vjp(dy):
        dyg = split_heads(dy, groups)
        dx = np.empty((b, h * w, c), x.dtype)
        np.matmul(phi.swapaxes(-1, -2), dyg, out=split_heads(dx, groups))
        dphi = (dyg @ xg.swapaxes(-1, -2)).reshape(b, groups, n, h, w)
        drow = along_slope((dphi @ gx[..., None])[..., 0], points[..., 0])  # (b, g, n, 1)
        dcol = along_slope((gy[..., None, :] @ dphi)[..., 0, :], points[..., 1])
        return dx.reshape(x.shape), np.concatenate([drow, dcol], -1)

    return y, vjp


def by_corners(x: Array, points: Array):
    """x̃ = Σ over the four pixels around p: gathered forward, scattered backward."""
    b, h, w, c = x.shape
    groups, n = points.shape[1:3]
    xg = np.ascontiguousarray(split_heads(x.reshape(b, h * w, c), groups)).reshape(-1, c // groups)  # (b·g·h·w, c/g)
    first = np.floor(points)
    after = np.zeros_like(points)  # weight of the second row and column; NaN for a NaN, 0 for infinity
    np.subtract(points, first, out=after, where=~np.isinf(points))
    plane = (np.arange(b * groups) * (h * w)).reshape(b, groups, 1)
    corners = []
    for i in (0, 1):
        for j in (0, 1):
            row, col = first[..., 0] + i, first[..., 1] + j
            inside = (row >= 0) & (row < h) & (col >= 0) & (col < w)
            flat = np.where(inside, row, 0).astype(np.int64) * w + np.where(inside, col, 0).astype(np.int64)
            wrow = after[..., 0] if i else 1 - after[..., 0]
            wcol = after[..., 1] if j else 1 - after[..., 1]
            value = xg[flat + plane] * inside[..., None]  # (b, g, n, c/g)
            corners.append((i, j, inside, flat + plane, wrow, wcol, value))
    y = np.zeros((b, groups, n, c // groups), x.dtype)
    for *_, wrow, wcol, value in corners:
        y += (wrow * wcol)[..., None] * value

    def vjp(dy):
        dyg = split_heads(dy, groups)  # (b, g, n, c/g)
        dxg = np.zeros(xg.size, x.dtype)
        dpoints = np.zeros_like(points)
        channels = np.arange(c // groups)
        for i, j, inside, flat, wrow, wcol, value in corners:
            weighted = (wrow * wcol * inside)[..., None] * dyg
            np.add.at(dxg, (flat[..., None] * (c // groups) + channels).reshape(-1), weighted.reshape(-1))
            along = (dyg * value).sum(-1)  # (b, g, n)
            dpoints[..., 0] += along * wcol * (2 * i - 1)
            dpoints[..., 1] += along * wrow * (2 * j - 1)
        dx = dxg.reshape(b, groups, h * w, c // groups).swapaxes(1, 2)
        return dx.reshape(x.shape), dpoints

    return y.swapaxes(1, 2).reshape(b, n, c), vjp
