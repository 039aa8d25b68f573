"""The curves of a training run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from minidat.analysis.style import DPI, INK, bare, save

TRAIN, TEST = "#0072b2", "#d55e00"  # blue and vermilion: apart for every kind of colour vision


def curves(log: Path, out: Path) -> None:
    """Loss and accuracy against epoch, of training batches and of the test set, as a PNG 1650 pixels wide.

    log: JSON lines; used are those whose "kind" is "train" or "test", with "epoch" (may be fractional),
    "loss" and "accuracy" (0 … 1). A last line that is still being written is left out. Training batches are
    noisy: they are drawn pale, under their moving mean. Raises ValueError for any other line that is no such
    record, and for a log without records.
    """
    records = read_log(log)
    figure = Figure(figsize=(11, 4.6), dpi=DPI, facecolor="white")
    for i, key in enumerate(("loss", "accuracy")):
        axes = figure.add_axes((0.055 + 0.495 * i, 0.13, 0.385, 0.75))
        bare(axes)
        _curve(axes, records["train"], key)
        _test_points(axes, records["test"], key)
        axes.set_title(key.capitalize(), loc="left", color=INK, fontsize=13, fontweight="bold", pad=10)
        axes.set_xlabel("epoch", color=INK)
        _limits(axes, [record for kind in records.values() for record in kind], key)
        axes.legend(loc="upper right" if key == "loss" else "lower right", frameon=False, labelcolor=INK)
    save(figure, out)


def read_log(log: Path) -> dict[str, list[dict[str, float]]]:
    """{"train": records, "test": records} of a training log, in the log's order. Errors as in `curves`."""
    records: dict[str, list[dict[str, float]]] = {"train": [], "test": []}
    keys = ("epoch", "loss", "accuracy")
    lines = log.read_text(encoding="utf-8").splitlines(keepends=True)
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
            if record["kind"] in records:
                records[record["kind"]].append({key: float(record[key]) for key in keys})
        except (ValueError, KeyError, TypeError) as error:
            if number == len(lines) and not line.endswith("\n"):
                break
            found = f"line {number} is no record of a training log: {line.strip()[:80]!r}"
            raise ValueError(f"{log}: {found}") from error
    if not any(records.values()):
        raise ValueError(f'{log}: holds no record of kind "train" or "test" yet: nothing to draw')
    return records


def moving_mean(values: np.ndarray, width: int) -> np.ndarray:
    """(n,) → (n,): the mean of the `width` (odd) values around each; near the ends, of those there are."""
    n, sums = len(values), np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])
    first = np.maximum(np.arange(n) - width // 2, 0)
    end = np.minimum(np.arange(n) + width // 2 + 1, n)
    return (sums[end] - sums[first]) / (end - first)


def _curve(axes: Axes, records: Sequence[Mapping[str, float]], key: str) -> None:
    """Training batches: each, pale, and their moving mean; a few are shown as they are."""
    if not records:
        return
    epochs, values = (np.array([record[k] for record in records]) for k in ("epoch", key))
    if len(values) < 40:
        axes.plot(epochs, values, color=TRAIN, lw=1.5, marker="s", ms=3.5, label="training batches")
        return
    width = 2 * (len(values) // 80) + 1
    axes.plot(epochs, values, color=TRAIN, lw=0.5, alpha=0.28)
    axes.plot(epochs, moving_mean(values, width), color=TRAIN, lw=1.8, label="training batches, moving mean")


def _test_points(axes: Axes, records: Sequence[Mapping[str, float]], key: str) -> None:
    """The test set, and the last value beside the last point."""
    if not records:
        return
    epochs, values = ([record[k] for record in records] for k in ("epoch", key))
    size = float(np.clip(240 / len(values), 2.5, 5))
    marks: dict[str, Any] = {"marker": "o", "ms": size, "mec": "white", "mew": size / 7}
    axes.plot(epochs, values, color=TEST, lw=1.5, **marks, label="test set", zorder=3)
    text = f"{values[-1]:.1%}" if key == "accuracy" else f"{values[-1]:.2f}"
    axes.annotate(
        text,
        (epochs[-1], values[-1]),
        xytext=(8, 0),
        textcoords="offset points",
        va="center",
        color=TEST,
        fontweight="bold",
        annotation_clip=False,
    )


def _limits(axes: Axes, records: Sequence[Mapping[str, float]], key: str) -> None:
    """Both axes from 0; accuracy in per cent, and no further than the full 100."""
    last, top = max(record["epoch"] for record in records), max(record[key] for record in records)
    axes.set_xlim(0, 1.02 * last or 1)
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=last >= 4, steps=[1, 2, 5, 10]))
    axes.set_ylim(0, 1.05 * top or 1)
    if key == "accuracy":
        axes.set_ylim(0, min(1.02, 1.1 * top) or 1)
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
