"""How a training step's time and memory grow on one machine: the numbers and the picture of docs/speed.md.

    python benchmarks/growth.py               measures, draws, writes the page's table; needs PyTorch
    python benchmarks/growth.py --quick       a rehearsal at tiny sizes, into build/growth
    python benchmarks/growth.py --draw        the picture and the table again, from the numbers that are there

Against threads, the side of the images, and the batch; and one block of deformable attention with a point for every pixel (r = 1)
against one of full attention. Ours beside eager PyTorch, each in a process of its own, in turns: see `turns.py`. The limit is the
time of the multiply-adds alone at the peak of the machine,

    t = 3 · 2 · B · M / P(threads)

M: multiply-adds of an image forward (`minidat.analysis.cost`); backward has two products for each of forward's; a multiply-add is
two operations. P: operations a second of a large square product in float32, NumPy's or PyTorch's, whichever is faster.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a checkout need not be installed

import pages
from cases import Case, network
from compare import heading, ratio
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator
from turns import ENVIRONMENT, THREADS, SideError, measure

from minidat.analysis.cost import cost, totals
from minidat.analysis.style import DPI, GREY, INK, bare, save
from minidat.training.parallel import available_cores

ROOT = Path(__file__).resolve().parents[1]
SIDES = ("minidat", "torch")
COLOURS = {"minidat": "#0072b2", "torch": "#d55e00", "limit": GREY}
NAMES = {"minidat": "minidat", "torch": "PyTorch, eager", "limit": "limit"}
LABELS = {"dat_cifar": "dat_cifar", "dat_tiny": "DAT-T", "one D": "deformable, r = 1", "one P": "full attention"}
MICRO = {"dat_tiny": 2}  # images in one of our micro-batches; 32 elsewhere


class Point(NamedTuple):
    """One measurement: a training step of so many images with this side, on so many threads."""

    model: str
    image: int
    batch: int
    threads: int

    @property
    def maps(self) -> int:
        """The side of the first map of the networks with patches of 4."""
        return self.image // 4


class Panel(NamedTuple):
    """title, x: of a plot. along: the field of a `Point` that is x. points: by network."""

    title: str
    x: str
    along: str
    points: dict[str, list[Point]]


def panels(cores: int, quick: bool) -> list[Panel]:
    """What is measured and how it is drawn. quick: tiny sizes."""
    counts = sorted({1, *(2**i for i in range(1, 8) if 2**i < cores), cores})
    if quick:
        sizes, batches, full = {"tiny": ((32, 64), 4)}, {"tiny": (32, (4,))}, {"tiny": (32, 4)}
        maps = (16,)
    else:
        sizes = {"dat_cifar": ((32, 64, 96), 32), "dat_tiny": ((128, 256, 384), 4)}
        batches = {"dat_cifar": (32, (8, 32, 128, 512)), "dat_tiny": (224, (2, 4, 8, 16))}
        full, maps = {"dat_cifar": (32, 128), "dat_tiny": (224, 8)}, (56, 112, 224)
    by_threads = {m: [Point(m, image, batch, n) for n in counts] for m, (image, batch) in full.items()}
    by_size = {m: [Point(m, image, batch, cores) for image in images] for m, (images, batch) in sizes.items()}
    by_batch = {m: [Point(m, image, batch, cores) for batch in many] for m, (image, many) in batches.items()}
    blocks = {m: [Point(m, image, 2, cores) for image in maps] for m in ("one D", "one P")}
    return [
        Panel("threads", "threads", "threads", by_threads),
        Panel("size of the images", "pixels along a side", "image", by_size),
        Panel("batch", "images in a step", "batch", by_batch),
        Panel("one block of attention", "side of its map", "maps", blocks),
    ]


# Measuring


def every(shown: Iterable[Panel]) -> list[Point]:
    """Each point once."""
    return list(dict.fromkeys(p for panel in shown for points in panel.points.values() for p in points))


def measured(point: Point, rounds: int, loops: str) -> dict[str, Any]:
    """Seconds of a step in each round, megabytes at the peak, and forward's multiply-adds of an image. Raises SideError where a
    side fails."""
    repeats = max(1, 16 // point.maps) if point.model.startswith("one") else 1
    case = Case(str(point), point.model, point.batch, "step", repeats, MICRO.get(point.model, 32), image=point.image)
    found = measure(case, "cpu", SIDES, rounds=rounds, threads=point.threads, loops=loops)
    for one in found:
        if one.failed:
            raise SideError(f"{NAMES[one.side]}: {one.failed}", one.details)
    return {
        **point._asdict(),
        "multiply_adds": totals(cost(network(point.model, point.image))).multiply_adds,
        "seconds": {one.side: one.seconds for one in found},
        "megabytes": {one.side: one.megabytes for one in found},
        "about": [one.about for one in found],
    }


def peak(library: str, threads: int, size: int) -> float:
    """Operations a second of a product of two square float32 matrices, in a process of its own: the best of 7."""
    script = [sys.executable, __file__, "--product", library, str(size)]
    limits = dict.fromkeys(THREADS, str(threads))
    return float(subprocess.check_output(script, text=True, env=os.environ | limits | ENVIRONMENT))


def product(library: str, size: int) -> float:
    """The same in this process."""
    import numpy as np

    a = np.random.default_rng(0).standard_normal((size, size), dtype=np.float32)
    if library == "torch":
        import torch

        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
        a = torch.from_numpy(a)
    seconds = []
    for _ in range(7):
        start = time.perf_counter()
        a @ a
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / min(seconds)


def measure_all(points: list[Point], *, rounds: int, loops: str, size: int) -> dict[str, Any]:
    """Everything, with a line for each point as it is done. A point where a side fails is left out. size: of the square
    matrices."""
    peaks = {
        n: {library: peak(library, n, size) for library in ("numpy", "torch")} for n in {p.threads for p in points}
    }
    rows = []
    for i, point in enumerate(points):
        try:
            rows.append(measured(point, rounds, loops))
        except SideError as error:
            print(f"{i + 1}/{len(points)}  {point}: left out: {error}", file=sys.stderr, flush=True)
            continue
        times = ", ".join(f"{NAMES[side]} {median(s):.3f} s" for side, s in rows[-1]["seconds"].items())
        print(f"{i + 1}/{len(points)}  {point}: {times}", flush=True)
    abouts = [row.pop("about") for row in rows]
    return {
        "about": heading("cpu", max(peaks), abouts[0]),
        "rounds": rounds,
        "peaks": {str(n): found for n, found in peaks.items()},
        "rows": rows,
    }


# What was found


class Found:
    """The numbers of a file of this script, by point, for an image in milliseconds."""

    def __init__(self, content: dict[str, Any]):
        self.about, self.rounds, self.peaks = content["about"], content["rounds"], content["peaks"]
        self.rows = {Point(*(row[name] for name in Point._fields)): row for row in content["rows"]}

    def limit(self, point: Point) -> float:
        operations = 3 * 2 * self.rows[point]["multiply_adds"]
        return 1e3 * operations / max(self.peaks[str(point.threads)].values())

    def time(self, side: str, point: Point) -> float:
        """side: of `SIDES`, or "limit"."""
        return self.limit(point) if side == "limit" else 1e3 * median(self.rows[point]["seconds"][side]) / point.batch

    def memory(self, side: str, point: Point) -> float:
        return self.rows[point]["megabytes"][side]

    def share(self, point: Point) -> float:
        """Our time as a share of PyTorch's."""
        return ratio(*(self.rows[point]["seconds"][side] for side in SIDES))


