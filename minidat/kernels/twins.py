"""A twin is an op's function written for the GPU: the same inputs, the same (y, vjp). `install` gives ops their twins."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import update_wrapper
from typing import Any, NamedTuple

from minidat.autograd import Op, array_module
from minidat.kernels.compile import can_take

Raw = Callable[..., tuple[Any, Callable[[Any], tuple[Any, ...]]]]


class Twin(NamedTuple):
    """A twin, the inputs that it takes as they lie in memory, and those that it has no gradient for."""

    raw: Raw
    views: tuple[int, ...]
    constants: tuple[int, ...]

    def inputs(self, arrays: tuple[Any, ...]) -> list[Any] | None:
        """What it gets for the op's arrays. None: it does not serve such ones."""
        main = [a for i, a in enumerate(arrays) if i not in self.constants]
        if not _served(main):
            return None
        xp, dtype = array_module(*main), next(a.dtype for a in main if a is not None)
        given = [
            a.astype(dtype, copy=False) if a is not None and i in self.constants else a for i, a in enumerate(arrays)
        ]
        as_they_are = (a is None or i in self.views or a.flags.c_contiguous for i, a in enumerate(given))
        return [a if yes else xp.ascontiguousarray(a) for a, yes in zip(given, as_they_are)]


_TWINS: list[tuple[Op, Twin]] = []


def twin(op: Op, *, views: tuple[int, ...] = (), constants: tuple[int, ...] = ()) -> Callable[[Raw], Raw]:
    """Make the decorated function the twin of `op`. It gets C-contiguous arrays of one dtype, float32 or float64, none empty.
    It may return NotImplemented for what it does not serve: then the op's own function is called.

    views: inputs that it takes as they lie in memory. constants: inputs without a gradient, which take the others' dtype.
    """

    def register(cuda: Raw) -> Raw:
        _TWINS.append((op, Twin(cuda, views, constants)))
        return cuda

    return register


def install() -> None:
    """Have every op that has a twin choose by where its arrays are. Does nothing the second time."""
    for op, cuda in _TWINS:
        if not isinstance(op.raw, Choice):
            op.raw = Choice(op.raw, cuda)


class Choice:
    """An op's function, and its twin for arrays on a GPU. Other dtypes and empty arrays are left to the function."""

    def __init__(self, function: Raw, cuda: Twin):
        self.function, self.cuda = function, cuda
        update_wrapper(self, function)

    def __call__(self, *arrays: Any, **options: Any) -> tuple[Any, Callable[[Any], tuple[Any, ...]]]:
        inputs = self.cuda.inputs(arrays)
        result = NotImplemented if inputs is None else self.cuda.raw(*inputs, **options)
        return self.function(*arrays, **options) if result is NotImplemented else result


def _served(arrays: Sequence[Any]) -> bool:
    given = [a for a in arrays if a is not None]
    if not all(hasattr(a, "dtype") and can_take(a) for a in given):
        return False
    return len({a.dtype for a in given}) == 1 and all(a.size for a in given)
