"""Separable resampling: a map is read along its rows and then along its columns.

Resizing, adaptive pooling, RoIAlign and the pasting of masks are this one product with other matrices: each row of a matrix says
which pixels of the axis a new pixel is made of. φ of equation (8) is the same where the points stand on a grid: there the
entries are g(a, b).
"""

from __future__ import annotations

from minidat.autograd.engine import op


@op("b h w c, ... i h, ... j w -> b i j c")
def separable_resample(x, rows, cols):
    """Y = W_y X W_xᵀ for every channel: y[b, i, j] = Σ_(h, w) rows[i, h] cols[j, w] x[b, h, w];  dX = W_yᵀ dY W_x

    x (B, H, W, C); rows W_y (i, H) and cols W_x (j, W) are shared by all maps, or (B, i, H) and (B, j, W), one for each.
    Returns (B, i, j, C). The matrices are constants. Raises ValueError for another number of matrices than maps.
    """
    b, h, w, c = x.shape
    i = rows.shape[-2]
    if any(m.ndim > 2 and m.shape[:-2] != (b,) for m in (rows, cols)):
        raise ValueError(
            f"separable_resample: matrices of {rows.shape} and {cols.shape} are neither one for all nor one for each of {b} maps"
        )
    across = cols if cols.ndim == 2 else cols[:, None]  # (j, w) or (b, 1, j, w)
    read = (rows @ x.reshape(b, h, w * c)).reshape(b, i, w, c)  # rows are read, columns still whole
    y = across @ read  # (b, i, j, c)

    def vjp(dy):
        dread = across.swapaxes(-1, -2) @ dy  # (b, i, w, c)
        dx = rows.swapaxes(-1, -2) @ dread.reshape(b, i, w * c)
        return dx.reshape(x.shape), None, None

    return y, vjp
