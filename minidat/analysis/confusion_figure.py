"""The picture of a confusion matrix."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from minidat.analysis.style import DPI, GREY, INK, save, short

NUMBERED = 20  # classes with a number in each cell
NAMED = 60  # classes with names along the sides
LONGEST = 28  # characters of a name
SHADES = LinearSegmentedColormap.from_list("shares", ["#ffffff", "#9ecae1", "#2171b5", "#08306b"])


def confusion_figure(confusion: np.ndarray, classes: Sequence[str], out: Path) -> None:
    """A square for each pair of classes, dark where many images of the row's class were taken for the column's, as a PNG.

    confusion: int (K, K), see `metrics.by_class.ByClass`. A square's shade is the root of its share of the row's
    images, so that a rare confusion can be seen. Up to 20 classes have
    their counts in the squares, up to 60 their names at the sides. Raises ValueError for another shape.
    """
    count = len(classes)
    if confusion.shape != (count, count):
        raise ValueError(f"confusion_figure: confusion has shape {confusion.shape}, expected {(count, count)}")
    shares = confusion / np.maximum(confusion.sum(1, keepdims=True), 1)
    names = [short(name, LONGEST) for name in classes]
    cell = 0.42 if count <= NUMBERED else 0.2 if count <= NAMED else 7.0 / count  # inches
    room = 0.35 + (0.085 * max(map(len, names)) if count <= NAMED else 0.25)
    side = max(cell * count, 2.4)
    width, height = side + room + 0.3, side + room + 0.75
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
    axes = figure.add_axes((room / width, room / height, side / width, side / height))
    axes.imshow(np.sqrt(shares), cmap=SHADES, vmin=0, vmax=1, interpolation="nearest", aspect="equal")
    axes.spines[:].set_color(GREY)
    axes.tick_params(length=0, colors=GREY, labelcolor=INK)
    axes.set_ylabel("the image's class", color=INK)
    axes.set_xlabel("taken for", color=INK)
    ticks = np.arange(count) if count <= NAMED else np.arange(0, count, 10 ** len(str(count // 25)))
    shown = names if count <= NAMED else [str(i) for i in range(count)]
    axes.set_xticks(
        ticks, [shown[i] for i in ticks], rotation=90 if count <= NAMED else 0, parse_math=False, fontsize=8
    )
    axes.set_yticks(ticks, [shown[i] for i in ticks], parse_math=False, fontsize=8)
    if count <= NUMBERED:
        for i, j in zip(*np.nonzero(confusion), strict=True):
            colour = "white" if shares[i, j] > 0.25 else INK
            axes.text(j, i, f"{confusion[i, j]}", ha="center", va="center", fontsize=8, color=colour)
    right, total = int(confusion.trace()), int(confusion.sum())
    title = f"{right:,} of {total:,} right" + ("" if count <= NAMED else f", {count} classes by number")
    figure.text(room / width, 1 - 0.3 / height, title, color=INK, fontsize=12, fontweight="bold", va="center")
    save(figure, out)
