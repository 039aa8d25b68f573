"""Reductions over one axis, several (a tuple) or all (None)."""

from __future__ import annotations

from math import prod

from minidat.autograd.backend import array_module
from minidat.autograd.engine import op

Axis = int | tuple[int, ...] | None


def _spread(dy, x, axis: Axis, keepdims: bool):
    """dy with the reduced axes put back as ones, so that it broadcasts against x."""
    xp = array_module(x)
    if axis is None:
        return dy.reshape((1,) * x.ndim)
    return dy if keepdims else xp.expand_dims(dy, axis)


def reduced(name: str, x, axis: Axis) -> int:
    """How many elements each result is made of. Raises ValueError for none: there is no mean and no maximum of nothing. An
    empty batch that is kept as an axis has empty results."""
    axes = range(x.ndim) if axis is None else axis if isinstance(axis, tuple) else (axis,)
    n = prod(x.shape[i] for i in axes)
    if not n:
        raise ValueError(f"{name}: an array of shape {x.shape} has no elements to reduce")
    return n


@op("... -> ...")
def sum(x, *, axis: Axis = None, keepdims: bool = False):
    """y = Σ x. Every summand gets dy."""
    xp = array_module(x)
    return xp.asarray(x.sum(axis=axis, keepdims=keepdims)), lambda dy: (
        xp.broadcast_to(_spread(dy, x, axis, keepdims), x.shape),
    )


@op("... -> ...")
def mean(x, *, axis: Axis = None, keepdims: bool = False):
    """y = (1/n) Σ x. Every summand gets dy / n. Raises ValueError where n is 0."""
    xp = array_module(x)
    share = 1 / reduced("mean", x, axis)
    y = xp.asarray(x.mean(axis=axis, keepdims=keepdims))
    return y, lambda dy: (xp.broadcast_to(_spread(dy * share, x, axis, keepdims), x.shape),)


@op("... -> ...")
def max(x, *, axis: Axis = None, keepdims: bool = False):
    """y = max x. The largest element gets dy; equal largest ones share it evenly. Raises ValueError where there is none."""
    xp = array_module(x)
    reduced("max", x, axis)
    y = xp.asarray(x.max(axis=axis, keepdims=keepdims))

    def vjp(dy):
        largest = x == _spread(y, x, axis, keepdims)
        count = largest.sum(axis=axis, keepdims=True).astype(x.dtype)
        return (largest * (_spread(dy, x, axis, keepdims) / count),)

    return y, vjp
