"""Several ranks, measured on two and carried by a model to many: the numbers and the picture of docs/scale.md.

    python benchmarks/scale.py              measures, draws, writes the page's tables: three minutes, with mpi4py and two cores
    python benchmarks/scale.py --model      writes the table for GPUs alone, without measuring

A sum of n bytes over R ranks in a ring takes 2 (R − 1) messages one after the other, each of n/R bytes on every link at once:

    T_sum(R, n) = base + 2 (R − 1) α + 2 (R − 1)/R · n β

α: seconds a message; β: seconds a byte. A step takes the time of its own images, the sum, and the update:

    T(R) = B/R · t_image + T_sum(R, n) + t_update

Source of the ring's cost: Thakur, Rabenseifner and Gropp, "Optimization of Collective Communication Operations in MPICH", 2005.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pages
from matplotlib.figure import Figure

from minidat.analysis.cost import cost, totals
from minidat.analysis.style import DPI, GREY, INK, bare, save
from minidat.models import create
from minidat.training.distributed import join
from minidat.training.loop import Run
from minidat.training.parallel import available_cores
from minidat.training.settings import Settings
from minidat.training.step import HostStep

ROOT = Path(__file__).resolve().parents[1]
PAGE, NUMBERS, PICTURE = (ROOT / "docs" / f"scale.{kind}" for kind in ("md", "json", "png"))
SIZES = [4**i for i in range(5, 13)]  # float32 numbers of a sum: 4 KB to 67 MB
NETWORK, BATCH, STEPS, ROUNDS = "dat_cifar", 64, 4, 3
CASES = [(1, 1, BATCH), (1, 1, BATCH // 2), (1, 2, BATCH), (2, 1, BATCH)]  # ranks, threads of each, images of a step
BLUE, GREEN, ORANGE = "#0072b2", "#009e73", "#d55e00"


# The model


@dataclass(frozen=True)
class Machines:
    """Hosts with `gpus` GPUs each. within, between: bytes/s through a ring inside a host, and through one that leaves it.
    message_within, message_between: seconds a message; base: seconds a sum at least. flops: of products a second, as specified;
    reached: the assumed share of it; memory: bytes/s."""

    name: str
    gpus: int
    within: float
    between: float
    message_within: float
    message_between: float
    base: float
    flops: float
    reached: float
    memory: float


NCCL = {"message_within": 3.4e-6, "message_between": 14e-6, "base": 8.4e-6}
A100 = {"gpus": 8, "within": 300e9, "flops": 156e12, "reached": 0.3, "memory": 1.555e12}
EIGHT_CARDS = Machines("8 × 200 Gb/s a host", between=8 * 25e9, **A100, **NCCL)
ONE_CARD = Machines("1 × 100 Gb/s a host", between=12.5e9, **A100, **NCCL)


def ring(ranks: int, size: float, alpha: float, beta: float) -> float:
    """Seconds of a sum of `size` bytes over `ranks` in a ring whose messages all cost the same."""
    return 2 * (ranks - 1) * alpha + 2 * (ranks - 1) / ranks * size * beta


def sum_parts(ranks: int, size: float, on: Machines) -> tuple[float, float]:
    """(seconds of its messages, seconds of its bytes) of a sum over GPUs in rings through all hosts."""
    if ranks == 1:
        return 0.0, 0.0
    hosts = -(-ranks // on.gpus)
    slow = 2 * (hosts - 1)  # messages that leave a host
    messages = on.base + slow * on.message_between + (2 * (ranks - 1) - slow) * on.message_within
    return messages, ring(ranks, size, 0.0, 1 / (on.within if hosts == 1 else min(on.within, on.between)))


@dataclass(frozen=True)
class Network:
    """flops: of forward and backward, an image. size: bytes of the gradient."""

    flops: float
    size: float

    @classmethod
    def of(cls, name: str) -> Network:
        """Backward has two products for each of forward's; a multiply-add is two operations."""
        found = totals(cost(create(name)))
        return cls(3 * 2 * found.multiply_adds, 4 * found.parameters)


@dataclass(frozen=True)
class Step:
    """Seconds of the parts of a step."""

    images: float
    messages: float
    size: float
    update: float

    @property
    def total(self) -> float:
        return self.images + self.messages + self.size + self.update


