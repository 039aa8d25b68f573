"""Pickles of CIFAR's Python version: dictionaries of lists and of arrays of bytes, as NumPy pickled them under Python 2 or 3.

No name in them is imported and nothing is called, so that no file can run code: see `minidat.unpickle`.
"""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np

from minidat.unpickle import Machine, Name, PickleError, kind_of

KNOWN = {
    Name("numpy.core.multiarray", "_reconstruct"),
    Name("numpy._core.multiarray", "_reconstruct"),
    Name("numpy.core.numeric", "_frombuffer"),
    Name("numpy._core.numeric", "_frombuffer"),
    Name("numpy", "ndarray"),
    Name("numpy", "dtype"),
    Name("_codecs", "encode"),
}
"""What pickled arrays and bytes call."""

DTYPE = re.compile(r"[<>|=]?(b1|[iu][1248]|f[248])")
MOST_AXES = 8


class PickledDtype:
    """numpy.dtype(code), with a byte order that follows."""

    def __init__(self, code: Any):
        self.code = text_of(code)

    def __str__(self) -> str:
        return np.dtype(self.code).name if DTYPE.fullmatch(self.code) else "another type"


class PickledArray:
    """An array as the pickle has it, unchecked."""

    def __init__(self, shape: Any = None, dtype: Any = None, fortran: Any = False, data: Any = None):
        self.fill(shape, dtype, fortran, data)

    def fill(self, shape: Any, dtype: Any, fortran: Any, data: Any) -> None:
        self.shape, self.dtype, self.fortran, self.data = shape, dtype, fortran, data

    def __str__(self) -> str:
        fits = isinstance(self.shape, tuple) and len(self.shape) <= MOST_AXES and all(map(_is_size, self.shape))
        if not fits or not isinstance(self.dtype, PickledDtype):
            return "an unreadable array"
        short = str(self.dtype) == "uint8" and not self._is_whole()
        return f"{self.dtype} {self.shape}" + (", whose bytes are not as many" if short else "")

    def _is_whole(self) -> bool:
        return isinstance(self.data, bytes) and len(self.data) == math.prod(self.shape)

    def matrix(self, rows: int, columns: int) -> np.ndarray | None:
        """As uint8 (rows, columns), without a copy where it is in C order; None where it is something else."""
        if str(self) != f"uint8 {(rows, columns)}":
            return None
        flat = np.frombuffer(self.data, np.uint8)
        return flat.reshape(columns, rows).T if self.fortran is True else flat.reshape(rows, columns)


def _is_size(n: Any) -> bool:
    return type(n) is int and 0 <= n < 2**31


class CifarPickle(Machine):
    """Gives the dictionary that was pickled, with a `PickledArray` for every array."""

    def name(self, name: Name) -> Name:
        return name if name in KNOWN else super().name(name)

    def call(self, function: Any, arguments: tuple[Any, ...]) -> Any:
        match function, arguments:
            case Name("numpy", "dtype"), (code, *_):
                return PickledDtype(code)
            case Name(_, "_reconstruct"), (Name("numpy", "ndarray"), *_):
                return PickledArray()
            case Name(_, "_frombuffer"), (bytes(data), dtype, shape, order):  # pickle protocol 5
                return PickledArray(shape, dtype, order == "F", data)
            case Name("_codecs", "encode"), (str(text), "latin1"):  # bytes in pickle protocol 2
                return text.encode("latin-1")
        raise PickleError(
            f"it calls {function if isinstance(function, Name) else kind_of(function)} with unexpected arguments"
        )

    def build(self, thing: Any, state: Any) -> None:
        match thing, state:
            case PickledDtype(), (_, bytes() | str(), *_):
                return  # the byte order, which bytes do not have
            case PickledArray(), (_, shape, dtype, fortran, data):
                thing.fill(shape, dtype, fortran, data)
            case _:
                super().build(thing, state)


def text_of(value: object) -> str:
    """Text of Python 2, which is bytes, or of Python 3. Raises PickleError for another type."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if not isinstance(value, str):
        raise PickleError(f"it has a {kind_of(value)} where text is expected")
    return value
