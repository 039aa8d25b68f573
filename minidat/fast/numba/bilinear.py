"""Bilinear sampling: forward reads the four pixels around a point, backward adds to them, for all channels of a group."""

from __future__ import annotations

import numpy as np

from minidat import ops
from minidat.fast.dispatch import NUMBA
from minidat.fast.numba.cells import cell
from minidat.fast.numba.loop import loop


@loop
def add_scaled(weight, x, y):
    """y += weight · x, both (c)."""
    for i in range(len(y)):
        y[i] += weight * x[i]


@loop
def dot(x, y):
    """Σ x y, both (c)."""
    total = x.dtype.type(0)
    for i in range(len(x)):
        total += x[i] * y[i]
    return total


@loop
def sample(x, points, y):
    """y = Σ g(p_row, r) g(p_col, c) x[r, c] over the pixels around p: x (b, h, w, g, c), points (b, g, n, 2), y (b, n, g, c)."""
    batch, h, w, groups, _ = x.shape
    for b in range(batch):
        for n in range(points.shape[2]):
            for g in range(groups):
                row, down = cell(points[b, g, n, 0], h)
                col, right = cell(points[b, g, n, 1], w)
                y[b, n, g] = 0 * (down[0] + right[0])  # NaN for a NaN
                for i in range(2):
                    for j in range(2):
                        if 0 <= row + i < h and 0 <= col + j < w:
                            add_scaled(x.dtype.type(down[i] * right[j]), x[b, row + i, col + j, g], y[b, n, g])


@loop
def sample_vjp(dy, x, points, dx, dpoints):
    """dx += the weights · dy, pixel by pixel; dpoints = Σ dy · the slope of the surface, which is the difference of two
    pixels along one axis, read between those along the other."""
    batch, h, w, groups, _ = x.shape
    for b in range(batch):
        for n in range(points.shape[2]):
            for g in range(groups):
                row, down = cell(points[b, g, n, 0], h)
                col, right = cell(points[b, g, n, 1], w)
                drow = dcol = 0.0
                for i in range(2):
                    for j in range(2):
                        if 0 <= row + i < h and 0 <= col + j < w:
                            pixel = b, row + i, col + j, g
                            add_scaled(x.dtype.type(down[i] * right[j]), dy[b, n, g], dx[pixel])
                            along = dot(dy[b, n, g], x[pixel])
                            drow += along * right[j] * (2 * i - 1)
                            dcol += along * down[i] * (2 * j - 1)
                dpoints[b, g, n, 0], dpoints[b, g, n, 1] = drow, dcol


@NUMBA.implements(ops.bilinear_sample)
def bilinear_sample(x, points):
    """x̃ = φ(x; p); see `ops.bilinear_sample`."""
    c, (b, groups, n, _) = x.shape[3], points.shape
    if c % groups:
        return NotImplemented  # the plain op raises the error
    by_group = x.reshape(*x.shape[:3], groups, c // groups)
    y = np.empty((b, n, groups, c // groups), x.dtype)
    sample(by_group, points, y)

    def vjp(dy):
        dx, dpoints = np.zeros_like(by_group), np.empty_like(points)
        sample_vjp(np.ascontiguousarray(dy).reshape(y.shape), by_group, points, dx, dpoints)
        return dx.reshape(x.shape), dpoints

    return y.reshape(b, n, c), vjp
