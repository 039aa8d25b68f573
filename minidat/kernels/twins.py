"""A twin is an op's function written for other hardware, or in another language: the same inputs, the same (y, vjp).
`install` gives ops their twins."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import update_wrapper
from typing import Any, NamedTuple

from minidat.autograd import Op, array_module
from minidat.kernels.compile import can_take

Raw = Callable[..., tuple[Any, Callable[[Any], tuple[Any, ...]]]]
Takes = Callable[[Any], bool]  # whether a kind of twin takes this array


class Twin(NamedTuple):
    """A twin, what arrays it takes, the inputs that it takes as they lie in memory, and those that it has no gradient for."""

    raw: Raw
    takes: Takes
    views: tuple[int, ...]
    constants: tuple[int, ...]

    def inputs(self, arrays: tuple[Any, ...]) -> list[Any] | None:
        """What it gets for the op's arrays. None: it does not serve such ones."""
        main = [a for i, a in enumerate(arrays) if i not in self.constants]
        if not _served(main, self.takes):
            return None
        xp, dtype = array_module(*main), next(a.dtype for a in main if a is not None)
        given = [
            a.astype(dtype, copy=False) if a is not None and i in self.constants else a for i, a in enumerate(arrays)
        ]
        as_they_are = (a is None or i in self.views or a.flags.c_contiguous for i, a in enumerate(given))
        return [a if yes else xp.ascontiguousarray(a) for a, yes in zip(given, as_they_are)]


_TWINS: list[tuple[Op, Twin]] = []


def twin(
    op: Op, *, takes: Takes = can_take, views: tuple[int, ...] = (), constants: tuple[int, ...] = ()
) -> Callable[[Raw], Raw]:
    """Make the decorated function a twin of `op`. It gets C-contiguous arrays of one dtype, float32 or float64, none empty.
    It may return NotImplemented for what it does not serve: then the op's own function is called.

    takes: its kind, by the arrays: on a GPU unless said otherwise. views: inputs that it takes as they lie in memory.
    constants: inputs without a gradient, which take the others' dtype.
    """

    def register(raw: Raw) -> Raw:
        _TWINS.append((op, Twin(raw, takes, views, constants)))
        return raw

    return register


def install(takes: Takes = can_take) -> None:
    """Have every op that has a twin of this kind choose by what its arrays are. Does nothing the second time."""
    for op, twin in _TWINS:
        if twin.takes is takes:
            if not isinstance(op.raw, Choice):
                op.raw = Choice(op.raw)
            op.raw.add(twin)


class Choice:
    """An op's function, and its twins for what they take. Other dtypes and empty arrays are left to the function."""

    def __init__(self, function: Raw):
        self.function = function
        self.twins: list[Twin] = []
        update_wrapper(self, function)

    def add(self, twin: Twin) -> None:
        """One more twin, if it is not there yet."""
        if twin not in self.twins:
            self.twins.append(twin)

    def __call__(self, *arrays: Any, **options: Any) -> tuple[Any, Callable[[Any], tuple[Any, ...]]]:
        for twin in self.twins:
            inputs = twin.inputs(arrays)
            result = NotImplemented if inputs is None else twin.raw(*inputs, **options)
            if result is not NotImplemented:
                return result
        return self.function(*arrays, **options)


def _served(arrays: Sequence[Any], takes: Takes) -> bool:
    given = [a for a in arrays if a is not None]
    if not all(hasattr(a, "dtype") and takes(a) for a in given):
        return False
    return len({a.dtype for a in given}) == 1 and all(a.size for a in given)
