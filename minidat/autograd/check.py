"""Is a vjp right? Finite differences and adjoint checks of raw ops, with reports that say where and by how much.

A cotangent of ones proves nothing: the vjp of ones is exactly 0 for softmax and layer norm. So both the cotangent and the
direction are random here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from minidat.autograd.backend import asnumpy, like

Raw = Callable[..., tuple[Any, Callable[[Any], tuple[Any, ...]]]]


class GradientError(AssertionError):
    """A vjp disagrees with finite differences, or with the adjoint identity."""


def check_gradient(
    raw: Raw,
    arrays: Sequence[Any],
    *,
    rng: np.random.Generator,
    names: Sequence[str] | None = None,
    step: float = 1e-6,
    tolerance: float = 1e-6,
    directions: int = 2,
    wrt: Sequence[int] | None = None,
    **options: Any,
) -> float:
    """Compare ⟨dy, J v⟩, by central differences, with ⟨vjp(dy), v⟩ for random dy and v, one input at a time.

    `arrays`: float64 inputs (others are constants). `wrt`: the inputs to check; by default each floating one whose
    gradient is not None. Returns the largest error relative to max(1, |⟨dy, J v⟩|). Raises GradientError with the worst
    element, found by going through the input one element at a time, and ValueError where no input is float64.
    """
    y, vjp = raw(*arrays, **options)
    dy = like(rng.standard_normal(y.shape), y)
    dxs = vjp(dy)
    if len(dxs) != len(arrays):
        raise GradientError(f"vjp gives {len(dxs)} gradients for {len(arrays)} inputs")
    chosen = range(len(arrays)) if wrt is None else wrt
    if not any(getattr(arrays[i], "dtype", None) == np.float64 for i in chosen):
        raise ValueError("check_gradient: none of these inputs is float64, so nothing would be checked")
    worst = 0.0
    for i in chosen:
        x, dx = arrays[i], dxs[i]
        if x is None or getattr(x, "dtype", None) != np.float64 or (dx is None and wrt is None):
            continue
        label = names[i] if names else f"input {i}"
        if getattr(dx, "shape", None) != x.shape:
            raise GradientError(f"d{label} has shape {getattr(dx, 'shape', None)}, {label} has {x.shape}")
        for _ in range(directions):
            v = like(rng.standard_normal(x.shape), x)
            numeric = _slope(raw, arrays, i, v, dy, step, options)
            error = abs(numeric - float((dx * v).sum())) / max(1.0, abs(numeric))
            if not error <= tolerance:
                raise GradientError(_report(raw, arrays, i, dx, dy, step, options, label, error))
            worst = max(worst, error)
    return worst


def check_adjoint(raw: Raw, arrays: Sequence[Any], i: int, *, rng: np.random.Generator, **options: Any) -> float:
    """For an op that is linear in input i: ⟨dy, f(x)⟩ = ⟨vjp(dy), x⟩ exactly, so to 1e-12 relative. Returns the error."""
    x = like(rng.standard_normal(arrays[i].shape), arrays[i])
    y, vjp = raw(*(x if j == i else a for j, a in enumerate(arrays)), **options)
    zero, _ = raw(*(x * 0 if j == i else a for j, a in enumerate(arrays)), **options)
    dy = like(rng.standard_normal(y.shape), y)
    left, right = float((dy * (y - zero)).sum()), float((vjp(dy)[i] * x).sum())
    scale = float((abs(dy * y)).sum()) + 1e-30
    error = abs(left - right) / scale
    if not error <= 1e-12:
        raise GradientError(f"input {i}: ⟨dy, f(x)⟩ = {left:.15g} but ⟨vjp(dy), x⟩ = {right:.15g}")
    return error


def numeric_gradient(
    raw: Raw, arrays: Sequence[Any], i: int, dy: Any, *, step: float = 1e-6, **options: Any
) -> np.ndarray:
    """∂⟨dy, f⟩/∂(input i), element by element: slow, and readable beside a derivation."""
    out = np.zeros(arrays[i].shape)
    for index in np.ndindex(*out.shape):
        v = np.zeros(out.shape)
        v[index] = 1.0
        out[index] = _slope(raw, arrays, i, like(v, arrays[i]), dy, step, options)
    return out


def _slope(raw: Raw, arrays: Sequence[Any], i: int, v: Any, dy: Any, step: float, options: dict) -> float:
    """⟨dy, (f(x + εv) − f(x − εv)) / 2ε⟩"""
    up, _ = raw(*(a + step * v if j == i else a for j, a in enumerate(arrays)), **options)
    down, _ = raw(*(a - step * v if j == i else a for j, a in enumerate(arrays)), **options)
    return float((dy * (up - down)).sum()) / (2 * step)


def _report(raw, arrays, i, dx, dy, step, options, label, error) -> str:
    if arrays[i].size > 4096:
        return (
            f"d{label}: off by {error:.1e} along a random direction ({arrays[i].size} elements: too many to go through)"
        )
    numeric = numeric_gradient(raw, arrays, i, dy, step=step, **options)
    yours = asnumpy(dx)
    at = np.unravel_index(np.argmax(abs(yours - numeric)), numeric.shape)
    where = ", ".join(map(str, at))
    hint = " (sign?)" if np.isclose(yours[at], -numeric[at], rtol=1e-3) and abs(numeric[at]) > 1e-3 else ""
    return f"d{label}[{where}]: yours {yours[at]:+.6g}, finite differences {numeric[at]:+.6g}{hint}"
