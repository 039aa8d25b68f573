"""A position bias from a small network instead of a table: DAT++'s option `log_cpb`, after Swin v2."""

from __future__ import annotations

from math import log

from minidat.autograd.backend import array_module
from minidat.autograd.engine import op
from minidat.ops.linear import linear

LN8 = log(8)


def log_distance(d):
    """sign(d) log₂(1 + |d|) / log₂ 8 and its slope: ±8 goes to ±1.06, and near distances get most of the room."""
    xp = array_module(d)
    far = 1 + xp.abs(d)
    return xp.sign(d) * xp.log(far) * (1 / LN8), 1 / (far * LN8)


@op("b g n 2, h, w, 2 e, e, e o -> b m l n")
def log_position_bias(points, rows, cols, w1, b1, w2, *, scale: tuple[float, float]):
    """bias[(g, o), (i, j), n] = (max(0, u W₁ + b₁) W₂)_o,  u = sign(D) log₂(1 + |D|)/log₂ 8

    D = scale·((rows_i, cols_j) − points_gn), a row and a column. points (B, G, N, 2): the keys; rows (H), cols (W): the
    queries, all in pixels; scale: what a pixel is to D, for rows and columns. W₁ (2, E), b₁ (E), W₂ (E, M/G), one network
    for all groups. Returns (B, M, H·W, N). The grid is a constant.
    Source: the released DAT++, where D = 4·(query − key) in normalised units, −8 … 8.
    """
    xp = array_module(points)
    b, groups, n, _ = points.shape
    rows, cols = rows.astype(points.dtype, copy=False), cols.astype(points.dtype, copy=False)
    down, down_slope = log_distance((rows - points[..., 0:1]) * scale[0])  # (b, g, n, h)
    right, right_slope = log_distance((cols - points[..., 1:2]) * scale[1])  # (b, g, n, w)
    hidden = (down[..., None] * w1[0])[..., None, :] + (right[..., None] * w1[1] + b1)[..., None, :, :]
    xp.maximum(hidden, 0, out=hidden)  # (b, g, n, h, w, e)
    y, linear_vjp = linear.raw(hidden, w2, None)  # (b, g, n, h, w, m/g)
    h, w, heads = rows.shape[0], cols.shape[0], w2.shape[1]
    bias = y.transpose(0, 1, 5, 3, 4, 2).reshape(b, groups * heads, h * w, n)

    def vjp(dbias):
        dy = dbias.reshape(b, groups, heads, h, w, n).transpose(0, 1, 5, 3, 4, 2)
        dhidden, dw2, _ = linear_vjp(dy)
        dhidden *= hidden > 0
        by_row, by_col = dhidden.sum(4), dhidden.sum(3)  # (b, g, n, h, e), (b, g, n, w, e)
        dw1 = xp.stack([xp.einsum("bgnh,bgnhe->e", down, by_row), xp.einsum("bgnw,bgnwe->e", right, by_col)])
        drow = -((by_row @ w1[0]) * down_slope).sum(-1) * scale[0]  # D = scale·(query − key)
        dcol = -((by_col @ w1[1]) * right_slope).sum(-1) * scale[1]
        return xp.stack([drow, dcol], -1), None, None, dw1, by_row.sum((0, 1, 2, 3)), dw2

    return bias, vjp
