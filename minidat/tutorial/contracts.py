"""What an answer is held to. A right answer passes however it is written: only its numbers are looked at.

A contract judges a function: it returns the largest error or None, or raises NotAttempted or Wrong with the line to show.
"""

from __future__ import annotations

import dis
import inspect
import linecache
import re
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, Protocol

import numpy as np

from minidat.autograd.check import numeric_gradient
from minidat.tutorial.diagnosis import TOLERANCE, agrees, difference, distance

Make = Callable[[np.random.Generator], Sequence[Any]]
DRAWS = 3  # inputs that an answer is tried on


class NotAttempted(Exception):
    """The answer is still the stub."""


class Wrong(Exception):
    """The answer is not right; the message says where."""


class Contract(Protocol):
    """Judges an answer: returns its largest error (None where there is none to tell), or raises NotAttempted or Wrong."""

    def judge(self, answer: Callable) -> float | None: ...


@dataclass(frozen=True)
class Value:
    """answer(*inputs) = reference(*inputs) on random inputs.

    inputs: rng → the arguments. names: of the results, one each. mistakes: what to say → the function that makes that
    mistake, for slips that numbers alone do not tell.
    """

    reference: Callable
    inputs: Make
    names: Sequence[str] = ("result",)
    mistakes: Mapping[str, Callable] = field(default_factory=dict)
    tolerance: float = TOLERANCE

    def judge(self, answer: Callable) -> float:
        worst = 0.0
        for rng in _generators():
            inputs = self.inputs(rng)
            got = results(call(answer, inputs), self.names)
            expected = results(self.reference(*inputs), self.names)
            known = {text: results(wrong(*inputs), self.names) for text, wrong in self.mistakes.items()}
            worst = max(worst, compare(got, expected, self.names, "expected", known, self.tolerance))
        return worst


@dataclass(frozen=True)
class Gradient:
    """answer(dy, *inputs) = the gradients of ⟨dy, forward(*inputs)⟩, by finite differences with a random dy.

    names: one for each input, None for an input that has no gradient. mistakes: as in `Value`, functions of (dy, *inputs).
    """

    forward: Callable
    inputs: Make
    names: Sequence[str | None]
    mistakes: Mapping[str, Callable] = field(default_factory=dict)

    def judge(self, answer: Callable) -> float:
        worst, names = 0.0, [name for name in self.names if name]
        for rng in _generators():
            inputs = self.inputs(rng)
            dy = rng.standard_normal(np.shape(self.forward(*inputs)))
            got = results(call(answer, (dy, *inputs)), names)
            known = {text: results(wrong(dy, *inputs), names) for text, wrong in self.mistakes.items()}
            known["dy is not used: this is the gradient for a cotangent of ones"] = self._numeric(
                inputs, np.ones_like(dy)
            )
            worst = max(worst, compare(got, self._numeric(inputs, dy), names, "finite differences", known))
        return worst

    def _numeric(self, inputs: Sequence[Any], dy: np.ndarray) -> list[np.ndarray]:
        def raw(*arrays: Any):
            return self.forward(*arrays), None

        return [numeric_gradient(raw, inputs, i, dy) for i, name in enumerate(self.names) if name]


@dataclass(frozen=True)
class Op:
    """answer(*inputs) = (y, vjp): y is forward(*inputs), and vjp(dy) its gradients, by finite differences.

    names: one for each input, None for an input that has no gradient.
    """

    forward: Callable
    inputs: Make
    names: Sequence[str | None]
    mistakes: Mapping[str, Callable] = field(default_factory=dict)

    def judge(self, answer: Callable) -> float:
        @wraps(answer)
        def value(*inputs: Any):
            return _pair(answer, answer(*inputs))[0]

        @wraps(answer)
        def gradient(dy: np.ndarray, *inputs: Any):
            return _pair(answer, answer(*inputs))[1](dy)

        error = Value(self.forward, self.inputs, ("y",)).judge(value)
        return max(error, Gradient(self.forward, self.inputs, self.names, self.mistakes).judge(gradient))


@dataclass(frozen=True)
class All:
    """Every one of several contracts, in their order: the first that is broken is reported."""

    contracts: Sequence[Contract]

    def judge(self, answer: Callable) -> float:
        return max(contract.judge(answer) or 0.0 for contract in self.contracts)


@dataclass(frozen=True)
class Behaviour:
    """For what is no formula. trial(answer): returns an error or None, or raises Wrong or NotAttempted.

    The trial calls the answer through `call`, so that an exception in it is reported as the reader's own.
    """

    trial: Callable[[Callable], float | None]

    def judge(self, answer: Callable) -> float | None:
        return self.trial(answer)


def call(answer: Callable, inputs: Sequence[Any]) -> Any:
    """answer(*inputs). Raises NotAttempted for `...` and for a stub, and Wrong for None, for an exception, and where it wrote to
    an array among the inputs, be it in a list."""
    before = [_copied(value) for value in inputs]
    try:
        with np.errstate(all="ignore"):
            got = answer(*inputs)
    except NotImplementedError:
        raise NotAttempted from None
    except (Wrong, NotAttempted):
        raise
    except Exception as error:
        raise Wrong(_exception(answer, error)) from error
    if got is Ellipsis or (got is None and is_stub(answer)):
        raise NotAttempted
    for i, (old, new) in enumerate(zip(before, inputs, strict=True)):
        if not _same(old, new):
            raise Wrong(f"it writes to its argument {i}, which belongs to the caller: work on a copy")
    if got is None:
        raise Wrong("it returns None: is a `return` missing?")
    return got


