"""Ops that move numbers and change none. Each is linear, and its vjp is the move back (a sum where numbers were repeated)."""

from __future__ import annotations

from itertools import pairwise
from numbers import Integral
from typing import Any

from minidat.autograd.backend import array_module
from minidat.autograd.engine import Tensor, op
from minidat.ops.sums import unbroadcast


@op("... -> ...")
def reshape(x, *, shape: tuple[int, ...]):
    """The same numbers in row-major order under another shape; one size may be −1."""
    return x.reshape(shape), lambda dy: (dy.reshape(x.shape),)


@op("... -> ...")
def transpose(x, *, axes: tuple[int, ...]):
    """y[i₀, i₁, …] = x[…]: axis k of y is axis axes[k] of x, which may count from the end. A view."""
    inverse = sorted(range(len(axes)), key=lambda k: axes[k] % x.ndim)
    return x.transpose(axes), lambda dy: (dy.transpose(inverse),)


@op("... -> ...")
def pad(x, *, widths: tuple[tuple[int, int], ...]):
    """Zeros around x: `widths` gives (before, after) for each axis."""
    inside = tuple(slice(before, before + n) for (before, _), n in zip(widths, x.shape, strict=True))
    return array_module(x).pad(x, widths), lambda dy: (dy[inside],)


@op("... -> ...")
def roll(x, *, shift: tuple[int, ...], axes: tuple[int, ...]):
    """y[(i + shift) mod n] = x[i] along each of `axes`."""
    xp = array_module(x)
    return xp.roll(x, shift, axes), lambda dy: (xp.roll(dy, tuple(-s for s in shift), axes),)


@op("...* -> ...")
def concatenate(*xs, axis: int):
    """The arrays one after the other along `axis`; the others must agree."""
    xp = array_module(*xs)
    ends = [0]
    for x in xs:
        ends.append(ends[-1] + x.shape[axis])

    def vjp(dy):
        along = axis % dy.ndim
        return tuple(dy[(slice(None),) * along + (slice(a, b),)] for a, b in pairwise(ends))

    return xp.concatenate(xs, axis), vjp


@op("... -> ...")
def getitem(x, *, index: Any):
    """y = x[index] for integers, slices, None and Ellipsis. A view. TypeError for arrays of indices: use `take`."""
    for part in index if isinstance(index, tuple) else (index,):
        if not (part is None or part is Ellipsis or isinstance(part, Integral | slice)):
            raise TypeError(
                f"getitem: index {part!r} is no integer, slice, None or Ellipsis; for arrays of indices use take"
            )

    def vjp(dy):
        dx = array_module(x).zeros_like(x)
        dx[index] = dy
        return (dx,)

    return x[index], vjp


def split(x: Tensor, sections: int, axis: int) -> list[Tensor]:
    """`sections` equal parts of x along `axis`. Raises ValueError when the axis does not divide."""
    n = x.shape[axis]
    if sections < 1 or n % sections:
        raise ValueError(f"split: axis {axis} has {n} elements, which {sections} sections do not divide")
    before = (slice(None),) * (axis % x.ndim)
    step = n // sections
    return [getitem(x, index=(*before, slice(i * step, (i + 1) * step))) for i in range(sections)]


@op("... -> ...")
def broadcast_to(x, *, shape: tuple[int, ...]):
    """x repeated to `shape` as NumPy broadcasts. A view; the vjp sums over the repeats."""
    return array_module(x).broadcast_to(x, shape), lambda dy: (unbroadcast(dy, x),)
