"""Heads and groups: channels cut into equal parts, each with its own attention or its own sampling points."""

from __future__ import annotations

from typing import Any

from minidat.ops.checks import check_whole


def split_heads(x: Any, heads: int) -> Any:
    """(…, n, M·d) → (…, M, n, d), of an array (a view) or a Tensor: channel c belongs to head c // d."""
    x = x.reshape(*x.shape[:-1], heads, x.shape[-1] // heads)
    return x.transpose(*_heads_and_tokens_swapped(x.ndim))


def merge_heads(x: Any) -> Any:
    """(…, M, n, d) → (…, n, M·d): Concat(z⁽¹⁾, …, z⁽ᴹ⁾), of an array or a Tensor."""
    x = x.transpose(*_heads_and_tokens_swapped(x.ndim))
    return x.reshape(*x.shape[:-2], x.shape[-2] * x.shape[-1])


def _heads_and_tokens_swapped(axes: int) -> tuple[int, ...]:
    return (*range(axes - 3), axes - 2, axes - 3, axes - 1)


def check_heads(name: str, dim: int, heads: int) -> None:
    """Raises ValueError when there is no head, or when heads do not divide the channels. `name`: who asks."""
    check_whole(name, heads=heads)
    if dim < 1 or dim % heads:
        raise ValueError(f"{name}: dim {dim} cannot be cut into {heads} heads; heads must divide it")