def is_stub(answer: Callable) -> bool:
    """Whether an answer is as the notebook gave it, or does nothing at all."""
    code = getattr(answer, "__code__", None)
    if code is None:
        return True
    lines, first = linecache.getlines(code.co_filename), code.co_firstlineno
    last = max((line for *_, line in code.co_lines() if line), default=first)
    if any("# your turn" in line for line in lines[first - 1 : last]):
        return True
    idle = {"RESUME", "NOP", "POP_TOP", "LOAD_CONST", "LOAD_CONST_IMMORTAL", "RETURN_CONST", "RETURN_VALUE"}
    return all(instruction.opname in idle for instruction in dis.get_instructions(code))


def _copied(value: Any) -> Any:
    """A copy of an array, or of a list, tuple or dict of them; other values as they are."""
    if isinstance(value, np.ndarray):
        return value.copy()
    if isinstance(value, list | tuple):
        return [_copied(item) for item in value]
    return {key: _copied(item) for key, item in value.items()} if isinstance(value, dict) else value


def _same(old: Any, new: Any) -> bool:
    """Whether nothing was written to `new` since `old` was copied from it."""
    if isinstance(old, np.ndarray):
        return np.array_equal(old, new, equal_nan=old.dtype.kind == "f")
    if isinstance(old, list):
        return len(old) == len(new) and all(map(_same, old, new))
    if isinstance(old, dict):
        return old.keys() == new.keys() and all(_same(old[key], new[key]) for key in old)
    return True


def results(got: Any, names: Sequence[str]) -> list[Any]:
    """One result for each name. Raises NotAttempted where all are None, Wrong where they are not as many."""
    if len(names) == 1 and not (isinstance(got, tuple | list) and len(got) == 1):
        return [got]
    if not isinstance(got, tuple | list) or len(got) != len(names):
        has = f"{len(got)} results" if isinstance(got, tuple | list) else f"one {type(got).__name__}"
        raise Wrong(f"it returns {has}, but {len(names)} are asked for: {', '.join(names)}")
    if all(value is None or value is Ellipsis for value in got):
        raise NotAttempted
    for name, value in zip(names, got, strict=True):
        if value is None or value is Ellipsis:
            raise Wrong(f"{name} is {value}: not done yet")
    return list(got)


def compare(
    got: Sequence[Any],
    expected: Sequence[Any],
    names: Sequence[str],
    against: str,
    mistakes: Mapping[str, Sequence[Any]],
    tolerance: float = TOLERANCE,
) -> float:
    """The largest error. Raises Wrong with the line for the first result that differs."""
    worst = 0.0
    for i, (name, yours) in enumerate(zip(names, got, strict=True)):
        right = np.asarray(expected[i], dtype=np.float64)
        finding = difference(name, yours, right, against=against, tolerance=tolerance)
        if finding is None:
            worst = max(worst, float(distance(np.asarray(yours, np.float64), right).max(initial=0.0)))
            continue
        for text, wrong in mistakes.items():
            if agrees(_array(yours), np.asarray(wrong[i], np.float64), tolerance):
                raise Wrong(f"{_bare(finding)} ({text})")
        if _reordered(got, expected, tolerance):
            raise Wrong(f"{_bare(finding)} (results in another order? {', '.join(names)} is asked for)")
        raise Wrong(finding)
    return worst


def _bare(finding: str) -> str:
    """Without the guess in brackets at its end."""
    return re.sub(r" \([^()]*\)$", "", finding)


def _reordered(got: Sequence[Any], expected: Sequence[Any], tolerance: float) -> bool:
    """Whether these are the expected results in another order, and two that differ have changed places."""
    arrays, right = [_array(value) for value in got], [np.asarray(value, np.float64) for value in expected]
    wrong = [i for i, array in enumerate(arrays) if not agrees(array, right[i], tolerance)]
    left = list(wrong)
    for i in wrong:
        place = next((j for j in left if agrees(arrays[i], right[j], tolerance)), None)
        if place is None:
            return False
        left.remove(place)
    return bool(wrong)


def _array(value: Any) -> np.ndarray:
    try:
        return np.asarray(value, np.float64)
    except (TypeError, ValueError):
        return np.full((), np.nan)


def _pair(answer: Callable, got: Any) -> tuple[Any, Callable]:
    if got is Ellipsis or (got is None and is_stub(answer)):
        raise NotAttempted
    if not (isinstance(got, tuple | list) and len(got) == 2 and callable(got[1])):
        raise Wrong("it does not return a pair (y, vjp) with vjp a function")
    return got[0], got[1]


def _generators() -> list[np.random.Generator]:
    return [np.random.default_rng(seed) for seed in range(DRAWS)]


def _exception(answer: Callable, error: Exception) -> str:
    """What was raised, and the line of the reader's own code that raised it."""
    told = f"raises {type(error).__name__}: {error}"
    file = getattr(getattr(inspect.unwrap(answer), "__code__", None), "co_filename", None)
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if frame.filename == file:
            line = linecache.getline(frame.filename, frame.lineno or 0).strip()
            return f"{told}, in the line `{line}`" if line else f"{told}, in line {frame.lineno}"
    return told
