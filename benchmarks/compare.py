"""minidat beside PyTorch: the same network, the same weights, the same images, in one run.

    minidat bench                      all cases
    minidat bench --case forward       only those whose name contains "forward"
    minidat bench --device gpu         on a GPU, beside eager PyTorch and torch.compile

Each side runs in a process of its own (OpenBLAS's workers spin for a while after a call and would slow the other down), the
sides take turns, and the order changes with every round. Before anything is timed, logits and gradients are compared. A time
is the median of the rounds, a ratio the median of the rounds' ratios. All compute in float32.

On the CPU with the same number of threads; below 1, minidat is the faster. Memory is the peak of the resident set while working,
above what the process held after its imports. On a GPU with TF32 off on all sides; above 1, minidat is the faster. Times are
between CUDA events around several steps, after warm-up; memory is what each library's allocator took from the device.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

import numpy as np
from cases import CASES, Case

from minidat.autograd.backend import DeviceError, device_module

GAP = 0.3  # seconds between turns, for spinning workers to come to rest
SIDES = {"cpu": ("minidat", "torch"), "gpu": ("minidat", "torch", "compiled")}
ENVIRONMENT = {  # what minidat.training.memory asks of glibc, for all sides; and no TF32
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 30),
    "MALLOC_TOP_PAD_": str(64 << 20),
    "CUPY_TF32": "0",
}
HEADS = {
    "cpu": "| case | minidat | PyTorch | time | minidat | PyTorch | memory | results differ by |",
    "gpu": "| case, images/s | minidat | eager | × | compiled | × | MB: minidat | eager | compiled | results differ by |",
}


def main() -> int:
    arguments = _parser().parse_args()
    if importlib.util.find_spec("torch") is None:
        print("minidat bench: PyTorch is not installed; pip install torch", file=sys.stderr)
        return 1
    device, cases = arguments.device, CASES[arguments.device]
    try:
        device_module(device)
    except DeviceError as error:
        print(f"minidat bench: {error}", file=sys.stderr)
        return 1
    wanted = [c for c in cases if not arguments.case or any(word in c.name for word in arguments.case)]
    if not wanted:
        print(
            f"minidat bench: no case has {arguments.case}; cases: {'; '.join(c.name for c in cases)}", file=sys.stderr
        )
        return 1
    for i, case in enumerate(wanted):
        try:
            abouts, row = compare(case, device, arguments.rounds, arguments.threads, arguments.loops)
        except EndedError as error:
            print(f"minidat bench: {error}", file=sys.stderr)
            return 1
        if not i:
            print(f"{heading(device, arguments.threads, abouts)}\n\n{HEADS[device]}")
            print("|" + "---|" * (HEADS[device].count("|") - 1))
        print(row, flush=True)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=tuple(CASES), default="cpu")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each side")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="CPU threads of all")
    parser.add_argument("--loops", default="auto", help="our side's, as of minidat train")
    parser.add_argument("--case", action="append", help="only the cases whose name contains this (may be repeated)")
    return parser


def heading(device: str, threads: int, libraries: Iterable[str]) -> str:
    """When, where and with what."""
    place = f"{platform.processor() or platform.machine()}, {threads} threads" if device == "cpu" else _gpu()
    named = ", ".join(dict.fromkeys(libraries))
    return f"{time.strftime('%Y-%m-%d')}, {place}, Python {platform.python_version()}, {named}, float32"


def _gpu() -> str:
    """The name of the first GPU, and its driver's version."""
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        name, driver = subprocess.check_output(query, text=True).splitlines()[0].split(", ")
    except (OSError, subprocess.CalledProcessError):
        return "an unknown GPU (nvidia-smi gives no answer)"
    return f"{name}, driver {driver}"


class EndedError(RuntimeError):
    """A side's process ended before it answered."""


