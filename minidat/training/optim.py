"""AdamW over one flat buffer, gradient clipping and the learning rate's schedule, as DAT was trained.

Source: `optimizer.py`, `main.py` and `config.py` of the released code; AdamW is Loshchilov & Hutter (2019),
algorithm 2.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from minidat.autograd.backend import array_module, asnumpy
from minidat.fast.cuda.adamw import ClippedAdamW
from minidat.fast.dispatch import on_gpu

if TYPE_CHECKING:
    from minidat.autograd.engine import Tensor

Array = Any  # numpy.ndarray or cupy.ndarray

CHUNK = 32_768  # elements: five float32 arrays of 128 KiB each stay in cache from one pass to the next
GPU_CHUNK = 1 << 22  # elements: on a GPU a launch is expensive, and memory traffic does not depend on the size


def decays(name: str, shape: tuple[int, ...]) -> bool:
    """Whether weight decay pulls this parameter towards zero. `name` is dotted: "stages.2.mlp.up.weight".

    The released code's rule: no decay for what has one axis (biases, layer norms' scales and shifts) or none, for
    names that end in `bias`, and for what encodes positions in a D, L or S block: here `table`, and the depthwise
    convolution `local` that may stand in its place (released under the table's name, so its rule meets it too). The
    table `rpb` of neighborhood attention has another name there and three axes, so it does decay.
    """
    last = name.rpartition(".")[2]
    return len(shape) > 1 and last not in ("bias", "table") and not name.endswith(".local.weight")


class Segment(NamedTuple):
    """Elements start … stop − 1 of a flat array: whether weight decay acts on them, and their share of the learning rate."""

    start: int
    stop: int
    decays: bool
    share: float


class Arena:
    """All parameters in one flat array, which an optimiser, a norm or a collective passes over once.

    data: flat array of as many elements as all parameters have. Every `tensor.data` becomes a view of it, so
        a change of either is a change of both; a later assignment to `tensor.data` would undo that.
    names, tensors, shapes, slices: of the parameters, in the order given; slices say where in `data` they lie.
    segments: `data` from its start to where frozen parameters begin, in parts of equal treatment: those that weight decay
        acts on first, then the others, both with the largest rates first, and in the order given.
    decayed: the slice of `data` that weight decay acts on.

    rates: a parameter's share of the learning rate; 1 where none is given. Those with 0 are frozen: no optimiser touches
    them, and where a backward pass leaves them out, their gradient here is zeros. The model must be on its device already.
    Raises ValueError where there is no parameter, where two differ in dtype or are one tensor under two names, and where
    one is not of floating point.
    """

    def __init__(self, parameters: Mapping[str, Tensor], rates: Mapping[str, float] | None = None):
        _check_parameters(parameters)
        self.names, self.tensors = tuple(parameters), tuple(parameters.values())
        arrays = [tensor.data for tensor in self.tensors]
        self.shapes = tuple(tuple(array.shape) for array in arrays)
        shares = [1.0 if rates is None else rates.get(name, 1.0) for name in self.names]
        self.slices, self.segments = _layout(self.names, self.shapes, shares)
        self.decayed = slice(0, max((each.stop for each in self.segments if each.decays), default=0))
        size = sum(array.size for array in arrays)
        self.data = array_module(*arrays).empty(size, dtype=arrays[0].dtype)
        self.flatten(arrays, self.data)
        for tensor, view in zip(parameters.values(), self.views(self.data).values(), strict=True):
            tensor.data = view

    def views(self, flat: Array) -> dict[str, Array]:
        """Each parameter's part of `flat`, an array like `data`, in the parameter's shape: no copies."""
        if flat.shape != self.data.shape:
            raise ValueError(f"arena: flat array has shape {flat.shape}, the parameters need {self.data.shape}")
        return {n: flat[s].reshape(shape) for n, s, shape in zip(self.names, self.slices, self.shapes, strict=True)}

    def flatten(self, arrays: Sequence[Array | None], out: Array, accumulate: bool = False) -> None:
        """Write arrays, one a parameter in the order of `names`, to their places in `out`, like `data`.

        None stands for zeros. accumulate: add to what `out` holds instead of replacing it. Raises ValueError
        for another number of arrays or another shape.
        """
        if len(arrays) != len(self.names):
            raise ValueError(f"arena: {len(arrays)} arrays for {len(self.names)} parameters")
        xp = array_module(out)
        for (name, view), array in zip(self.views(out).items(), arrays, strict=True):
            if array is not None and array.shape != view.shape:
                raise ValueError(f"arena: array for {name!r} has shape {array.shape}, the parameter {view.shape}")
            if accumulate and array is not None:
                xp.add(view, array, out=view)
            elif not accumulate:
                view[...] = 0 if array is None else array


def _check_parameters(parameters: Mapping[str, Tensor]) -> None:
    if not parameters:
        raise ValueError("arena: there are no parameters")
    first, like = next(iter(parameters.items()))
    owner: dict[int, str] = {}
    for name, tensor in parameters.items():
        if tensor.data.dtype.kind != "f":
            raise ValueError(f"arena: parameter {name!r} is {tensor.data.dtype}; it must be of floating point")
        if tensor.data.dtype != like.data.dtype:
            raise ValueError(
                f"arena: parameter {name!r} is {tensor.data.dtype}, {first!r} is {like.data.dtype}; "
                "all must have one dtype"
            )
        if id(tensor) in owner:
            raise ValueError(f"arena: {owner[id(tensor)]!r} and {name!r} are one tensor; give it one name")
        owner[id(tensor)] = name


def _layout(
    names: Sequence[str], shapes: Sequence[tuple[int, ...]], shares: Sequence[float]
) -> tuple[tuple[slice, ...], tuple[Segment, ...]]:
    """Where each parameter lies; and the segments, in their order."""
    decayed = [decays(name, shape) for name, shape in zip(names, shapes, strict=True)]
    slices: list[slice] = [slice(0)] * len(names)
    segments: list[Segment] = []
    start = 0
    for i in sorted(range(len(names)), key=lambda i: (shares[i] == 0, not decayed[i], -shares[i])):  # sorted is stable
        slices[i] = slice(start, start + math.prod(shapes[i]))
        segment = Segment(start, slices[i].stop, decayed[i], shares[i])
        if segments and (segments[-1].decays, segments[-1].share) == (segment.decays, segment.share):
            segments[-1] = segments[-1]._replace(stop=segment.stop)
        elif segment.share:
            segments.append(segment)
        start = segment.stop
    return tuple(slices), tuple(segments)


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
