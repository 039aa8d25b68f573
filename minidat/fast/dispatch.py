"""Which implementation of an op runs.

`Op.plain` is the op as its equation is written, in minidat/ops. A backend may have a faster implementation under the same
file name: NumPy in another arrangement (always enabled), loops compiled by numba, CUDA kernels. `Op.raw` looks at the
arrays of a call and takes the first enabled implementation that accepts them; `Op.plain` where none does.

`MINIDAT_FAST=off` in the environment, or `with plain_only():`, leaves the plain ops alone: times change, nothing else.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import update_wrapper
from typing import Any, NamedTuple

import numpy as np

from minidat.autograd import Op, array_module

Raw = Callable[..., tuple[Any, Callable[[Any], tuple[Any, ...]]]]
Accepts = Callable[[Any], bool]
REALS = (np.dtype(np.float32), np.dtype(np.float64))

_off = os.environ.get("MINIDAT_FAST", "on").lower() == "off"


@contextmanager
def plain_only() -> Generator[None]:
    """Inside, every op runs as its equation is written, in all threads."""
    global _off
    before, _off = _off, True
    try:
        yield
    finally:
        _off = before


def is_off() -> bool:
    """Whether every op runs as its equation is written."""
    return _off


class Implementation(NamedTuple):
    """One implementation of one op. `accepts`: for a single array. `contiguous`: it needs C-contiguous arrays, except for
    the inputs in `strided`. `constants`: inputs without a gradient; they are cast to the dtype of the others."""

    function: Raw
    backend: Backend
    accepts: Accepts
    contiguous: bool
    strided: tuple[int, ...]
    constants: tuple[int, ...]

    def inputs(self, arrays: tuple[Any, ...]) -> list[Any] | None:
        """The arrays as this implementation needs them; None where it does not accept them: it wants at least one array
        with a gradient, all of one dtype and none of them empty."""
        dtype = None
        for i, a in enumerate(arrays):
            if a is None or i in self.constants:
                continue
            if not self.accepts(a) or not a.size:
                return None
            dtype = dtype or a.dtype
            if a.dtype != dtype:
                return None
        return None if dtype is None else [self._prepared(i, a, dtype) for i, a in enumerate(arrays)]

    def _prepared(self, i: int, a: Any, dtype: Any) -> Any:
        if a is None:
            return None
        if i in self.constants and a.dtype != dtype:
            a = a.astype(dtype)
        if self.contiguous and i not in self.strided and not a.flags.c_contiguous:
            a = array_module(a).ascontiguousarray(a)
        return a


class Dispatch:
    """What `Op.raw` is for an op with implementations: called as the op's own function is."""

    def __init__(self, op: Op):
        self.plain = op.plain
        self.implementations: list[Implementation] = []
        update_wrapper(self, op.plain)

    def __call__(self, *arrays: Any, **options: Any) -> tuple[Any, Callable[[Any], tuple[Any, ...]]]:
        for implementation in () if _off else self.implementations:
            inputs = implementation.inputs(arrays)
            result = NotImplemented if inputs is None else implementation.function(*inputs, **options)
            if result is not NotImplemented:
                return result
        return self.plain(*arrays, **options)

    def add(self, implementation: Implementation) -> None:
        """Offer calls to one more implementation, in the order of `BACKENDS`. Does nothing the second time."""
        if implementation not in self.implementations:
            self.implementations.append(implementation)
            self.implementations.sort(key=lambda one: BACKENDS.index(one.backend))

    def remove(self, implementation: Implementation) -> None:
        """Offer calls to it no more. Does nothing where it is not offered any."""
        self.implementations = [one for one in self.implementations if one is not implementation]


class Backend:
    """A set of implementations, which `enable` puts to use. accepts: whether they work on an array. contiguous: whether
    their arrays must be C-contiguous."""

    def __init__(self, name: str, accepts: Accepts, *, contiguous: bool):
        self.name, self.accepts, self.contiguous = name, accepts, contiguous
        self.implementations: list[tuple[Op, Implementation]] = []

    def __repr__(self) -> str:
        return f"<backend {self.name}>"

    def implements(
        self, op: Op, *, accepts: Accepts | None = None, strided: tuple[int, ...] = (), constants: tuple[int, ...] = ()
    ) -> Callable[[Raw], Raw]:
        """Register the decorated function as this backend's implementation of `op`.

        It takes the op's inputs and options and gives the same (y, vjp). For a case that it does not cover it returns
        NotImplemented, and the next implementation is asked: so the plain op raises all errors. accepts: in place of the
        backend's own. strided, constants: see `Implementation`.
        """

        def register(function: Raw) -> Raw:
            made = Implementation(function, self, accepts or self.accepts, self.contiguous, strided, constants)
            self.implementations.append((op, made))
            return function

        return register

    def enable(self) -> None:
        """Let every op that this backend implements choose by its arrays, in this process."""
        for op, implementation in self.implementations:
            if not isinstance(op.raw, Dispatch):
                op.raw = Dispatch(op)
            op.raw.add(implementation)

    def disable(self) -> None:
        """Leave every op to the other backends again."""
        for op, implementation in self.implementations:
            if isinstance(op.raw, Dispatch):
                op.raw.remove(implementation)


def on_gpu(array: Any) -> bool:
    """Whether this is a float32 or float64 array of CuPy's."""
    xp = array_module(array)
    return xp is not np and hasattr(xp, "RawModule") and array.dtype in REALS


def in_memory(array: Any) -> bool:
    """Whether this is a float32 or float64 array of NumPy's."""
    return type(array) is np.ndarray and array.dtype in REALS


def anywhere(array: Any) -> bool:
    """Whether this is a float32 or float64 array, of NumPy's or CuPy's."""
    return getattr(array, "dtype", None) in REALS


CUDA = Backend("cuda", on_gpu, contiguous=True)
NUMBA = Backend("numba", in_memory, contiguous=True)
NUMPY = Backend("numpy", in_memory, contiguous=False)
BACKENDS = (CUDA, NUMBA, NUMPY)
"""From the first to be asked to the last."""
