"""AdamW over the flat buffer of an `Arena`, gradient clipping and the learning rate's schedule, as DAT was trained.

Source: `optimizer.py`, `main.py` and `config.py` of the released code; AdamW is Loshchilov & Hutter (2019),
algorithm 2.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from minidat.autograd.backend import array_module, asnumpy
from minidat.fast.cuda.adamw import ClippedAdamW
from minidat.fast.dispatch import on_gpu
from minidat.training.arena import Arena

Array = Any  # numpy.ndarray or cupy.ndarray

CHUNK = 32_768  # elements: five float32 arrays of 128 KiB each stay in cache from one pass to the next
GPU_CHUNK = 1 << 22  # elements: on a GPU a launch is expensive, and memory traffic does not depend on the size


def _chunk(xp: ModuleType) -> int:
    return CHUNK if xp is np else GPU_CHUNK


def pieces(flat: Array) -> Iterable[slice]:
    """Slices of a flat array in its order, each of a size that suits its device."""
    return _pieces(0, flat.size, _chunk(array_module(flat)))


def _pieces(start: int, stop: int, size: int) -> Iterable[slice]:
    return (slice(i, min(i + size, stop)) for i in range(start, stop, size))


class AdamW:
    """AdamW with weight decay apart from the gradient, over the flat buffer of an `Arena`, in place.

    m ← β₁ m + (1 − β₁) g        v ← β₂ v + (1 − β₂) g²        m̂ = m/(1 − β₁ᵗ)        v̂ = v/(1 − β₂ᵗ)
    θ ← (1 − lr·λ) θ − lr · m̂/(√v̂ + ε)        λ = weight_decay inside `arena.decayed`, 0 elsewhere

    In each of `arena.segments` lr is its share of the rate that a step is given; beyond them nothing moves.

    m, v: flat arrays like `arena.data`. t: the number of steps taken. Defaults are those DAT was trained
    with. Raises ValueError for β outside [0, 1), ε ≤ 0, λ < 0, and where one is not finite.

    fused: the same as three kernels, for arrays on a GPU; None on the CPU. `clipped_step` uses them. A CUDA graph replays
    `fused.step`; before each launch, the host copies `scalars()` to `fused.scalars`.
    """

    def __init__(
        self,
        arena: Arena,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.05,
    ):
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"adamw: betas are {betas}; both must be in [0, 1)")
        if not 0 < eps < math.inf or not 0 <= weight_decay < math.inf:
            raise ValueError(
                f"adamw: eps is {eps} and weight_decay {weight_decay}; they must be > 0 and >= 0, and finite"
            )
        self.arena, self.betas, self.eps, self.weight_decay = arena, betas, eps, weight_decay
        xp = array_module(arena.data)
        self.m, self.v, self.t = xp.zeros_like(arena.data), xp.zeros_like(arena.data), 0
        size = _chunk(xp)
        self.shares = tuple(dict.fromkeys(segment.share for segment in arena.segments))
        self._chunks = [
            (piece, segment) for segment in arena.segments for piece in _pieces(segment.start, segment.stop, size)
        ]
        self._scratch = xp.empty(min(size, arena.data.size), dtype=arena.data.dtype)
        self.fused = (
            ClippedAdamW(arena.data, self.m, self.v, self._launches(), betas=betas) if on_gpu(arena.data) else None
        )

    def _launches(self) -> list[tuple[slice, int, int]]:
        """(elements, how many of them, the first ones, decay, which of `shares` is theirs): one where all have the same."""
        segments = self.arena.segments
        if len(self.shares) == 1:
            return [(slice(0, segments[-1].stop), self.arena.decayed.stop, 0)]
        return [
            (slice(each.start, each.stop), each.decays * (each.stop - each.start), self.shares.index(each.share))
            for each in segments
        ]

    def clipped_step(self, grad: Array, lr: float, max_norm: float) -> float | Array:
        """`clip_by_norm`, then a step, unless the norm is not finite. Returns the norm before clipping.

        On a GPU nothing is copied to the host, and the norm is a 0-d array there. From the first norm on that is not finite,
        the parameters stay as they are; `fused.bad_step()` gives that step.
        """
        if self.fused is None:
            norm = clip_by_norm(grad, max_norm)
            if math.isfinite(norm):
                self.step(grad, lr)
            return norm
        self._check(grad)
        self.fused.scalars[...] = array_module(grad).asarray(self.scalars(lr, max_norm))
        self.fused.step(grad)
        return self.fused.norm

    def scalars(self, lr: float, max_norm: float) -> np.ndarray:
        """[rate, floor, kept, max_norm] of the next step, which is counted, for each of `shares` in turn: an array of NumPy's
        in the parameters' dtype."""
        found = self._coefficients(lr)
        return np.array([number for each in found.values() for number in (*each, max_norm)], self.arena.data.dtype)

    def step(self, grad: Array, lr: float) -> None:
        """One step with gradient `grad`, an array like `arena.data`. Does not change `grad`; allocates nothing."""
        self._check(grad)
        xp, (b1, b2) = array_module(grad), self.betas
        coefficients = self._coefficients(lr)
        for piece, segment in self._chunks:
            rate, floor, kept = coefficients[segment.share]
            g, m, v, p = grad[piece], self.m[piece], self.v[piece], self.arena.data[piece]
            a = self._scratch[: g.size]
            xp.multiply(g, 1 - b1, out=a)
            m *= b1
            m += a
            xp.multiply(g, g, out=a)
            a *= 1 - b2
            v *= b2
            v += a
            xp.sqrt(v, out=a)
            a += floor
            xp.divide(m, a, out=a)
            a *= rate
            if segment.decays:
                p *= kept
            p -= a

    def _check(self, grad: Array) -> None:
        if grad.shape != self.arena.data.shape:
            raise ValueError(f"adamw: gradient has shape {grad.shape}, the parameters {self.arena.data.shape}")

    def _coefficients(self, lr: float) -> dict[float, tuple[float, float, float]]:
        """{share: (rate, floor, kept)} of the next step, which is counted: θ ← kept·θ − rate·m/(√v + floor)."""
        self.t += 1
        (b1, b2), lr = self.betas, float(lr)  # with a float64 scalar of NumPy the passes would run in float64
        root = (1 - b2**self.t) ** 0.5
        rate = lr * root / (1 - b1**self.t)  # m̂/(√v̂ + ε) = m·root/(1 − β₁ᵗ)/(√v + ε·root): one pass fewer
        return {s: (s * rate, self.eps * root, 1 - s * lr * self.weight_decay) for s in self.shares}

    def state(self) -> dict[str, Array]:
        """What a resumed run needs: m and v, the arrays themselves, no copies, and t, a 0-d int64."""
        return {"m": self.m, "v": self.v, "t": np.array(self.t, dtype=np.int64)}

    def load_state(self, state: Mapping[str, Array]) -> None:
        """Take over a copy of a `state()`, its arrays from NumPy or from the device. Raises ValueError, and
        changes nothing, where a name, a shape or a dtype is not that of this optimiser."""
        if set(state) != {"m", "v", "t"}:
            raise ValueError(f"adamw: state has {sorted(state)}; it must have m, t and v")
        for name in ("m", "v"):
            found, own = state[name], self.arena.data
            if found.shape != own.shape or found.dtype != own.dtype:
                raise ValueError(
                    f"adamw: state {name!r} is {found.dtype} {found.shape}, the parameters are {own.dtype} {own.shape}"
                )
        t = asnumpy(state["t"])
        if t.shape != () or t.dtype.kind not in "iu" or t < 0:
            raise ValueError(f"adamw: state 't' is {t!r}; it must be one whole number, the steps taken")
        xp = array_module(self.m)
        self.m[...], self.v[...], self.t = xp.asarray(state["m"]), xp.asarray(state["v"]), int(t)
        if self.fused is not None:
            self.fused.restart(self.t)


