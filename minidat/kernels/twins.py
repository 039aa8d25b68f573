"""A twin is an op's function written for the GPU: the same inputs, the same (y, vjp). `install` gives ops their twins."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import update_wrapper
from typing import Any

import numpy as np

from minidat.autograd import Op, array_module
from minidat.kernels.compile import REALS

Raw = Callable[..., tuple[Any, Callable[[Any], tuple[Any, ...]]]]

_TWINS: list[tuple[Op, Raw]] = []


def twin(op: Op) -> Callable[[Raw], Raw]:
    """Make the decorated function the twin of `op`. It gets C-contiguous arrays of one dtype, float32 or float64, none empty.
    It may return NotImplemented for what it does not serve: then the op's own function is called."""

    def register(cuda: Raw) -> Raw:
        _TWINS.append((op, cuda))
        return cuda

    return register


def install() -> None:
    """Have every op that has a twin choose by where its arrays are. Does nothing the second time."""
    for op, cuda in _TWINS:
        if not isinstance(op.raw, Choice):
            op.raw = Choice(op.raw, cuda)


class Choice:
    """An op's function, and its twin for arrays on a GPU. Other dtypes and empty arrays are left to the function."""

    def __init__(self, function: Raw, cuda: Raw):
        self.function, self.cuda = function, cuda
        update_wrapper(self, function)

    def __call__(self, *arrays: Any, **options: Any) -> tuple[Any, Callable[[Any], tuple[Any, ...]]]:
        xp = array_module(*arrays)
        if xp is not np and hasattr(xp, "RawModule") and _served(arrays):
            result = self.cuda(*(a if a is None else xp.ascontiguousarray(a) for a in arrays), **options)
            if result is not NotImplemented:
                return result
        return self.function(*arrays, **options)


def _served(arrays: tuple[Any, ...]) -> bool:
    given = [a for a in arrays if a is not None]
    dtypes = {a.dtype.name for a in given if hasattr(a, "dtype")}
    return len(dtypes) == 1 and dtypes <= REALS.keys() and all(math.prod(getattr(a, "shape", ())) for a in given)
