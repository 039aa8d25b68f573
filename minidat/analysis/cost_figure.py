"""The figure of cost against resolution: predicted multiply-adds and measured time of each letter of `MIXERS`."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator
from threadpoolctl import threadpool_limits

from minidat import nn
from minidat.analysis.mixer_cost import mixer_cost
from minidat.analysis.style import DPI, GREY, INK, bare, save
from minidat.attention import Offsets
from minidat.autograd import Tensor, no_grad
from minidat.models.config import StageConfig
from minidat.models.mixers import mixer

DIM, HEADS, SIDES = 96, 3, (7, 14, 28, 56, 112)
# bytes: the most that the attention weights of a measured pass may take; a pass takes a few times as much
SCORES = 2**28

Clock = Callable[[], float]


@dataclass(frozen=True)
class Curve:
    """One attention: its letter of `MIXERS`, its options of `StageConfig`, and how it is drawn."""

    name: str
    letter: str
    options: dict[str, Any]
    colour: str
    mark: str
    line: Any = "-"

    def build(self, side: int, rng: np.random.Generator) -> nn.Module:
        stage = StageConfig(DIM, HEADS, (self.letter,), **self.options)
        return mixer(self.letter, stage, (side, side), "paper", rng)

    def sides(self) -> list[int]:
        """The map sides of `SIDES` that it takes."""
        return [side for side in SIDES if side >= self.options.get("reduction", 1)]


CURVES = (
    Curve("ViT, full", "A", {}, "#1a1a1a", "o"),
    Curve("DAT, r = 1 as in its stage 3", "D", {"offsets": Offsets(kernel=5), "groups": 3}, "#d55e00", "D"),
    Curve("DAT, r = 8 as in DAT++’s stage 1", "D", {"offsets": Offsets(8, kernel=9)}, "#d55e00", "d", (0, (4, 2))),
    Curve("PVT, R = 8", "P", {"reduction": 8}, "#0072b2", "s"),
    Curve("Swin, 7×7 windows", "L", {"window": 7}, "#009e73", "^"),
    Curve("NAT, 7×7 neighbours", "N", {"neighborhood": 7}, "#e69f00", "v", (0, (1, 1.5))),
    Curve("DCN v2, 3×3", "C", {}, "#b5489a", "P"),
    Curve("Deformable DETR, 4 points", "M", {}, "#7a4b1c", "X"),
    Curve("ConvNeXt, 7×7 kernel", "X", {"window": 7}, "#56b4e9", "p"),
)


def cost_figure(out: Path, *, seed: int = 0, clock: Clock = time.process_time) -> None:
    """Predicted multiply-adds and measured times of a forward pass against the side of the map, as a PNG.

    One image, 96 channels, 3 heads. The right axis is the left one divided by the median rate (multiply-adds per second) of all
    measurements: a mark above its line is an attention slower than that rate. seed: of weights and maps. clock: seconds, by
    default of processor time, which other programs influence little.
    """
    rng = np.random.default_rng(seed)
    work = {curve.name: predicted(curve, rng) for curve in CURVES}
    with threadpool_limits(1):
        times = {curve.name: measured(curve, rng, clock) for curve in CURVES}
    rate = median(work[name][side] / seconds for name, by_side in times.items() for side, seconds in by_side.items())
    figure = Figure(figsize=(11.5, 6.8), dpi=DPI, facecolor="white")
    left, right = (figure.add_axes((x, 0.32, 0.395, 0.52)) for x in (0.07, 0.58))
    for curve in CURVES:
        _line(left, curve, work[curve.name], marked=True)
        _line(right, curve, {side: n / rate for side, n in work[curve.name].items()}, marked=False)
        style: dict[str, Any] = {
            "marker": curve.mark,
            "color": curve.colour,
            "ms": 6.5,
            "mec": "white",
            "mew": 0.6,
            "ls": "",
        }
        right.plot(list(times[curve.name]), list(times[curve.name].values()), **style)
    _dress(left, "Predicted multiply-adds")
    _dress(right, "Measured forward pass")
    counts = [n for by_side in work.values() for n in by_side.values()]
    seconds = [t for by_side in times.values() for t in by_side.values()]
    low, high = min(*counts, rate * min(seconds)) / 1.6, max(*counts, rate * max(seconds)) * 1.6
    left.set_ylim(low, high)
    right.set_ylim(low / rate, high / rate)
    right.yaxis.set_major_formatter(FuncFormatter(_seconds))
    left.yaxis.set_major_formatter(FuncFormatter(_count))
    figure.text(0.035, 0.95, "What a map costs each attention", fontsize=17, fontweight="bold", color=INK)
    about = "One pass over one side × side map of 96 channels, 3 heads, without norms, MLP and residual"
    figure.text(0.035, 0.91, about, fontsize=10.5, color=GREY)
    figure.legend(
        *left.get_legend_handles_labels(), loc="upper left", bbox_to_anchor=(0.05, 0.245), ncols=3, frameon=False
    )
    figure.text(0.055, 0.025, _caption(rate), fontsize=8.8, color=INK, linespacing=1.45)
    save(figure, out)


def predicted(curve: Curve, rng: np.random.Generator) -> dict[int, int]:
    """Side → multiply-adds, in the paper's convention, which also counts bilinear samples."""
    mixers = {side: curve.build(side, rng) for side in curve.sides()}
    return {side: mixer_cost(module, (side, side), "paper").multiply_adds for side, module in mixers.items()}


