"""What is wrong with an array, in one line: where, by how much, and which slip of the pen would explain it."""

from __future__ import annotations

from typing import Any

import numpy as np

TOLERANCE = 1e-6  # relative to max(1, |expected|): finite differences are good to some 1e-9


def number(value: float, digits: int = 3) -> str:
    """+0.412 or −3e-10, with a real minus."""
    return f"{value + 0.0:+.{digits}g}".replace("-", "−").replace("e−", "e-")  # + 0.0: no minus zero


def distance(yours: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """|yours − expected| / max(1, |expected|), element by element."""
    return np.abs(yours - expected) / np.maximum(1.0, np.abs(expected))


def agrees(yours: np.ndarray, expected: np.ndarray, tolerance: float = TOLERANCE) -> bool:
    """The same shape, and the same numbers to the tolerance."""
    return yours.shape == expected.shape and bool((distance(yours, expected) <= tolerance).all())


def difference(
    name: str, yours: Any, expected: np.ndarray, *, against: str, tolerance: float = TOLERANCE
) -> str | None:
    """None where the two agree, else a line such as

    dpoints[..., 0]: yours +0.412, finite differences −0.412 (sign?)

    against: what `expected` is called in that line.
    """
    try:
        yours = np.asarray(yours, dtype=np.float64)
    except (TypeError, ValueError):
        return f"{name} is of type {type(yours).__name__}, but an array of shape {expected.shape} is asked for"
    if yours.shape != expected.shape:
        hint = " (transposed?)" if yours.ndim > 1 and yours.shape == expected.shape[::-1] else ""
        return f"{name} has shape {yours.shape}, but {expected.shape} is asked for{hint}"
    if not np.isfinite(yours).all():
        at = tuple(int(i) for i in np.argwhere(~np.isfinite(yours))[0])
        return f"{_element(name, at)} is {yours[at]}, {against} {number(float(expected[at]))}"
    error = distance(yours, expected)
    wrong = error > tolerance
    if not wrong.any():
        return None
    at = tuple(int(i) for i in np.unravel_index(np.argmax(error), error.shape))
    pair = float(yours[at]), float(expected[at])
    digits = next(d for d in (3, 6, 12, 17) if number(pair[0], d) != number(pair[1], d))  # as many as tell them apart
    values = f"yours {number(pair[0], digits)}, {against} {number(pair[1], digits)}"
    return f"{_place(name, wrong, at)}: {values}{_slip(yours, expected, wrong, tolerance)}"


def _element(name: str, at: tuple[int, ...]) -> str:
    return f"{name}[{', '.join(map(str, at))}]" if at else name


def _place(name: str, wrong: np.ndarray, at: tuple[int, ...]) -> str:
    """The worst element, or the one column that all wrong ones are in."""
    if wrong.ndim > 1:
        columns = {int(index[-1]) for index in np.argwhere(wrong)}
        if len(columns) == 1 and wrong.shape[-1] > 1 and wrong.sum() > 1:
            return f"{name}[..., {at[-1]}]"
    return _element(name, at)


def _slip(yours: np.ndarray, expected: np.ndarray, wrong: np.ndarray, tolerance: float) -> str:
    """The slip that explains every wrong element, or how many there are."""
    y, e = yours[wrong], expected[wrong]
    if agrees(-y, e, tolerance):
        return " (sign?)"
    if yours.ndim and yours.shape[-1] == 2 and agrees(yours[..., ::-1], expected, tolerance):
        return " (row and col swapped?)"
    if yours.ndim > 1 and agrees(yours.swapaxes(-1, -2), expected, tolerance):
        return " (transposed?)"
    if not y.any():
        return " (zero there: is a term missing?)"
    factor = float(y @ e) / float(e @ e) if (abs(e) > tolerance).any() else 0.0  # nothing is a multiple of zero
    if factor and y.size > 1 and agrees(y / factor, e, tolerance):
        return f" (all of it × {factor:.4g}: a factor?)".replace("-", "−")
    shift = float((y - e).mean())
    if y.size > 1 and agrees(y - shift, e, tolerance):
        return f" (all of it {number(shift)}: a term?)"
    return f" ({wrong.sum()} of {wrong.size} elements differ)" if wrong.size > 1 else ""
