"""The deformable relative position bias: every pair of query and key reads four cells of the table, and backward adds to
them. The table is zero-padded, so reads out of range need no bounds check."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from minidat import ops
from minidat.fast.dispatch import NUMBA
from minidat.fast.numba.cells import cell
from minidat.fast.numba.loop import loop

FRAME = (1, 2)  # cells of padding before and after the table; positions out of range read the last two


class Cells(NamedTuple):
    """Where positions (b, g, queries, n) along an axis are in the padded table: the `first` cell's index times the axis's
    stride, its weight, and the next cell's weight."""

    first: np.ndarray
    before: np.ndarray
    after: np.ndarray


@loop
def locate(positions, n, step, first, before, after):
    """`cell` for every one of them, all arrays flat."""
    for i in range(len(positions)):
        b, (before[i], after[i]) = cell(positions[i], n)
        first[i] = (b + 1) * step


@loop
def read(table, width, down, right, bias):
    """bias (b, m, h, w, n) from the padded table (m, cells), `width` cells a row; down, right: `Cells` of (b, g, h, n) and
    (b, g, w, n)."""
    batch, heads, h, w, n = bias.shape
    for b in range(batch):
        for m in range(heads):
            g = m * down.first.shape[1] // heads
            here, beside, below, across = table[m], table[m, 1:], table[m, width:], table[m, width + 1 :]
            for i in range(h):
                row, up, low = down.first[b, g, i], down.before[b, g, i], down.after[b, g, i]
                for j in range(w):
                    col, left, far = right.first[b, g, j], right.before[b, g, j], right.after[b, g, j]
                    y = bias[b, m, i, j]
                    for k in range(n):
                        t = row[k] + col[k]
                        y[k] = up[k] * (left[k] * here[t] + far[k] * beside[t]) + low[k] * (
                            left[k] * below[t] + far[k] * across[t]
                        )


@loop
def read_vjp(dbias, table, width, down, right, dtable, drow, dcol):
    """dtable (m, cells) += the four weights · dbias; drow, dcol (b, g, n) += dbias · the slopes of the table along rows and
    columns."""
    batch, heads, h, w, n = dbias.shape
    for b in range(batch):
        for m in range(heads):
            g = m * down.first.shape[1] // heads
            here, beside, below, across = table[m], table[m, 1:], table[m, width:], table[m, width + 1 :]
            to_here, to_beside = dtable[m], dtable[m, 1:]
            to_below, to_across = dtable[m, width:], dtable[m, width + 1 :]
            along_row, along_col = drow[b, g], dcol[b, g]
            for i in range(h):
                row, up, low = down.first[b, g, i], down.before[b, g, i], down.after[b, g, i]
                for j in range(w):
                    col, left, far = right.first[b, g, j], right.before[b, g, j], right.after[b, g, j]
                    d = dbias[b, m, i, j]
                    for k in range(n):
                        t = row[k] + col[k]
                        along_row[k] += d[k] * (left[k] * (below[t] - here[t]) + far[k] * (across[t] - beside[t]))
                        along_col[k] += d[k] * (up[k] * (beside[t] - here[t]) + low[k] * (across[t] - below[t]))
                        above, under = d[k] * up[k], d[k] * low[k]
                        to_here[t] += above * left[k]
                        to_beside[t] += above * far[k]
                        to_below[t] += under * left[k]
                        to_across[t] += under * far[k]


def cells_of(positions: np.ndarray, n: int, step: int) -> Cells:
    """The cells of positions among 0 … n−1."""
    found = Cells(np.empty(positions.shape, np.uintp), np.empty_like(positions), np.empty_like(positions))
    locate(positions.reshape(-1), n, step, *(part.reshape(-1) for part in found))
    return found


@NUMBA.implements(ops.position_bias, constants=(2, 3))
def position_bias(table, points, rows, cols, *, cells: tuple[float, float] = (1.0, 1.0)):
    """bias[m, (i, j), n] = φ(B̂_m; R); see `ops.position_bias`."""
    m, r, c = table.shape
    b, groups, n, _ = points.shape
    if m % groups:
        return NotImplemented  # the plain op raises the error
    framed = np.pad(table, ((0, 0), FRAME, FRAME))
    width = framed.shape[2]
    flat = framed.reshape(m, -1)
    down = (rows[:, None] - points[:, :, None, :, 0]) * cells[0] + (r - 1) / 2  # (b, g, h, n): R
    right = (cols[:, None] - points[:, :, None, :, 1]) * cells[1] + (c - 1) / 2  # (b, g, w, n)
    down, right = cells_of(down, r, width), cells_of(right, c, 1)
    bias = np.empty((b, m, len(rows), len(cols), n), table.dtype)
    read(flat, width, down, right, bias)

    def vjp(dbias):
        dflat = np.zeros_like(flat)
        drow, dcol = np.zeros((b, groups, n), table.dtype), np.zeros((b, groups, n), table.dtype)
        d = np.ascontiguousarray(dbias).reshape(bias.shape)
        read_vjp(d, flat, width, down, right, dflat, drow, dcol)
        dtable = dflat.reshape(framed.shape)[:, FRAME[0] : -FRAME[1], FRAME[0] : -FRAME[1]]
        dpoints = np.stack([drow * -cells[0], dcol * -cells[1]], -1)  # R = cells·(query − key) + centre
        return dtable, dpoints, None, None

    return bias.reshape(b, m, -1, n), vjp
