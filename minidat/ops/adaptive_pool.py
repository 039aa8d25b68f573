"""Adaptive average pooling: a map of any size becomes one of a given size, each pixel the mean of its cell."""

from __future__ import annotations

from typing import Any

from minidat.autograd.backend import array_module
from minidat.autograd.engine import op
from minidat.ops.resize import check_resize
from minidat.ops.separable import separable_resample


@op("b h w c -> b i j c")
def adaptive_average_pool(x, *, size: tuple[int, int]):
    """Y = W_y X W_xᵀ with W[i, k] = 1/|cell i| for k in cell i: ⌊i n/m⌋ ≤ k < ⌈(i + 1) n/m⌉

    n pixels of an axis become m. x (B, H, W, C) → (B, *size, C). Where m does not divide n, neighbouring cells overlap by a
    pixel. Raises ValueError for an empty size or map, TypeError for a map that is not floating-point.
    """
    check_resize("adaptive_average_pool", x, size)
    rows, cols = (mean_matrix(array_module(x), n, m, x.dtype) for n, m in zip(x.shape[1:3], size, strict=True))
    y, vjp = separable_resample.raw(x, rows, cols)
    return y, lambda dy: vjp(dy)[:1]


def mean_matrix(xp: Any, n: int, m: int, dtype: Any) -> Any:
    """(m, n): row i has 1/|cell i| over cell i."""
    i, k = xp.arange(m)[:, None], xp.arange(n)
    inside = ((k >= i * n // m) & (k < -(-(i + 1) * n // m))).astype(dtype)
    return inside / inside.sum(axis=1, keepdims=True)
