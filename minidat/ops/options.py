"""Checks of the options of ops and modules."""

from __future__ import annotations

from numbers import Integral
from typing import Any


def check_whole(name: str, least: int = 1, **options: Any) -> None:
    """Raises ValueError for an option that is no whole number of at least `least`. `name`: the op or class that has it."""
    for option, value in options.items():
        if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
            raise ValueError(f"{name}: {option} is {value!r}; it must be a whole number of at least {least}")
