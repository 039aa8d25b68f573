"""The gradients of all parameters in one flat array, which the vjps of this folder fill themselves.

With an array for each gradient, a step would copy them to their places one by one, and add up the parts of each sum over rows
in a launch of its own. Inside `with flat.filling():` a vjp that computes a parameter's gradient asks here instead:

    place_for(w)                                                      where a product or a kernel writes the gradient of w
    sums = sums_for(parts, b); …; (db,) = totals(sums, b)             rows of partial sums, which one launch adds up for all

Outside they give new arrays, so a vjp need not know. The engine takes no part: what it passes on are arrays.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import numpy as np

from minidat.autograd import array_module
from minidat.fast.cuda.columns import TILE, Parts, first_stage, last_stage
from minidat.fast.cuda.compile import kernels

Array = Any

_filled: ContextVar[FlatGradient | None] = ContextVar("filled", default=None)


def place_for(w: Array) -> Array:
    """An array in w's shape for the gradient of w: its place in the flat gradient, or a new one."""
    flat = _filled.get()
    place = None if flat is None else flat.place(w)
    return array_module(w).empty(w.shape, w.dtype) if place is None else place


def sums_for(count: int, *parameters: Array) -> Array:
    """(count, c), for a kernel that writes rows of partial sums; c: the numbers of all these parameters, side by side."""
    flat = _filled.get()
    outstanding = None if flat is None else flat.begin(count, parameters)
    if outstanding is not None:
        return outstanding
    return array_module(*parameters).empty((count, sum(p.size for p in parameters)), parameters[0].dtype)


def totals(sums: Array, *parameters: Array) -> list[Array]:
    """The gradient of each parameter, from `sums_for` these parameters: its columns' sum over the rows."""
    flat = _filled.get()
    places = None if flat is None else flat.outstanding(sums, parameters)
    if places is not None:
        return places
    total, ends = last_stage(sums), np.cumsum([p.size for p in parameters]).tolist()
    found = [total[end - p.size : end].reshape(p.shape) for p, end in zip(parameters, ends, strict=True)]
    if flat is not None:
        flat.watch(len(sums), parameters, found)
    return found


def bias_gradient(dy: Array, b: Array) -> Array:
    """Σ_rows dy[row, column], the gradient of a bias b (c) that was added to every row: dy (rows, c), C-contiguous."""
    sums = sums_for(Parts(*dy.shape).count, b)
    first_stage(dy, sums)
    return totals(sums, b)[0]


class _Sum(NamedTuple):
    """Partial sums of some parameters that lie side by side, and where the gradients go."""

    sums: Array
    places: list[Array]


Ids = tuple[int, ...]


class FlatGradient:
    """`flat`, an array like the parameters' flat buffer, whose `slices` are the gradients of `parameters`, in their order.

    Each step calls `gather` with the gradients of a backward pass inside `filling()`. What did not arrive at its place is
    copied there. That is the case where a parameter is used twice: a place is given once a pass, and the engine adds two
    gradients into a new array. Sums that wait for the last stage must not be added to anything before, so the first pass
    watches which of them `gather` gets as the vjp returned them; only these wait in later passes. All passes must be one
    computation on arrays of the same shapes, as in a CUDA graph. `gather` raises RuntimeError where a sum was used too early.
    """

    def __init__(self, parameters: Sequence[Array], slices: Sequence[slice], flat: Array):
        self.flat, self.parameters, self.slices = flat, list(parameters), list(slices)
        self.places = [flat[s].reshape(p.shape) for p, s in zip(parameters, slices, strict=True)]
        self._index = {id(p): i for i, p in enumerate(parameters)}
        self._given: set[int] = set()  # in this pass
        self._begun: dict[Ids, _Sum] = {}  # in this pass
        self._watched: list[tuple[int, Ids, list[Array]]] = []  # in the first pass
        self._sums: dict[Ids, _Sum] | None = None  # known after the first pass
        self._all_sums: Array = None
        self._tiles: Array = None

    @contextmanager
    def filling(self) -> Generator[None]:
        """Inside, vjps on this thread fill `flat`."""
        self._given, self._begun, self._watched = set(), {}, []
        token = _filled.set(self)
        try:
            yield
        finally:
            _filled.reset(token)

    def place(self, w: Array) -> Array | None:
        """Where the gradient of w goes, the first time in a pass; None for an array that is no parameter."""
        i = self._index.get(id(w))
        if i is None or i in self._given:
            return None
        self._given.add(i)
        return self.places[i]

    def begin(self, count: int, parameters: Sequence[Array]) -> Array | None:
        """Where `count` partial sums go that wait for `gather`; None where they may not wait."""
        key = tuple(map(id, parameters))
        known = (self._sums or {}).get(key)
        if known is None or key in self._begun or len(known.sums) != count:
            return None
        self._begun[key] = known
        return known.sums

    def outstanding(self, sums: Array, parameters: Sequence[Array]) -> list[Array] | None:
        """The places for what `begin` gave; None for other sums."""
        known = self._begun.get(tuple(map(id, parameters)))
        return known.places if known is not None and known.sums is sums else None

    def watch(self, count: int, parameters: Sequence[Array], found: list[Array]) -> None:
        """Remember in the first pass what `totals` gave, for `gather` to see whether it arrives."""
        key = tuple(map(id, parameters))
        if self._sums is None and all(i in self._index for i in key):
            self._watched.append((count, key, found))

    def gather(self, gradients: Sequence[Array | None]) -> None:
        """Complete `flat`, from the gradients of a pass, one a parameter; None stands for zeros."""
        for key, known in self._begun.items():
            if any(gradients[self._index[i]] is not place for i, place in zip(key, known.places, strict=True)):
                raise RuntimeError(
                    "flat gradient: a sum was used before its last stage; this pass is not like the first"
                )
        if self._begun:
            launch = kernels("columns.cu", self.flat).launch
            launch("column_totals", len(self._tiles), TILE, self._all_sums, self._tiles, self.flat)
        for place, gradient in zip(self.places, gradients, strict=True):
            if gradient is not place:
                place[...] = 0 if gradient is None else gradient
        if self._sums is None:
            self._plan(gradients)

    def _plan(self, gradients: Sequence[Array | None]) -> None:
        """Lay out the partial sums that arrived as they were returned."""
        arrived = [
            (count, key)
            for count, key, found in self._watched
            if all(gradients[self._index[i]] is total for i, total in zip(key, found, strict=True))
        ]
        widths = [sum(self.parameters[self._index[i]].size for i in key) for _, key in arrived]
        starts = np.cumsum([0, *(count * width for (count, _), width in zip(arrived, widths, strict=True))]).tolist()
        xp = array_module(self.flat)
        self._all_sums, self._sums, tiles = xp.empty(starts[-1], self.flat.dtype), {}, []
        for (count, key), width, start in zip(arrived, widths, starts, strict=False):
            indices = [self._index[i] for i in key]
            sums = self._all_sums[start : start + count * width].reshape(count, width)
            self._sums[key] = _Sum(sums, [self.places[i] for i in indices])
            for i in indices:
                size, goal = self.parameters[i].size, self.slices[i].start
                tiles += [(start + t, width, count, goal + t, min(TILE[0], size - t)) for t in range(0, size, TILE[0])]
                start += size
        self._tiles = xp.asarray(np.array(tiles, np.int32).reshape(-1, 5))
        self._watched = []