class Side:
    """A process that computes one side of a case when told to."""

    def __init__(self, side: str, case: Case, device: str, threads: int, loops: bool):
        asked = {"side": side, "case": asdict(case), "device": device, "threads": threads, "loops": loops}
        limits = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
        here = Path(__file__).resolve().parent
        path = os.pathsep.join(filter(None, [str(here.parent), os.environ.get("PYTHONPATH")]))
        self.name = side
        self.process = subprocess.Popen(
            [sys.executable, str(here / "sides.py"), json.dumps(asked)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | limits | ENVIRONMENT | {"PYTHONPATH": path},
        )

    def ask(self, **request) -> dict:
        assert self.process.stdin is not None and self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # it has ended: reading says so
        answer = self.process.stdout.readline()
        if not answer:
            raise EndedError(f"the process for {self.name} ended with code {self.process.wait()}")
        return json.loads(answer)

    def close(self) -> None:
        try:
            self.process.communicate()
        except BrokenPipeError:
            self.process.wait()


def compare(case: Case, device: str, rounds: int, threads: int, loops: str = "numpy") -> tuple[list[str], str]:
    """(what each side is, one row of the table). loops: ours."""
    names = SIDES[device]
    sides = {name: Side(name, case, device, threads, loops) for name in names}
    try:
        with tempfile.TemporaryDirectory() as folder:  # minidat first: it writes the weights that the others read
            abouts = [side.ask(do="prepare", folder=folder)["about"] for side in sides.values()]
            difference = _difference(Path(folder), names)
        seconds: dict[str, list[float]] = {name: [] for name in names}
        for turn in range(rounds + 1):
            first = turn % len(names)
            for name in names[first:] + names[:first]:
                time.sleep(GAP)
                taken = sides[name].ask(do="run")["seconds"]
                if turn:  # the first is warm-up
                    seconds[name].append(taken)
        memory = {name: side.ask(do="memory")["megabytes"] for name, side in sides.items()}
    finally:
        for side in sides.values():
            side.close()
    return abouts, (_row_cpu if device == "cpu" else _row_gpu)(case, seconds, memory, difference)


def _row_cpu(case: Case, seconds: dict[str, list[float]], memory: dict[str, float], difference: float) -> str:
    ours, theirs = (statistics.median(times) for times in seconds.values())
    return (
        f"| {case.name} | {ours:.3f} s | {theirs:.3f} s | {_ratio(seconds['minidat'], seconds['torch']):.2f} × | "
        f"{memory['minidat']:.0f} MB | {memory['torch']:.0f} MB | {memory['minidat'] / memory['torch']:.2f} × | "
        f"{difference:.0e} |"
    )


def _row_gpu(case: Case, seconds: dict[str, list[float]], memory: dict[str, float], difference: float) -> str:
    pace = {name: f"{case.batch / statistics.median(times):,.0f}" for name, times in seconds.items()}
    times = {name: f"{_ratio(seconds[name], seconds['minidat']):.2f} ×" for name in seconds}
    cells = [case.name, pace["minidat"], pace["torch"], times["torch"], pace["compiled"], times["compiled"]]
    cells += [f"{memory[name]:,.0f}" for name in seconds] + [f"{difference:.0e}"]
    return f"| {' | '.join(cells)} |"


def _ratio(one: list[float], other: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(one, other, strict=True))


def _difference(folder: Path, names: tuple[str, ...]) -> float:
    """The largest difference of any logit or gradient of ours from any other side's, relative to the largest value of its
    array; arrays that are zero but for rounding (a key's bias has no gradient) relative to 1. Raises where the networks are
    not the same."""
    ours, *others = (np.load(folder / f"{name}.npz") for name in names)
    worst = 0.0
    for theirs in others:
        assert set(ours.files) == set(theirs.files), set(ours.files) ^ set(theirs.files)
        for name in ours.files:
            scale = abs(theirs[name]).max()
            worst = max(worst, float(abs(ours[name] - theirs[name]).max() / (scale if scale > 1e-6 else 1.0)))
    if not worst <= 1e-3:
        raise RuntimeError(f"the networks differ by {worst:.1e}: nothing to compare")
    return worst


if __name__ == "__main__":
    sys.exit(main())