def gpu_step(ranks: int, batch: int, network: Network, on: Machines) -> Step:
    """A step of `batch` images over `ranks` GPUs. The update reads gradient, parameters, m and v, and writes the last three."""
    images = batch / ranks * network.flops / (on.flops * on.reached)
    return Step(images, *sum_parts(ranks, network.size, on), 7 * network.size / on.memory)


def table(batch: int = 4096, counts: tuple[int, ...] = (8, 64, 1024)) -> list[str]:
    """The Markdown of the table for GPUs. Linear is that many times the images a second of one."""
    network = Network.of("dat_tiny")
    lines = [
        "| between hosts | GPUs | images each | images | messages | bytes | update | step | images/s | of linear |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    one = gpu_step(1, batch, network, EIGHT_CARDS).total
    for on in (EIGHT_CARDS, ONE_CARD):
        for ranks in counts:
            step = gpu_step(ranks, batch, network, on)
            times = (step.images, step.messages, step.size, step.update, step.total)
            cells = [f"{1e3 * t:,.1f} ms" for t in times]
            share = f"{100 * one / (ranks * step.total):.0f} %"
            lines.append(
                f"| {on.name} | {ranks:,} | {batch // ranks:,} | {' | '.join(cells)} | {batch / step.total:,.0f} | {share} |"
            )
    return lines


# What is measured


def sums_of(ranks: Any) -> list[float]:
    """Seconds of a sum over the ranks for each of `SIZES`."""
    found = []
    for size in SIZES:
        flat, times = np.ones(size, np.float32), []
        for _ in range(12):
            ranks.gather(None)  # all begin together
            start = time.perf_counter()
            ranks.add(flat)
            times.append(time.perf_counter() - start)
        found.append(median(times[2:]))
    return found


def steps_of(ranks: Any, threads: int, batch: int) -> dict[str, float]:
    """Seconds a step, and how much of it a rank spends in the sum, waiting for the others included."""
    settings = Settings(model=NETWORK, batch=batch, train_size=batch * 4, test_size=10, recipe="light", loops="numpy")
    run = Run(settings, Path(), threads=threads, readers=0, ranks=ranks)
    inside, add = [], ranks.add

    def timed(*flats: Any) -> None:
        start = time.perf_counter()
        add(*flats)
        inside.append(time.perf_counter() - start)

    ranks.add = timed
    times = []
    with HostStep(settings, run.training, run.model, run.optimiser, run.schedule, threads=threads, ranks=ranks) as step:
        for i in range(STEPS + 1):
            ranks.gather(None)
            start = time.perf_counter()
            step.advance(i % 4, run.order(i % 4))
            times.append(time.perf_counter() - start)
    return {"step": median(times[1:]), "sum": median(inside[1:]), "bytes": 4 * run.arena.data.size}


def child(what: str, ranks: int, *numbers: int) -> Any:
    """What this script prints under mpiexec."""
    script = [sys.executable, __file__, "--child", what, *map(str, numbers)]
    command = [mpiexec(), "-n", str(ranks), *script] if ranks > 1 else script
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def mpiexec() -> str:
    """That of the environment of this Python, before any other."""
    here = Path(sys.executable).parent
    return next((str(here / n) for n in ("mpiexec.hydra", "mpiexec") if (here / n).exists()), "mpiexec")


def measure() -> dict[str, Any]:
    """Everything, in turns, so that a busy machine disturbs all alike."""
    sums, steps = [], {str(case): [] for case in CASES}
    for turn in range(ROUNDS):
        print(f"turn {turn + 1} of {ROUNDS}", flush=True)
        sums.append(child("sums", 2))
        for ranks, threads, batch in CASES:
            steps[str((ranks, threads, batch))].append(child("steps", ranks, threads, batch))
    middle = {
        case: {key: median(turn[key] for turn in turns) for key in ("step", "sum", "bytes")}
        for case, turns in steps.items()
    }
    return {"cores": available_cores(), "sums": np.min(sums, axis=0).tolist(), "steps": middle}


def fit(found: dict[str, Any]) -> dict[str, float]:
    """α and β of two ranks, by least squares of relative errors; seconds an image of one thread, and of a step without images."""
    size = 4.0 * np.array(SIZES)
    seconds = np.array(found["sums"])
    terms = np.stack([np.full(len(size), 2.0), size], 1)  # 2 (R − 1) α + 2 (R − 1)/R n β at R = 2
    alpha, beta = np.linalg.lstsq(terms / seconds[:, None], np.ones(len(size)), rcond=None)[0]
    half, whole = (found["steps"][str((1, 1, batch))]["step"] for batch in (BATCH // 2, BATCH))
    image = (whole - half) / (BATCH - BATCH // 2)
    return {"alpha": float(alpha), "beta": float(beta), "image": image, "rest": max(half - BATCH // 2 * image, 0.0)}


def report(found: dict[str, Any]) -> list[str]:
    """The Markdown of what was measured."""
    model = fit(found)
    one, two, ranks = (found["steps"][str(case)] for case in (CASES[0], CASES[2], CASES[3]))
    sums = ring(2, ranks["bytes"], model["alpha"], model["beta"])
    predicted = model["rest"] + BATCH // 2 * model["image"] + sums
    return [
        f"| {NETWORK}, batch {BATCH} | seconds a step | against one thread |",
        "|---|---|---|",
        f"| 1 rank × 1 thread | {one['step']:.3f} | 1 × |",
        f"| 1 rank × 2 threads | {two['step']:.3f} | {one['step'] / two['step']:.2f} × |",
        f"| 2 ranks × 1 thread | {ranks['step']:.3f} | {one['step'] / ranks['step']:.2f} × |",
        f"| the same by the model | {predicted:.3f} | {one['step'] / predicted:.2f} × |",
        "",
        f"{found['cores']} cores, medians of {ROUNDS} turns. "
        f"α = {1e6 * model['alpha']:.1f} µs a message, 1/β = {1e-9 / model['beta']:.2f} GB/s; the sum of {NETWORK}'s "
        f"{ranks['bytes'] / 1e6:.1f} MB: {1e3 * sums:.2f} ms by the model, {1e3 * ranks['sum']:.2f} ms in a step, "
        "where a rank also waits for the other.",
    ]


def show(name: str, lines: list[str]) -> None:
    """Print lines of Markdown, and put them into the page."""
    print("\n".join(lines), "\n")
    pages.write(PAGE, name, lines)


# The picture


def draw(found: dict[str, Any], out: Path) -> None:
    """Left: sums over two processes and the line fitted to them. Right: a step of DAT-T on GPUs by the model."""
    figure = Figure(figsize=(9.4, 3.9), dpi=DPI, layout="constrained")
    left, right = figure.subplots(1, 2)
    model, size = fit(found), 4.0 * np.array(SIZES)
    left.loglog(size / 1e6, 1e3 * np.array(found["sums"]), "o", color=BLUE, label="measured")
    line = [1e3 * ring(2, n, model["alpha"], model["beta"]) for n in size]
    left.loglog(size / 1e6, line, color=BLUE, lw=1.2, label="2α + n β")
    left.set_xlabel("MB added up"), left.set_ylabel("ms")
    left.set_title("sum over two processes of one host", fontsize=10, color=INK)
    network, counts = Network.of("dat_tiny"), [2**i for i in range(11)]
    for on, colour in ((EIGHT_CARDS, GREEN), (ONE_CARD, ORANGE)):
        steps = [gpu_step(ranks, 4096, network, on) for ranks in counts]
        right.loglog(counts, [1e3 * s.total for s in steps], color=colour, lw=1.8, label=f"step, {on.name}")
        sums = [1e3 * (s.messages + s.size) for s in steps[1:]]
        right.loglog(counts[1:], sums, color=colour, lw=1.0, ls=(0, (4, 2)), label="its sum")
    right.loglog(counts, [1e3 * s.images for s in steps], color=GREY, lw=1.0, label="its images")
    right.set_xlabel("GPUs"), right.set_ylabel("ms")
    right.set_title("DAT-T, batch 4,096: by the model, not measured", fontsize=10, color=INK)
    for axes in (left, right):
        bare(axes)
        axes.legend(fontsize=7.5, frameon=False)
    save(figure, out)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure two ranks and carry them to many.")
    parser.add_argument("--model", action="store_true", help="write the table for GPUs alone")
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        what, *numbers = arguments.child
        ranks = join("cpu")
        found = sums_of(ranks) if what == "sums" else steps_of(ranks, *map(int, numbers))
        if ranks.first:
            print(json.dumps(found))
        return
    if not arguments.model:
        found = measure()
        NUMBERS.write_text(json.dumps(found, indent=1) + "\n")
        draw(found, PICTURE)
        show("measured", report(found))
    show("model", table())


if __name__ == "__main__":
    main()
