"""Sums that many ops need: over the channels of a row, over the rows of a column, and over what broadcasting repeated."""

from __future__ import annotations

from typing import Any

from minidat.autograd.backend import array_module

Array = Any
Shape = tuple[int, ...]


def row_sum(a: Array) -> Array:
    """Σ_c a[…, c], kept as an axis of size 1. A product with ones: BLAS adds short rows several times as fast as `sum`."""
    c = a.shape[-1]
    return (a.reshape(-1, c) @ array_module(a).ones(c, a.dtype)).reshape(*a.shape[:-1], 1)


def column_sum(a: Array) -> Array:
    """Σ_n a[n, c] of a matrix (n, c), as a product with ones: (c)."""
    return array_module(a).ones(len(a), a.dtype) @ a


def row_dot(a: Array, b: Array) -> Array:
    """Σ_c a[…, c] b[…, c], kept as an axis of size 1, without an array for the product."""
    return array_module(a).einsum("...c,...c->...", a, b)[..., None]


def unbroadcast(d: Array, x: Array) -> Array | None:
    """The gradient of broadcasting: d summed over the axes along which x was repeated. None for a Python number."""
    return summed_to(d, x.shape) if hasattr(x, "shape") else None


def summed_to(d: Array, shape: Shape) -> Array:
    """d summed over the axes along which an array of `shape` was repeated to get d's shape."""
    if d.shape == shape:
        return d
    return array_module(d).asarray(d.sum(axis=repeated_axes(shape, d.shape))).reshape(shape)  # a full sum is a number


def repeated_axes(shape: Shape, full: Shape) -> tuple[int, ...]:
    """The axes of `full` along which an array of `shape` is repeated when it is broadcast to `full`."""
    own = (1,) * (len(full) - len(shape)) + shape
    return tuple(i for i, (n, of) in enumerate(zip(own, full, strict=True)) if n != of)