def table(found: Found) -> list[str]:
    """The Markdown of all points."""
    lines = [
        f"{found.about}; medians of {found.rounds} rounds",
        "",
        "| network | side | batch | threads | ms an image | PyTorch | limit | beside PyTorch | beside the limit | MB | PyTorch |",
        f"|{'---|' * 11}",
    ]
    for p in found.rows:
        ours, theirs, limit = (found.time(side, p) for side in (*SIDES, "limit"))
        cells = [LABELS.get(p.model, p.model), p.image, p.batch, p.threads]
        cells += [f"{t:.3g}" for t in (ours, theirs, limit)] + [f"{found.share(p):.2f} ×", f"{ours / limit:.1f} ×"]
        cells += [f"{found.memory(side, p):,.0f}" for side in SIDES]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    shown = (f"{n}: {max(both.values()) / 1e9:.0f}" for n, both in found.peaks.items())
    return [*lines, "", f"Peak of a product, in GFLOP/s, by threads: {', '.join(shown)}."]


# The picture


def draw(shown: list[Panel], found: Found, out: Path) -> None:
    """Above and left: milliseconds an image; the last two: memory."""
    figure = Figure(figsize=(11.5, 6.6), dpi=DPI, layout="constrained")
    plots = list(figure.subplots(2, 3).flat)
    for axes, panel in zip(plots, shown, strict=False):
        plot(axes, panel, found, found.time, (*SIDES, "limit"))
        axes.set_title(panel.title, fontsize=10, color=INK)
        axes.set_ylabel("ms an image")
    for axes, panel in zip(plots[len(shown) :], shown[1:], strict=False):
        plot(axes, panel, found, found.memory, SIDES)
        axes.set_title(f"{panel.title}: memory", fontsize=10, color=INK)
        axes.set_ylabel("MB at the peak")
    sides = [Line2D([], [], color=colour, label=NAMES[side]) for side, colour in COLOURS.items()]
    figure.legend(handles=sides, loc="outside lower center", ncols=3, fontsize=9, frameon=False)
    save(figure, out)