def measured(curve: Curve, rng: np.random.Generator, clock: Clock) -> dict[int, float]:
    """Side → seconds of a forward pass: the median of up to five passes after a first one. Sides that would need more
    memory than `SCORES` allows are left out."""
    seconds: dict[int, float] = {}
    for side in curve.sides():
        module = curve.build(side, rng)
        pairs = mixer_cost(module, (side, side)).products // (2 * DIM)  # of a query and a key
        if 4 * HEADS * pairs > SCORES:
            break
        x = Tensor(rng.normal(size=(1, side, side, DIM)).astype(np.float32))
        taken = [_time(module, x, clock)]
        while len(taken) < 2 or (len(taken) < 6 and sum(taken) < 2):
            taken.append(_time(module, x, clock))
        seconds[side] = median(taken[1:])
    return seconds


def _time(module: nn.Module, x: Tensor, clock: Clock) -> float:
    start = clock()
    with no_grad():
        module(x)
    return clock() - start


def _line(axes: Axes, curve: Curve, values: Mapping[int, float], *, marked: bool) -> None:
    style: dict[str, Any] = {"color": curve.colour, "ls": curve.line, "lw": 1.8 if marked else 1.0}
    if marked:
        style |= {"marker": curve.mark, "ms": 6, "mec": "white", "mew": 0.6, "label": curve.name}
    axes.plot(list(values), list(values.values()), alpha=1 if marked else 0.55, **style)


def _dress(axes: Axes, title: str) -> None:
    bare(axes)
    axes.set(xscale="log", yscale="log", xlabel="side of the map", xticks=SIDES, xticklabels=map(str, SIDES))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_title(title, loc="left", color=INK, fontsize=12, fontweight="bold", pad=8)


def _count(n: float, _: Any) -> str:
    """1e6 → 1 M"""
    power, unit = next((p, u) for p, u in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (0, "")) if n >= p)
    return f"{n / (power or 1):g} {unit}".rstrip()


def _seconds(t: float, _: Any) -> str:
    """1e-3 → 1 ms"""
    power, unit = next((p, u) for p, u in ((1, "s"), (1e-3, "ms"), (0, "µs")) if t >= 0.999 * p)
    return f"{t / (power or 1e-6):g} {unit}"


def _caption(rate: float) -> str:
    text = (
        "Counted as the paper does: a multiply-add of a layer or of an attention product is 1, a bilinear sample 4, an element "
        f"of a layer norm 5. The right axis is the left one at {rate / 1e9:.2g} G multiply-adds per second, the median of all "
        "marks: a mark above its line is slower than that. Marks are medians of up to five passes after a first one, "
        "float32, processor time of one core; those that would need more than about a gigabyte are left out. Swin’s and NAT’s "
        "lines coincide. ConvNeXt’s convolution has no matrix: its channels meet in the MLP."
    )
    return textwrap.fill(text, 160)
