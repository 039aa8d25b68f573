"""Gather by an array of indices, and its vjp, a scatter-add."""

from __future__ import annotations

import math
from typing import Any

from minidat.autograd.backend import array_module
from minidat.autograd.engine import op


@op("... -> ...")
def take(x, *, indices: Any, axis: int):
    """y[…, j, …] = x[…, indices[j], …]: gather along `axis` by an integer array of any shape. Indices must lie in
    0 … n − 1 (IndexError otherwise on NumPy; CuPy would wrap them). The vjp adds up where an index repeats."""
    xp = array_module(x)
    n, along = x.shape[axis], axis % x.ndim
    if xp is array_module() and indices.size and (indices.min() < 0 or indices.max() >= n):
        raise IndexError(f"take: indices reach from {indices.min()} to {indices.max()}, axis {axis} has {n} elements")

    def vjp(dy):
        outer, inner = math.prod(x.shape[:along]), math.prod(x.shape[along + 1 :])
        flat = xp.zeros(outer * n * inner, dy.dtype)
        rows = xp.arange(outer)[:, None] * n + indices.reshape(-1)  # (outer, j)
        xp.add.at(flat, (rows[..., None] * inner + xp.arange(inner)).reshape(-1), dy.reshape(-1))
        return (flat.reshape(x.shape),)

    return xp.take(x, indices, axis), vjp
