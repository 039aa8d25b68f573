"""Softmax in place: one array for the result where `ops.softmax` makes three."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidat import ops
from minidat.fast.dispatch import NUMPY
from minidat.ops.sums import row_dot, row_sum

Array = Any


def exponentials(s: Array) -> Array:
    """S ← e^(S − max S) in place, the maximum of each row. Returns the sums of the rows, (…, n, 1)."""
    s -= s.max(axis=-1, keepdims=True)
    np.exp(s, out=s)
    return row_sum(s)


def softmax_vjp(dy: Array, y: Array, out: Array | None = None) -> Array:
    """dX = (diag y − y yᵀ) dY, row by row. `out` may be dy."""
    dx = np.subtract(dy, row_dot(dy, y), out=out)
    dx *= y
    return dx


@NUMPY.implements(ops.softmax)
def softmax(x):
    """y_i = e^(x_i) / Σ_j e^(x_j); see `ops.softmax`."""
    y = x.copy()
    y /= exponentials(y)
    return y, lambda dy: (softmax_vjp(dy, y),)
