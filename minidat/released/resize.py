"""Position tables at another resolution: bicubic interpolation as two small matrices of weights.

Source: the released `load_pretrained`, which calls PyTorch's bicubic `interpolate` (align_corners=False, a = −0.75, no
antialiasing). It resizes a table when a model trained at one image or window size is fine-tuned at another.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isqrt
from typing import Any

from minidat.autograd.backend import array_module

A = -0.75
"""The slope of the kernel at 1, PyTorch's choice. With Keys' own value, −½, a plane would stay a plane; with this one it is
bent a little."""


def kernel(t):
    """κ(t) = (a+2)|t|³ − (a+3)|t|² + 1 for |t| ≤ 1;  a|t|³ − 5a|t|² + 8a|t| − 4a for 1 < |t| < 2;  0 beyond

    The cubic convolution kernel: 1 at 0, 0 at every other integer, a continuous slope. t: an array of any shape.
    Source: Keys, "Cubic convolution interpolation for digital image processing", 1981.
    """
    xp = array_module(t)
    t = xp.abs(t)
    near = ((A + 2) * t - (A + 3)) * t * t + 1
    far = ((A * t - 5 * A) * t + 8 * A) * t - 4 * A
    return xp.where(t <= 1, near, xp.where(t < 2, far, 0.0))


def interpolation_matrix(n_out: int, n_in: int, xp: Any):
    """K[i, j] = κ(xᵢ − j),  xᵢ = (i + ½) n_in / n_out − ½

    (n_out, n_in), float64, of the array module `xp`; row i has at most four weights, which sum to 1. Pixel centres are the
    integers and the borders of both rows coincide. A tap outside reads the border pixel: its weight is added to that one's.
    """
    x = (xp.arange(n_out, dtype=xp.float64) + 0.5) * (n_in / n_out) - 0.5
    taps = xp.arange(-2, n_in + 2, dtype=xp.float64)  # (n_in + 4,): two beyond either border
    k = kernel(x[:, None] - taps)  # (n_out, n_in + 4)
    inside = k[:, 2:-2].copy()  # (n_out, n_in)
    inside[:, 0] += k[:, :2].sum(1)
    inside[:, -1] += k[:, -2:].sum(1)
    return inside


def bicubic(table, size: Sequence[int]):
    """T̂ = K_row T K_colᵀ,  K[i, j] = κ((i + ½) n_in / n_out − ½ − j)

    table (M, R, C), floating point: M tables, as DAT's B̂; size: (rows, columns). Returns (M, *size) in the table's dtype; at
    the same size the same values. κ: see `kernel`.
    Raises ValueError for a table of another kind and for a size that is not two positive numbers.
    """
    if table.ndim != 3 or table.dtype.kind != "f" or 0 in table.shape[1:]:
        raise ValueError(f"bicubic: table must be float (M, R, C), not empty; got {table.dtype} {table.shape}")
    if len(size) != 2 or min(size) < 1:
        raise ValueError(f"bicubic: size must be (rows, columns), both at least 1; got {size}")
    xp = array_module(table)
    rows, cols = (interpolation_matrix(n_out, n_in, xp) for n_out, n_in in zip(size, table.shape[1:]))
    return (rows @ table @ cols.T).astype(table.dtype)


def window_table(table, window: int):
    """B̂ ((2w−1)², M) → ((2w′−1)², M): the rows, an image (2w−1, 2w−1) of displacements, resized by `bicubic`

    table: Swin's and DAT's `relative_position_bias_table`, one row for each displacement (Δrow, Δcol), row by row; w′ = `window`.
    Raises ValueError where the number of rows is not (2w−1)² for any w, and for w′ < 1.
    """
    side = isqrt(len(table))
    if table.ndim != 2 or side * side != len(table) or side % 2 == 0:
        raise ValueError(f"window_table: table must be ((2w − 1)², M) for some window w, got {table.shape}")
    if window < 1:
        raise ValueError(f"window_table: window must be at least 1, got {window}")
    images = table.T.reshape(-1, side, side)  # (M, 2w−1, 2w−1)
    return bicubic(images, (2 * window - 1, 2 * window - 1)).reshape(len(images), -1).T
