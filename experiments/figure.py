"""One picture a table: a dot for each run, a bar for each row's mean."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from experiments.tables import Table
from minidat.analysis.style import DPI, INK, bare, save

BLUE, ORANGE = "#0072b2", "#d55e00"


def draw(table: Table, rows: list[tuple[str, dict[int, float]]], out: Path) -> None:
    """rows: (name, seed → accuracy in percent), drawn from the top down in this order; rows without a run are left out."""
    shown = [(name, values) for name, values in rows if values]
    figure = Figure(figsize=(6.4, 1.1 + 0.32 * len(shown)), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    bare(axes)
    for place, (name, values) in enumerate(shown):
        centre = sum(values.values()) / len(values)
        colour = ORANGE if name == table.base else BLUE
        axes.plot([centre, centre], [place - 0.32, place + 0.32], color=colour, lw=2.2)
        axes.plot(
            list(values.values()), [place] * len(values), "o", ms=5, color=colour, alpha=0.65, mec="white", mew=0.6
        )
    axes.set_yticks(range(len(shown)), [name for name, _ in shown])
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.set_xlabel("test accuracy, %\na dot: one seed; a bar: the mean; orange: the base", color=INK, fontsize=9)
    figure.suptitle(table.question, x=0.01, ha="left", color=INK, fontsize=10)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)
    save(figure, out)
