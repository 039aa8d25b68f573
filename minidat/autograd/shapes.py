"""Signature strings such as "... n d, ... m d -> ... n m": the shapes of an op in words, checked where a user enters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

PRIMES = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47)


@dataclass(frozen=True)
class Axes:
    """One array of a signature: its axis names after an optional leading "..."; `optional` ones may be None."""

    names: tuple[str, ...]
    ellipsis: bool
    optional: bool


@dataclass(frozen=True)
class Signature:
    """A parsed signature. `variadic`: the last input may be repeated."""

    text: str
    inputs: tuple[Axes, ...]
    output: Axes
    variadic: bool

    def check(self, op: str, arrays: tuple[Any, ...]) -> dict[str, int]:
        """Bind every axis name to a size. Raises ValueError that names op, axis, sizes and shapes where they disagree."""
        specs = self._matched(op, arrays)
        bound: dict[str, tuple[int, int]] = {}  # axis → (size, the input that fixed it)
        for i, (axes, array) in enumerate(zip(specs, arrays, strict=True)):
            if array is None:
                if not axes.optional:
                    raise ValueError(f"{op}: input {i} is None, but it is needed; signature {self.text}")
                continue
            shape = getattr(array, "shape", ())  # a Python number has no axes
            self._check_rank(op, i, axes, shape)
            for name, size in zip(axes.names, shape[len(shape) - len(axes.names) :], strict=True):
                fixed = (int(name), -1) if name.isdigit() else bound.setdefault(name, (size, i))
                if fixed[0] != size:
                    where = "the signature" if fixed[1] < 0 else f"input {fixed[1]}"
                    raise ValueError(
                        f"{op}: axis '{name}' is {size} in input {i} {shape} but {fixed[0]} in {where}; signature {self.text}"
                    )
        return {name: size for name, (size, _) in bound.items()}

    def _matched(self, op: str, arrays: tuple[Any, ...]) -> tuple[Axes, ...]:
        if self.variadic and len(arrays) >= len(self.inputs):
            return self.inputs + self.inputs[-1:] * (len(arrays) - len(self.inputs))
        if len(arrays) != len(self.inputs):
            raise ValueError(f"{op}: takes {len(self.inputs)} arrays, got {len(arrays)}; signature {self.text}")
        return self.inputs

    def _check_rank(self, op: str, i: int, axes: Axes, shape: tuple[int, ...]) -> None:
        wanted, has = len(axes.names), len(shape)
        if has < wanted or (has > wanted and not axes.ellipsis):
            least = "at least " if axes.ellipsis else ""
            raise ValueError(
                f"{op}: input {i} has {has} axes {shape}, expected {least}{wanted} ({' '.join(axes.names)}); "
                f"signature {self.text}"
            )

    def example(self, leading: tuple[int, ...] = (2, 3), **sizes: int) -> list[tuple[int, ...]]:
        """Shapes for test data: every axis a different prime unless `sizes` names it, so that a swapped axis cannot hide."""
        names = dict.fromkeys(n for axes in self.inputs for n in axes.names if not n.isdigit())
        unused = iter(p for p in PRIMES if p not in leading and p not in sizes.values())
        value = {name: sizes[name] if name in sizes else next(unused) for name in names}
        return [
            (leading if axes.ellipsis else ()) + tuple(int(n) if n.isdigit() else value[n] for n in axes.names)
            for axes in self.inputs
        ]


def parse(text: str) -> Signature:
    """Parse "a b, b c -> a c". A "?" ends an optional array, a "*" ends a last array that may be repeated."""
    left, arrow, right = text.partition("->")
    if not arrow:
        raise ValueError(f"signature {text!r} has no '->'")
    parts = [part.strip() for part in left.split(",")]
    variadic = parts[-1].endswith("*")
    parts[-1] = parts[-1].removesuffix("*")
    return Signature(text, tuple(map(_axes, parts)), _axes(right.strip()), variadic)


def _axes(text: str) -> Axes:
    words = text.removesuffix("?").split()
    ellipsis = words[:1] == ["..."]
    return Axes(tuple(words[ellipsis:]), ellipsis, text.endswith("?"))
