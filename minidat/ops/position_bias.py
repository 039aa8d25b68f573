"""The deformable relative position bias φ(B̂; R) of equation (9): the same φ, reading a table at relative displacements.

B̂ has one number for each whole-pixel displacement query − key: rows −(H−1) … H−1, columns −(W−1) … W−1, so
(2H−1)×(2W−1) a head, and displacement 0 at its centre (H−1, W−1). Deformed keys lie between pixels, so their
displacements R do too, and φ reads the table there. Queries stand on a grid, which makes the read separable: the row of
the table depends on the query's row and the key alone, the column on its column and the key.
"""

from __future__ import annotations

from minidat.autograd.backend import array_module
from minidat.autograd.engine import op
from minidat.ops.bilinear import g, g_slope


@op("m r c, b g n 2, h, w -> b m l n")
def position_bias(table, points, rows, cols, *, cells: tuple[float, float] = (1.0, 1.0)):
    """bias[m, (i, j), n] = φ(B̂_m; R),  R = cells·((rows_i, cols_j) − points_n) + centre                DAT eq. (9)

    table (M, R, C); points (B, G, N, 2): the keys, (row, col) in pixels; rows (H), cols (W): the queries, in pixels too.
    `cells`: table cells in one pixel, for rows and columns; 1 on a map of the size that the table was made for. Head m
    reads at the points of group m // (M/G). Returns (B, M, H·W, N). Displacements off the table read zero. Gradients to
    the table and the points; the grid is a constant. Raises ValueError when G does not divide M.
    """
    xp = array_module(table)
    (m, r, c), (b, groups, n, _), h, w = table.shape, points.shape, rows.shape[0], cols.shape[0]
    check_head_groups(m, groups)
    rows, cols = rows.astype(points.dtype, copy=False), cols.astype(points.dtype, copy=False)
    down = (rows - points[..., 0:1]) * cells[0] + (r - 1) / 2  # (b, g, n, h): R, in rows and columns of the table
    right = (cols - points[..., 1:2]) * cells[1] + (c - 1) / 2  # (b, g, n, w)
    gy, gx = g(down, r), g(right, c)  # (b, g, n, h, r), (b, g, n, w, c)
    by_group = table.reshape(groups, m // groups, r, c)  # indices g, m from here on
    read = xp.einsum("gmrc,bgnhr->bgnmhc", by_group, gy)  # rows are read, columns still whole
    bias = xp.einsum("bgnmhc,bgnwc->bgmhwn", read, gx)

    def vjp(dbias):
        d = dbias.reshape(bias.shape)
        dread = xp.einsum("bgmhwn,bgnwc->bgnmhc", d, gx)
        dgx = xp.einsum("bgmhwn,bgnmhc->bgnwc", d, read)
        dgy = xp.einsum("bgnmhc,gmrc->bgnhr", dread, by_group)
        dtable = xp.einsum("bgnmhc,bgnhr->gmrc", dread, gy).reshape(table.shape)
        drow, dcol = (dgy * g_slope(down, r)).sum((-2, -1)), (dgx * g_slope(right, c)).sum((-2, -1))  # (b, g, n)
        return dtable, xp.stack([drow * -cells[0], dcol * -cells[1]], -1), None, None  # R falls as a key moves down

    return bias.reshape(b, m, h * w, n), vjp


def check_head_groups(m: int, groups: int) -> None:
    """Raises ValueError when groups of points do not divide the table's heads."""
    if not groups or m % groups:
        raise ValueError(f"position_bias: axis 'm' is {m} in input 0, which {groups} groups (axis 'g') do not divide")
