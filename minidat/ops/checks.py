"""A check that ops share."""

from __future__ import annotations

from typing import Any


def check_floating(name: str, *arrays: Any) -> None:
    """Raises TypeError for an array that is not floating-point, where an op computes in the dtype of its inputs. `name`: the
    op."""
    for i, array in enumerate(arrays):
        if array.dtype.kind != "f":
            raise TypeError(f"{name}: input {i} must be floating-point, got {array.dtype}")
