"""The deformable relative position bias φ(B̂; R) of equation (9): the same φ, reading a table at relative displacements.

B̂ has one number for each whole-pixel displacement query − key: rows −(H−1) … H−1, columns −(W−1) … W−1, so
(2H−1)×(2W−1) a head, and displacement 0 at its centre (H−1, W−1). Deformed keys lie between pixels, so their
displacements R do too, and φ reads the table there. Queries stand on a grid, which makes the read separable: the row of
the table depends on the query's row and the key alone, the column on its column and the key.
"""

from __future__ import annotations

from minidat.autograd.backend import array_module
from minidat.autograd.engine import op
from minidat.ops.bilinear import along_slope, g


@op("m r c, b g n 2, h, w -> b m l n")
def position_bias(table, points, rows, cols, *, cells: tuple[float, float] = (1.0, 1.0)):
    """bias[m, (i, j), n] = φ(B̂_m; R),  R = cells·((rows_i, cols_j) − points_n) + centre                DAT eq. (9)

    table (M, R, C); points (B, G, N, 2): the keys, (row, col) in pixels; rows (H), cols (W): the queries, in pixels too.
    `cells`: table cells in one pixel, for rows and columns; 1 on a map of the size that the table was made for. Head m
    reads at the points of group m // (M/G). Returns (B, M, H·W, N). Displacements off the table read zero. Gradients to
    the table and the points; the grid is a constant. Raises ValueError when G does not divide M.
    """
    xp = array_module(table)
    m, r, c = table.shape
    b, groups, n, _ = points.shape
    h, w = rows.shape[0], cols.shape[0]
    if m % groups:
        raise ValueError(f"position_bias: axis 'm' is {m} in input 0, which {groups} groups (axis 'g') do not divide")
    rows, cols = rows.astype(points.dtype, copy=False), cols.astype(points.dtype, copy=False)
    down = (rows - points[..., 0:1]) * cells[0] + (r - 1) / 2  # (b, g, n, h): R, as rows and columns of the table
    right = (cols - points[..., 1:2]) * cells[1] + (c - 1) / 2  # (b, g, n, w)
    gy, gx = g(down, r), g(right, c)  # (b, g, n, h, r), (b, g, n, w, c)
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
        dpoints = xp.concatenate([drow * -cells[0], dcol * -cells[1]], -1)  # R = cells·(query − key) + centre
        return dtable, dpoints, None, None

    return bias.reshape(b, m, h * w, n), vjp
