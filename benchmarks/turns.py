"""One case on all sides: each a process, compared first, then timed in turns. A side that fails is left out from there on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from queue import Empty, Queue
from typing import Any

import numpy as np
from cases import Case
from sides import write_weights

GAP = 0.3  # seconds between turns on a CPU, for spinning workers to come to rest; a GPU must not idle
LIMIT = 1800  # seconds for one answer of a side; compiling a network may take many minutes
ENVIRONMENT = {  # what minidat.training.memory asks of glibc, for all sides; and no TF32 that was not asked for
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 30),
    "MALLOC_TOP_PAD_": str(64 << 20),
    "CUPY_TF32": "0",
    "PYTHONUTF8": "1",
}
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NPROC")  # NPROC is XLA's
OWN = {  # XLA asks for all of a step's memory at once; pieces above 32 MB are mapped anew each time unless mapping is off
    "jax": {"MALLOC_MMAP_MAX_": "0", "JAX_PLATFORMS": "cpu"},
}


class SideError(RuntimeError):
    """A side's work failed, or its process ended or did not answer in time. details: its traceback."""

    def __init__(self, reason: str, details: str = ""):
        super().__init__(reason)
        self.details = details


@dataclass
class Found:
    """What a side showed. seconds: of one call, for each round. megabytes: at its peak. difference: of its logits and gradients
    from those of the first side that has some. failed: why there is nothing, or nothing more; details: the traceback."""

    side: str
    about: str = ""
    seconds: list[float] = field(default_factory=list)
    megabytes: float | None = None
    difference: float | None = None
    notes: list[str] = field(default_factory=list)
    failed: str = ""
    details: str = ""


class Side:
    """A process that computes one side of a case when told to."""

    def __init__(self, side: str, case: Case, device: str, threads: int, loops: str, precision: str):
        asked = {"side": side, "case": asdict(case), "device": device, "threads": threads, "loops": loops}
        limits = dict.fromkeys(THREADS, str(threads))
        here = Path(__file__).resolve().parent
        path = os.pathsep.join(filter(None, [str(here.parent), os.environ.get("PYTHONPATH")]))
        self.errors = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115 (closed in `close`)
        self.process = subprocess.Popen(
            [sys.executable, str(here / "sides.py"), json.dumps(asked | {"precision": precision})],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            encoding="utf-8",
            env=os.environ | limits | ENVIRONMENT | OWN.get(side, {}) | {"PYTHONPATH": path},
        )
        self.answers: Queue[str] = Queue()
        # ends late, or never, where a child has the pipe
        self.listener = threading.Thread(target=self._listen, daemon=True)
        self.listener.start()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            for line in lines:
                self.answers.put(line)
        self.answers.put("")

    def send(self, **request: Any) -> None:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # it has ended: `answer` says so

    def answer(self, limit: float) -> dict[str, Any]:
        """Of the oldest request that has none yet. Raises SideError."""
        try:
            line = self.answers.get(timeout=limit)
        except Empty:
            raise SideError(f"no answer within {limit:.0f} s", self._said()) from None
        if not line:
            code, said = self.process.wait(), self._said()
            raise SideError(_last_line(said) or f"its process ended with code {code}", said)
        answer = json.loads(line)
        if "failed" in answer:
            raise SideError(answer["reason"], answer["failed"])
        return answer

    def _said(self) -> str:
        """The end of what the process wrote to stderr."""
        self.errors.seek(0)
        return self.errors.read()[-6000:]

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self.listener.join(1)
        self.errors.close()
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):
            self.process.stdin.close()


def measure(
    case: Case,
    device: str,
    sides: Sequence[str],
    *,
    rounds: int,
    threads: int,
    loops: str = "numpy",
    precision: str = "fp32",
    limit: float = LIMIT,
) -> list[Found]:
    """What each side showed. loops: ours. limit: seconds for one answer of a side."""
    found = {name: Found(name) for name in sides}
    with tempfile.TemporaryDirectory() as folder:
        write_weights(case, Path(folder))
        for start in range(0, len(sides), case.together):
            group = sides[start : start + case.together]
            processes = {n: Side(n, case, device, threads, loops, precision) for n in group}
            with Together(processes, found, limit) as together:
                together.prepare(folder)
                together.check(differences(Path(folder), sides, precision), LARGEST[precision])
                together.take_turns(rounds, GAP if device == "cpu" else 0.0)
                together.report()
    return list(found.values())