def clip_by_norm(grad: Array, max_norm: float) -> float:
    """Scale `grad`, a flat array, in place to a Euclidean norm of at most max_norm. Returns the norm before.

    The norm is summed in float64, so squares of float32 neither overflow nor vanish. A norm that is not
    finite is returned and the gradient left alone: the caller should stop. max_norm: > 0; `math.inf` measures
    without clipping. Raises ValueError otherwise.
    """
    if not max_norm > 0:
        raise ValueError(f"clip_by_norm: max_norm is {max_norm}; it must be > 0")
    norm = _norm(grad)
    if math.isfinite(norm) and norm > max_norm:
        grad *= max_norm / norm
    return norm


def _norm(flat: Array) -> float:
    xp = array_module(flat)
    total = 0.0
    for piece in pieces(flat):
        wide = flat[piece].astype(xp.float64)
        total = total + wide @ wide  # stays on the device: one wait at the end
    return math.sqrt(float(total))


@dataclass(frozen=True)
class Schedule:
    """The learning rate at each step: a straight line up, then a cosine down.

    lr(t) = warmup_start + (base − warmup_start)·t/warmup                     for t < warmup
    lr(t) = minimum + (base − minimum)·(1 + cos(π t/total))/2                 for warmup ≤ t < total
    lr(t) = minimum                                                           after that

    As in the released code the cosine counts t from 0, the warm-up's steps included, so at t = warmup the
    rate drops from the line's end to a cosine that has been falling all the while: by 1.1 % of
    base − minimum in DAT's 20 of 300 epochs.

    total, warmup: steps. base, warmup_start, minimum: learning rates.

    Raises ValueError unless 0 ≤ warmup < total, 0 ≤ warmup_start ≤ base, 0 ≤ minimum ≤ base and 0 < base < ∞.
    """

    base: float
    total: int
    warmup: int = 0
    warmup_start: float = 0.0
    minimum: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.base < math.inf:
            raise ValueError(f"schedule: base is {self.base}; it must be > 0 and finite")
        if not self.total >= 1:
            raise ValueError(f"schedule: total is {self.total} steps; it must be at least 1")
        if not 0 <= self.warmup < self.total:
            raise ValueError(f"schedule: warmup is {self.warmup} of {self.total} steps; it must be in [0, total)")
        for name in ("warmup_start", "minimum"):
            if not 0 <= getattr(self, name) <= self.base:
                raise ValueError(
                    f"schedule: {name} is {getattr(self, name)}; it must be between 0 and base, {self.base}"
                )

    def __call__(self, step: int) -> float:
        """The rate for the step that follows `step` steps. Raises ValueError for step < 0."""
        if step < 0:
            raise ValueError(f"schedule: step is {step}; it must be >= 0")
        if step < self.warmup:
            return self.warmup_start + (self.base - self.warmup_start) * step / self.warmup
        if step >= self.total:
            return self.minimum
        return self.minimum + (self.base - self.minimum) * (1 + math.cos(math.pi * step / self.total)) / 2
