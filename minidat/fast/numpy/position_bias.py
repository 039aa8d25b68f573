"""The position bias in two other arrangements.

On small maps as products of matrices: the sums of `ops.position_bias` arranged so that BLAS computes them, at the cost of a few
transposed copies. A product multiplies by all the zeros of the hats, too: on a map of 56×56 that is most of it.

On large maps as windows of the table. Queries one pixel apart read the table one cell apart, so all reads of a key have the same
two fractions, and its bias is a window of the table, blended with the windows one row and one column further.
"""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from minidat import ops
from minidat.fast.dispatch import NUMPY
from minidat.fast.numpy.bilinear import along_slope, hats

LARGE = 400  # pixels of a map from which on windows are faster
KEYS = 64  # of a block: its windows stay in the cache, and its part of each row of the bias is 256 bytes


@NUMPY.implements(ops.position_bias, constants=(2, 3))
def position_bias(table, points, rows, cols, *, cells: tuple[float, float] = (1.0, 1.0)):
    """bias[m, (i, j), n] = φ(B̂_m; R); see `ops.position_bias`."""
    if table.shape[0] % points.shape[1]:
        return NotImplemented  # the plain op raises the error
    if len(rows) * len(cols) >= LARGE and cells == (1.0, 1.0) and _one_apart(rows) and _one_apart(cols):
        return by_windows(table, points, rows, cols)
    return by_products(table, points, rows, cols, cells)


def _one_apart(places: np.ndarray) -> bool:
    return bool((np.diff(places) == 1).all())


def by_products(table, points, rows, cols, cells):
    """The bias and its vjp by products with the hats."""
    m, r, c = table.shape
    b, groups, n, _ = points.shape
    h, w = rows.shape[0], cols.shape[0]
    down = (rows - points[..., 0:1]) * cells[0] + (r - 1) / 2  # (b, g, n, h): R, as rows and columns of the table
    right = (cols - points[..., 1:2]) * cells[1] + (c - 1) / 2  # (b, g, n, w)
    gy, gx = hats(down, r), hats(right, c)  # (b, g, n, h, r), (b, g, n, w, c)
    gy2 = gy.reshape(b, groups, n * h, r)
    by_row = table.reshape(groups, m // groups, r, c).swapaxes(1, 2).reshape(groups, r, -1)  # (g, r, m/g·c)
    read = (gy2 @ by_row).reshape(b, groups, n, -1, c)  # (b, g, n, h·m/g, c): rows read, columns still whole
    bias = read @ gx.swapaxes(-1, -2)  # (b, g, n, h·m/g, w)
    bias = bias.reshape(b, groups, n, h, m // groups, w).transpose(0, 1, 4, 3, 5, 2)

    def vjp(dbias):
        d = dbias.reshape(b, groups, m // groups, h, w, n).transpose(0, 1, 5, 3, 2, 4).reshape(b, groups, n, -1, w)
        dread = (d @ gx).reshape(b, groups, n * h, -1)
        dgx = d.swapaxes(-1, -2) @ read  # (b, g, n, w, c)
        dgy = (dread @ by_row.swapaxes(-1, -2)).reshape(gy.shape)
        dtable = (gy2.swapaxes(-1, -2) @ dread).sum(0)  # (g, r, m/g·c)
        dtable = dtable.reshape(groups, r, m // groups, c).swapaxes(1, 2).reshape(m, r, c)
        drow, dcol = along_slope(dgy, down).sum(-2), along_slope(dgx, right).sum(-2)  # (b, g, n, 1)
        dpoints = np.concatenate([drow * -cells[0], dcol * -cells[1]], -1)  # R = cells·(query − key) + centre
        return dtable, dpoints, None, None

    return bias.reshape(b, m, h * w, n), vjp


def by_windows(table, points, rows, cols):
    """The bias and its vjp by windows of the table, for queries one pixel and one cell apart."""
    m, r, c = table.shape
    b, groups, n, _ = points.shape
    h, w = len(rows), len(cols)
    framed = np.pad(table, ((0, 0), (h + 1, h + 1), (w + 1, w + 1)))  # far windows hold zeros alone
    windows = sliding_window_view(framed, (h + 1, w + 1), (1, 2))  # (m, …, …, h+1, w+1): views
    top, below = _start(rows[0] - points[..., 0] + (r - 1) / 2, r, h)  # (b, g, n) each
    left, beyond = _start(cols[0] - points[..., 1] + (c - 1) / 2, c, w)
    bias = np.empty((b, m, h, w, n), table.dtype)
    blocks = [
        (i, slice(g * (m // groups), (g + 1) * (m // groups)), (i, g, slice(k, k + KEYS)))
        for i in range(b)
        for g in range(groups)
        for k in range(0, n, KEYS)
    ]

    def read(heads, keys):  # → the windows (m/g, k, h+1, w+1), and their rows blended (m/g, k, h, w+1)
        found = windows[heads][:, top[keys], left[keys]]
        return found, _blend(found[..., :-1, :], found[..., 1:, :], below[keys][:, None, None])

    for i, heads, keys in blocks:
        _, lines = read(heads, keys)
        y = _blend(lines[..., :-1], lines[..., 1:], beyond[keys][:, None, None])
        bias[i, heads, :, :, keys[-1]] = y.transpose(0, 2, 3, 1)

    def vjp(dbias):
        dbias = dbias.reshape(bias.shape)
        dframed, dpoints = np.zeros_like(framed), np.zeros_like(points)
        for i, heads, keys in blocks:
            found, lines = read(heads, keys)
            d = dbias[i, heads, :, :, keys[-1]].transpose(0, 3, 1, 2)  # (m/g, k, h, w)
            f, g = below[keys][:, None, None], beyond[keys][:, None, None]
            dlines = np.zeros_like(lines)
            dlines[..., :-1] += d * (1 - g)
            dlines[..., 1:] += d * g
            down = (dlines * (found[..., 1:, :] - found[..., :-1, :])).sum((0, 2, 3))  # along rows of the table
            right = (d * (lines[..., 1:] - lines[..., :-1])).sum((0, 2, 3))
            dpoints[keys] = np.stack([-down, -right], -1)  # R = query − key + centre
            dfound = np.zeros_like(found)
            dfound[..., :-1, :] += dlines * (1 - f)
            dfound[..., 1:, :] += dlines * f
            for k, (y, x) in enumerate(zip(top[keys], left[keys], strict=True)):
                dframed[heads, y : y + h + 1, x : x + w + 1] += dfound[:, k]
        return dframed[:, h + 1 : h + 1 + r, w + 1 : w + 1 + c], dpoints, None, None

    return bias.reshape(b, m, h * w, n), vjp


def _start(position, size: int, length: int):
    """Where windows of length + 1 cells begin in an axis of `size` cells with a frame of length + 1 zeros, for reads that begin
    at `position`, and the share of the next cell."""
    with np.errstate(invalid="ignore"):
        whole = np.floor(np.clip(np.nan_to_num(position), -length - 1, size))
        share = np.where(np.abs(position) == np.inf, 0, position - whole)  # of a far position any share of zeros
    return whole.astype(np.intp) + length + 1, np.where((share > 1) | (share < 0), 0, share).astype(position.dtype)


def _blend(first, second, share):
    """(1 − share) first + share second"""
    y = second - first
    y *= share
    y += first
    return y
