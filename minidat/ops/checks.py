"""Checks that ops and modules share."""

from __future__ import annotations

from numbers import Integral
from typing import Any


def check_floating(name: str, *arrays: Any) -> None:
    """Raises TypeError for an array that is not floating-point, where an op computes in the dtype of its inputs. `name`: the
    op."""
    for i, array in enumerate(arrays):
        if array.dtype.kind != "f":
            raise TypeError(f"{name}: input {i} must be floating-point, got {array.dtype}")


def check_same_shape(name: str, x: tuple[int, ...], other: tuple[int, ...]) -> None:
    """Raises ValueError where the second input has not the shape that goes with the first. `name`: the op."""
    if other != x:
        raise ValueError(f"{name}: input 1 has shape {other}; with this input 0 it must be {x}")


def check_whole(name: str, least: int = 1, **options: Any) -> None:
    """Raises ValueError for an option that is no whole number of at least `least`. `name`: the op or class that has it."""
    for option, value in options.items():
        if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
            raise ValueError(f"{name}: {option} is {value!r}; it must be a whole number of at least {least}")