def plot(axes: Axes, panel: Panel, found: Found, value: Callable[[str, Point], float], sides: Iterable[str]) -> None:
    """Both axes logarithmic: a line falls or rises with the power of x that y follows."""
    styles = (("-", "o"), ("--", "s"))
    for (_, points), (line, marker) in zip(panel.points.items(), styles, strict=False):
        there = [p for p in points if p in found.rows]
        x = [getattr(p, panel.along) for p in there]
        for side in sides:
            dots = "" if side == "limit" else marker
            axes.plot(x, [value(side, p) for p in there], line, marker=dots, color=COLOURS[side], lw=1.6, ms=4)
    axes.set_xscale("log"), axes.set_yscale("log")
    ticks = sorted({getattr(p, panel.along) for points in panel.points.values() for p in points})
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_xlabel(panel.x)
    bare(axes)
    names = [LABELS.get(name, name) for name in panel.points]
    handles = [
        Line2D([], [], color=GREY, ls=ls, marker=m, ms=4, label=n) for n, (ls, m) in zip(names, styles, strict=False)
    ]
    axes.legend(handles=handles, fontsize=8, frameon=False)


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="tiny sizes")
    parser.add_argument("--draw", action="store_true", help="do not measure")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each side")
    parser.add_argument("--threads", type=int, default=available_cores(), help="the most")
    parser.add_argument("--loops", default="auto", help="ours, as of minidat train")
    parser.add_argument(
        "--out", type=Path, help="folder of speed.json, speed.png and, where it is there, the page speed.md"
    )
    parser.add_argument("--product", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args(words)
    if arguments.product:
        print(product(arguments.product[0], int(arguments.product[1])))
        return 0
    out = arguments.out or ROOT / ("build/growth" if arguments.quick else "docs")
    out.mkdir(parents=True, exist_ok=True)
    numbers, page = out / "speed.json", out / "speed.md"
    shown = panels(arguments.threads, arguments.quick)
    if not arguments.draw:
        size = 256 if arguments.quick else 4096
        content = measure_all(every(shown), rounds=arguments.rounds, loops=arguments.loops, size=size)
        numbers.write_text(json.dumps(content, indent=1) + "\n")
    found = Found(json.loads(numbers.read_text()))
    draw(shown, found, out / "speed.png")
    lines = table(found)
    print("\n".join(lines))
    if page.exists():
        pages.write(page, "growth", ["![Time and memory of a training step](speed.png)", "", *lines])
    return 0 if set(found.rows) == set(every(shown)) else 1


if __name__ == "__main__":
    sys.exit(main())
