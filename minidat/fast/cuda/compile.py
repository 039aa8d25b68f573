"""The `.cu` files of this folder: compiled for a dtype when first used, and launched."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from minidat.autograd.backend import array_module

FOLDER = Path(__file__).parent
REALS = {"float32": "float", "float64": "double"}
WARP = 32  # threads that execute together


def blocks(count: int, size: int) -> int:
    """How many blocks of `size` cover `count`: ⌈count/size⌉."""
    return -(-count // size)


def source(file: str) -> str:
    """What is compiled of a `.cu` file: its text in ASCII, since CuPy writes it to a file in the locale's encoding. Other
    characters, which only comments have, become "?"."""
    return text(file).encode("ascii", "replace").decode()


def text(file: str) -> str:
    """The text of a `.cu` file, with the files that it includes in their places: NVRTC does not know this folder."""
    own = (FOLDER / file).read_text("utf-8")
    return re.sub(r'^#include "(.+)"$', lambda included: text(included[1]), own, flags=re.MULTILINE)


def kernels(file: str, like: Any, **constants: int) -> Kernels:
    """The kernels of a `.cu` file, on the device of the array `like` and with its dtype, float32 or float64, for REAL.
    constants: numbers for names that the file leaves open."""
    return _compiled(array_module(like), file, like.dtype.name, tuple(constants.items()))


@cache
def _compiled(xp: ModuleType, file: str, dtype: str, constants: tuple[tuple[str, int], ...]) -> Kernels:
    return Kernels(xp, file, dtype, constants)


class Kernels:
    """The kernels of one `.cu` file, with REAL as float or double. CuPy compiles them for each device and caches the results on
    disk."""

    def __init__(self, xp: ModuleType, file: str, dtype: str, constants: tuple[tuple[str, int], ...] = ()):
        self.real = np.dtype(dtype).type
        options = f"-DREAL={REALS[dtype]}", *(f"-D{name}={value}" for name, value in constants)
        self._module = xp.RawModule(code=source(file), options=options)
        self._functions: dict[str, Callable[..., None]] = {}

    def launch(self, name: str, grid: int | tuple[int, ...], block: int | tuple[int, ...], *arguments: Any) -> None:
        """Run a kernel on `grid` blocks of `block` threads. An int becomes an `int`, a float a REAL, an array a pointer.

        Raises ValueError for an array that is not C-contiguous, OverflowError for an int that 32 bits do not hold.
        """
        function = self._functions.get(name)
        if function is None:
            function = self._functions[name] = self._module.get_function(name)
        grid, block = (size if isinstance(size, tuple) else (size,) for size in (grid, block))
        function(grid, block, tuple(self._argument(name, i, value) for i, value in enumerate(arguments)))

    def _argument(self, name: str, i: int, value: Any) -> Any:
        if isinstance(value, int):
            if not -(2**31) <= value < 2**31:
                raise OverflowError(f"kernel {name!r}: argument {i} is {value}; an int has 32 bits")
            return np.int32(value)
        if isinstance(value, float):
            return self.real(value)
        if not value.flags.c_contiguous:
            raise ValueError(f"kernel {name!r}: argument {i} of shape {value.shape} is not C-contiguous")
        return value
