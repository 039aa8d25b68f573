"""Smooth L1: the distance of numbers that are to be met, with a parabola around 0."""

from __future__ import annotations

from minidat.autograd.backend import array_module
from minidat.autograd.engine import op
from minidat.ops.checks import check_floating, check_same_shape


@op("..., ... -> ...")
def smooth_l1(x, targets, *, beta: float = 1.0):
    """L = d²/2β where d = |x − t| < β, else d − β/2;  dx = clip((x − t)/β, −1, 1)                                 Fast R-CNN

    Any shape, the same for both. β = 0 is |x − t|, whose slope at 0 is 0. Targets get no gradient. Raises ValueError for β < 0
    and for targets of another shape.
    """
    if not beta >= 0:
        raise ValueError(f"smooth_l1: beta is {beta}; it must be at least 0")
    check_floating("smooth_l1", x)
    check_same_shape("smooth_l1", x.shape, targets.shape)
    xp = array_module(x)
    d = x - targets.astype(x.dtype, copy=False)
    if not beta:
        return xp.abs(d), lambda dy: (dy * xp.sign(d), None)
    y = xp.where(xp.abs(d) < beta, d * d * (0.5 / beta), xp.abs(d) - 0.5 * beta)
    return y, lambda dy: (dy * xp.clip(d * (1 / beta), -1, 1), None)
