"""Heads and groups: channels cut into equal parts, each with its own attention or its own sampling points."""

from __future__ import annotations

from typing import Any


def split_heads(x: Any, heads: int) -> Any:
    """(…, n, M·d) → (…, M, n, d). A view: channel c belongs to head c // d."""
    return x.reshape(*x.shape[:-1], heads, x.shape[-1] // heads).swapaxes(-2, -3)


def merge_heads(x: Any) -> Any:
    """(…, M, n, d) → (…, n, M·d): Concat(z⁽¹⁾, …, z⁽ᴹ⁾)."""
    x = x.swapaxes(-2, -3)
    return x.reshape(*x.shape[:-2], x.shape[-2] * x.shape[-1])


def check_heads(name: str, dim: int, heads: int) -> None:
    """Raises ValueError when there is no head, or when heads do not divide the channels. `name`: who asks."""
    if heads < 1:
        raise ValueError(f"{name}: heads is {heads}; it must be at least 1")
    if dim % heads:
        raise ValueError(f"{name}: dim {dim} cannot be cut into {heads} heads; heads must divide it")