class Together:
    """Sides that take turns, by name, and what is found of them. One that fails is closed; the others go on."""

    def __init__(self, running: dict[str, Side], found: dict[str, Found], limit: float):
        self.running, self.found, self.limit, self.order = running, found, limit, list(running)

    def __enter__(self) -> Together:
        return self

    def __exit__(self, *error: object) -> None:
        for side in self.running.values():
            side.close()

    def prepare(self, folder: str) -> None:
        """All at once: networks compile meanwhile."""
        for side in self.running.values():
            side.send(do="prepare", folder=folder)
        for name in self.order:
            answer = self._answer(name)
            self.found[name].about = answer["about"] if answer else ""

    def check(self, differences: dict[str, float], largest: float) -> None:
        """Leave out a side whose network is another."""
        for name in set(self.running) & set(differences):
            self.found[name].difference = differences[name]
            if not differences[name] <= largest:
                self._leave_out(name, f"its network differs by {differences[name]:.1e}: nothing to compare")

    def take_turns(self, rounds: int, gap: float) -> None:
        """Time each side `rounds` times, after a short round of warm-up."""
        for turn in range(rounds + 1):
            first = turn % len(self.order)
            for name in [*self.order[first:], *self.order[:first]]:
                time.sleep(gap)
                answer = self._answer(name, do="run", **({} if turn else {"repeats": 1}))
                if turn and answer:
                    self.found[name].seconds.append(answer["seconds"])

    def report(self) -> None:
        for name in self.order:
            answer = self._answer(name, do="report")
            if answer:
                self.found[name].megabytes, self.found[name].notes = answer["megabytes"], answer["notes"]

    def _answer(self, name: str, **request: Any) -> dict[str, Any] | None:
        """A side's answer to a request, or to the last one; None where it fails now or has failed."""
        if name not in self.running:
            return None
        if request:
            self.running[name].send(**request)
        try:
            return self.running[name].answer(self.limit)
        except SideError as error:
            self._leave_out(name, str(error), error.details)
            return None

    def _leave_out(self, name: str, reason: str, details: str = "") -> None:
        self.found[name].failed, self.found[name].details = reason, details
        self.running.pop(name).close()


LARGEST = {"fp32": 1e-3, "tf32": 5e-2}
"""The largest difference of networks that are the same."""


def differences(folder: Path, names: Iterable[str], precision: str = "fp32") -> dict[str, float]:
    """How far each side's logits and gradients are from those of the first that has written some (which is left out)."""
    files = [(name, folder / f"{name}.npz") for name in names]
    arrays = [(name, dict(np.load(file))) for name, file in files if file.exists()]
    if not arrays:
        return {}
    (_, ours), *others = arrays
    for _, theirs in others:
        assert set(ours) == set(theirs), set(ours) ^ set(theirs)
    compare = largest_difference if precision == "fp32" else whole_difference
    return {name: compare(ours, theirs) for name, theirs in others}


def largest_difference(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> float:
    """The largest difference of any number, relative to the largest value of its array; arrays that are zero but for rounding (a
    key's bias has no gradient) relative to 1."""
    worst = 0.0
    for name in ours:
        scale = abs(theirs[name]).max()
        difference = float(abs(ours[name] - theirs[name]).max() / (scale if scale > 1e-6 else 1.0))
        worst = max(worst, difference if difference == difference else float("inf"))
    return worst


def whole_difference(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> float:
    """‖ours − theirs‖ / ‖theirs‖, of the logits and of all gradients: the larger. Where products are rounded, gradients that
    should be zero are not."""
    parts = [name for name in ours if name == "logits"], [name for name in ours if name != "logits"]
    flat = [[np.concatenate([side[n].ravel() for n in part]) for side in (ours, theirs)] for part in parts if part]
    worst = max(float(np.linalg.norm(a - b) / np.linalg.norm(b)) for a, b in flat)
    return worst if worst == worst else float("inf")


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip() if lines else ""
