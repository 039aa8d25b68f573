"""Counts how often a function goes over its arrays: every operation of NumPy on an array, with what it reads and writes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

VIEWS = ("reshape", "transpose", "swapaxes", "moveaxis", "broadcast_to", "expand_dims", "squeeze")
"""Functions that give another shape to the same memory."""


class Pass(NamedTuple):
    """One operation. read, written: elements of all its arrays. flops: multiplications and additions."""

    name: str
    read: int
    written: int
    flops: int


class Counted(np.ndarray):
    """An array that notes every operation on it, and whose results do too."""

    notes: list[Pass] | None = None

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, out: Any = None, **options: Any) -> Any:
        if out is not None:
            options["out"] = tuple(map(_bare, out))
        result = getattr(ufunc, method)(*map(_bare, inputs), **options)
        _note(ufunc.__name__, inputs, result)
        return out[0] if out is not None else _counted(result)

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        result = func(*map(_bare, args), **{key: _bare(value) for key, value in kwargs.items()})
        if func.__name__ not in VIEWS and not func.__name__.startswith("empty"):
            _note(func.__name__, args, result)
        return _counted(result)

    def __getitem__(self, key: Any) -> Any:
        result = _bare(self)[_bare(key)]
        if any(isinstance(part, np.ndarray) for part in (key if isinstance(key, tuple) else (key,))):
            _note("gather", [result], result)
        return _counted(result)

    def __setitem__(self, key: Any, value: Any) -> None:
        _bare(self)[_bare(key)] = _bare(value)
        _note("copy", [value], _bare(self)[_bare(key)])

    def copy(self, order: Any = "C") -> Any:
        """A copy, which is a pass."""
        result = _bare(self).copy(order)
        _note("copy", [self], result)
        return _counted(result)


Counted.__module__ = "numpy"  # `array_module` then gives NumPy's functions


def passes(function: Callable, *inputs: Any, **options: Any) -> tuple[Any, list[Pass]]:
    """function(*inputs, **options) on arrays that count, and the passes in their order. Arrays in the result count no more."""
    before, Counted.notes = Counted.notes, []
    try:
        result = function(*map(_counted, inputs), **{key: _counted(value) for key, value in options.items()})
        return _bare(result), Counted.notes
    finally:
        Counted.notes = before


def _counted(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return type(value)(map(_counted, value))
    return value.view(Counted) if isinstance(value, np.ndarray) else value


def _bare(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return type(value)(map(_bare, value))
    return value.view(np.ndarray) if isinstance(value, Counted) else value


def _arrays(value: Any) -> list[np.ndarray]:
    if isinstance(value, tuple | list):
        return [array for item in value for array in _arrays(item)]
    return [value] if isinstance(value, np.ndarray) else []


def _note(name: str, inputs: Any, result: Any) -> None:
    if Counted.notes is None:
        return
    read, made = _arrays(inputs), np.asarray(result)
    sizes = [array.size for array in read]
    flops = 2 * made.size * read[0].shape[-1] if name == "matmul" else max([made.size, *sizes])
    Counted.notes.append(Pass(name, sum(sizes), made.size, 2 * flops if name == "einsum" else flops))
