"""Binary cross-entropy of logits: each element is a question of its own, yes or no."""

from __future__ import annotations

from minidat.autograd.backend import array_module
from minidat.autograd.engine import op
from minidat.ops.checks import check_floating, check_same_shape


def softplus(x):
    """ln(1 + eˣ), without overflow."""
    xp = array_module(x)
    return xp.maximum(x, 0) + xp.log1p(xp.exp(-xp.abs(x)))


def probability(x):
    """1/(1 + e⁻ˣ)"""
    return 0.5 + 0.5 * array_module(x).tanh(0.5 * x)


@op("..., ... -> ...")
def binary_cross_entropy(x, targets):
    """L = ln(1 + eˣ) − t x = −t ln p − (1 − t) ln(1 − p), p = 1/(1 + e⁻ˣ);  dx = p − t

    x: logits of any shape. targets t in [0, 1], of the same shape; they get no gradient. An array of x's shape.
    Raises ValueError for targets of another shape.
    """
    check_floating("binary_cross_entropy", x)
    check_same_shape("binary_cross_entropy", x.shape, targets.shape)
    t = targets.astype(x.dtype, copy=False)
    return softplus(x) - t * x, lambda dy: (dy * (probability(x) - t), None)
