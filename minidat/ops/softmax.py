"""Softmax: scores of a row become weights that sum to 1."""

from __future__ import annotations

from minidat.autograd.backend import array_module
from minidat.autograd.engine import op
from minidat.ops.sums import row_dot, row_sum


@op("... n -> ... n")
def softmax(x):
    """y_i = e^(x_i) / Σ_j e^(x_j) over the last axis. The largest x is subtracted first, so nothing overflows; −∞ gives 0."""
    xp = array_module(x)
    y = xp.exp(x - x.max(axis=-1, keepdims=True))
    y = y / row_sum(y)
    return y, lambda dy: (softmax_vjp(dy, y),)


def softmax_vjp(dy, y):
    """dX = (diag y − y yᵀ) dY, row by row, for y = softmax(x) over the last axis. The Jacobian is symmetric, and ones lie
    in its null space."""
    return y * (dy - row_dot(dy, y))
