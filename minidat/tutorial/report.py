"""`check` and `hint`: what a reader calls at an exercise."""

from __future__ import annotations

import html
import importlib.util
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from minidat.tutorial.contracts import Contract, NotAttempted, Wrong
from minidat.tutorial.diagnosis import distance
from minidat.tutorial.places import exercise_file
from minidat.tutorial.show import publish

_hints_seen: dict[str, int] = {}
_passed: set[str] = set()


@dataclass(frozen=True)
class Exercise:
    """contract: what an answer is held to. hints: from the gentlest on; plain text, `code` in backticks."""

    contract: Contract
    hints: Sequence[str]


@cache
def exercises(chapter: int) -> dict[str, Exercise]:
    """The exercises of a chapter by number, "6.2". Raises ValueError where the chapter has none."""
    file = exercise_file(chapter)
    if file is None:
        raise ValueError(f"chapter {chapter} has no exercises: there is no chapters/exercises/ch{chapter:02d}.py")
    spec = importlib.util.spec_from_file_location(f"exercises.{file.stem}", file)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.EXERCISES


def find(number: str) -> Exercise:
    """The exercise "6.2". Raises ValueError with the numbers that there are."""
    if not isinstance(number, str):
        raise ValueError(f'exercise {number!r}: write its number in quotes, as in "{number}"')
    if not re.fullmatch(r"\d+\.\d+", number):
        raise ValueError(f"exercise {number!r}: an exercise is called by chapter and number, such as '6.2'")
    known = exercises(int(number.partition(".")[0]))
    if number not in known:
        raise ValueError(f"exercise {number!r} is unknown; this chapter has {', '.join(known)}")
    return known[number]


def report(number: str, answer: Callable) -> str:
    """The line that `check` prints: "6.2 not attempted yet", "6.2 ✗ …" with what is wrong, or "6.2 ✓ agrees to 3e-10"."""
    contract = find(number).contract
    try:
        error = contract.judge(answer)
    except NotAttempted:
        return f"{number} not attempted yet"
    except Wrong as wrong:
        return f"{number} ✗ {wrong}"
    if error is None:
        return f"{number} ✓"
    return f"{number} ✓ agrees " + (f"to {error:.0e}" if error else "exactly")


def check(number: str, answer: Callable) -> None:
    """Try an answer to exercise `number` and print what came out. It never raises because the answer is wrong."""
    line = report(number, answer)
    (_passed.add if line.startswith(f"{number} ✓") else _passed.discard)(number)
    print(line)


def passed(number: str) -> bool:
    """Whether the last `check` of exercise `number` found the answer right. Cells that go on with an answer ask first, so
    that one that is missing, or half done, stops nobody."""
    find(number)
    return number in _passed


def hint(number: str) -> None:
    """In a notebook: the hints to exercise `number`, each folded. In a plain Python: the next one at each call."""
    hints = find(number).hints
    seen = min(_hints_seen.get(number, 0), len(hints) - 1)
    _hints_seen[number] = seen + 1
    folded = "".join(
        f"<details><summary>Hint {i} of {len(hints)}</summary><p>{_as_html(text)}</p></details>"
        for i, text in enumerate(hints, 1)
    )
    publish({"text/html": folded, "text/plain": f"Hint {seen + 1} of {len(hints)} to {number}: {hints[seen]}"})


def same(what: str, yours: Any, theirs: Any, *, tolerance: float = 1e-9) -> None:
    """Print that two arrays are the same, and to how much; raise AssertionError with the worst element if they are not.

    yours: may be None, as the result of an exercise that is not done yet; then that is printed.
    """
    if yours is None or yours is Ellipsis:
        print(f"{what}: not there yet")
        return
    yours, theirs = np.asarray(yours), np.asarray(theirs)
    assert yours.shape == theirs.shape, f"{what}: shapes {yours.shape} and {theirs.shape} differ"
    error = distance(yours, theirs)
    at = np.unravel_index(np.argmax(error), error.shape)
    assert error[at] <= tolerance, f"{what}: {yours[at]:+.6g} is not {theirs[at]:+.6g}, at {tuple(map(int, at))}"
    print(f"{what}: the same" + (f" to {error[at]:.0e}" if error[at] else ", bit by bit"))


def _as_html(text: str) -> str:
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text))
