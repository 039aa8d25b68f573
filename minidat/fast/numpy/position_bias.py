"""The position bias as products of matrices: the sums of `ops.position_bias` arranged so that BLAS computes them. The cost is
a few transposed copies."""

from __future__ import annotations

import numpy as np

from minidat import ops
from minidat.fast.dispatch import NUMPY
from minidat.fast.numpy.bilinear import along_slope, hats


@NUMPY.implements(ops.position_bias, constants=(2, 3))
def position_bias(table, points, rows, cols, *, cells: tuple[float, float] = (1.0, 1.0)):
    """bias[m, (i, j), n] = φ(B̂_m; R); see `ops.position_bias`."""
    m, r, c = table.shape
    b, groups, n, _ = points.shape
    if m % groups:
        return NotImplemented  # the plain op raises the error
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
