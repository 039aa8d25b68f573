"""The curves of a training run."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from minidat.analysis.style import DPI, GREY, INK, bare, save

# blue, vermilion, green: distinct for every kind of colour vision
TRAIN, TEST, CHOSEN = "#0072b2", "#d55e00", "#009e73"
KINDS = ("train", "validation", "test")  # of records
LARGEST = 1e9  # what is drawn at most: a loss beyond is of a run that diverged


def curves(log: Path, out: Path, measures: Mapping[str, str] | None = None) -> None:
    """Loss and accuracy against epoch, of training batches and of validation or test images, as a PNG 1650 pixels wide.

    log: JSON lines; used are those whose "kind" is one of `KINDS`, with "epoch" (may be fractional), "loss" and "accuracy"
    (0 … 1). Values that are missing or cannot be drawn are left out, and the picture says how many. Training batches are
    noisy: they are drawn pale, under their moving mean. measures: the second panel shows these entries (0 … 1) of tests by
    their names, such as {"box_ap": "box AP"}, in place of the accuracy. Raises ValueError for a log without records.
    """
    others = measures if measures is not None and "accuracy" not in measures else {}
    keys = (("loss",), tuple(others)) if others else (("loss", "accuracy"),) * 2
    records, unreadable = _parse(log, *keys)
    figure = Figure(figsize=(11, 4.6), dpi=DPI, facecolor="white")
    for i, key in enumerate(("loss", "accuracy")):
        axes = figure.add_axes((0.055 + 0.495 * i, 0.13, 0.385, 0.75))
        bare(axes)
        title = _capital(key) if i == 0 or not others else _capital(" and ".join(others.values()))
        axes.set_title(title, loc="left", color=INK, fontsize=13, fontweight="bold", pad=10)
        axes.set_xlabel("epoch", color=INK)
        if others and i:
            _measures(axes, records, others)
            continue
        shown = KINDS if not others else KINDS[:1]
        _panel(axes, {kind: _series(records[kind] if kind in shown else [], key) for kind in KINDS}, key)
    _left_out(figure, [record for kind in records.values() for record in kind], unreadable)
    save(figure, out)


def read_log(log: Path) -> dict[str, list[dict[str, float]]]:
    """{kind: records} of a training log, for each of `KINDS`, in the log's order.

    A record is {"epoch", "loss", "accuracy"}; a value that is missing, not finite or beyond `LARGEST` is NaN. Lines of other
    kinds and unreadable ones are left out. Raises ValueError where no record is left.
    """
    return _parse(log, ("loss", "accuracy"), ("loss", "accuracy"))[0]


def _parse(log: Path, training: Sequence[str], tests: Sequence[str]) -> tuple[dict[str, list[dict[str, float]]], int]:
    """What `read_log` returns, with these entries beside the epoch, and the number of lines that are no JSON object; a last line
    that is still being written is not counted."""
    records: dict[str, list[dict[str, float]]] = {kind: [] for kind in KINDS}
    lines, unreadable = log.read_text(encoding="utf-8", errors="replace").split("\n"), 0
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
            kind = record.get("kind")
        except (ValueError, AttributeError, RecursionError):
            unreadable += bool(line.strip()) and number < len(lines)
            continue
        if isinstance(kind, str) and kind in records:
            wanted = ("epoch", *(training if kind == "train" else tests))
            records[kind].append({key: _number(record.get(key)) for key in wanted})
    if not any(records.values()):
        raise ValueError(f"{log}: holds no record of training or of a test yet: nothing to draw")
    return records, unreadable


def _capital(text: str) -> str:
    """With a capital first letter; mIoU stays as it is."""
    return text if text.startswith("mIoU") else text[:1].upper() + text[1:]


def _number(value: Any) -> float:
    """A value of the log as a number that can be drawn, else NaN."""
    return float(value) if isinstance(value, int | float) and abs(value) <= LARGEST else math.nan


def moving_mean(values: np.ndarray, width: int) -> np.ndarray:
    """(n,) → (n,): the mean of the `width` (odd) values around each; near the ends, of those there are."""
    n, sums = len(values), np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])
    first = np.maximum(np.arange(n) - width // 2, 0)
    end = np.minimum(np.arange(n) + width // 2 + 1, n)
    return (sums[end] - sums[first]) / (end - first)


def _panel(axes: Axes, series: Mapping[str, tuple[np.ndarray, np.ndarray]], key: str) -> None:
    """One key of all kinds of record: kind → (epochs, values)."""
    epochs, values = (np.concatenate(column) for column in zip(*series.values(), strict=True))
    _limits(axes, epochs, values, key)
    _curve(axes, *series["train"])
    validation, test = series["validation"], series["test"]
    names = [(test, "test set", TEST)]
    if len(validation[0]):
        names = [(validation, "validation images", TEST), (test, "test set, best epoch", CHOSEN)]
    last = [points[1][-1] for points, _, _ in names if len(points[1])]
    for points, label, colour in names:
        if len(points[1]):
            raised = 7 * np.sign(points[1][-1] - np.mean(last))  # the labels beside the last points do not meet
            _points(axes, *points, label, colour, percent=key == "accuracy", raised=float(raised))
    if axes.lines:
        low = key == "accuracy" or values[-1] > 0.6 * values.max()
        axes.legend(loc="lower right" if low else "upper right", frameon=False, labelcolor=INK)


def _measures(axes: Axes, records: Mapping[str, list[dict[str, float]]], names: Mapping[str, str]) -> None:
    """Several measures of the validation images where there are some, else of the test set; key → name."""
    kind = "validation" if records["validation"] else "test"
    series = {key: _series(records[kind], key) for key in names}
    epochs, values = (np.concatenate(column) for column in zip(*series.values(), strict=True))
    _limits(axes, epochs, values, "measure")
    last = [points[1][-1] for points in series.values() if len(points[1])]
    of = "validation images" if kind == "validation" else "test set"
    for (key, points), colour in zip(series.items(), (TEST, CHOSEN, TRAIN)):
        if len(points[1]):
            raised = 7 * np.sign(points[1][-1] - np.mean(last))  # the labels beside the last points do not meet
            _points(axes, *points, f"{names[key]}, {of}", colour, percent=False, raised=float(raised))
    if axes.lines:
        axes.legend(loc="lower right", frameon=False, labelcolor=INK)


def _left_out(figure: Figure, records: Sequence[Mapping[str, float]], unreadable: int) -> None:
    """Say how many records miss a value, or are `unreadable` altogether."""
    count = unreadable + sum(not all(map(math.isfinite, record.values())) for record in records)
    if count:
        text = f"{count} of {unreadable + len(records)} records miss a value, or have one that cannot be drawn"
        figure.text(0.495, 0.015, text, ha="center", va="bottom", fontsize=9, color=GREY)


def _series(records: Sequence[Mapping[str, float]], key: str) -> tuple[np.ndarray, np.ndarray]:
    """(epochs, values) of one key, (n,) each: the records where both are numbers."""
    pairs = np.array([(record["epoch"], record[key]) for record in records]).reshape(-1, 2)  # (N, 2)
    epochs, values = pairs[np.isfinite(pairs).all(1)].T
    return epochs, values


def _curve(axes: Axes, epochs: np.ndarray, values: np.ndarray) -> None:
    """Training batches: each, pale, and their moving mean; a few are shown as they are."""
    if not len(values):
        return
    if len(values) < 40:
        axes.plot(epochs, values, color=TRAIN, lw=1.5, marker="s", ms=3.5, label="training batches")
        return
    width = 2 * (len(values) // 80) + 1
    axes.plot(epochs, values, color=TRAIN, lw=0.5, alpha=0.28)
    axes.plot(epochs, moving_mean(values, width), color=TRAIN, lw=1.8, label="training batches, moving mean")


def _points(
    axes: Axes, epochs: np.ndarray, values: np.ndarray, label: str, colour: str, *, percent: bool, raised: float
) -> None:
    """Tests, and the last value beside the last point, `raised` typographic points above it."""
    size = float(np.clip(240 / len(values), 2.5, 5))
    marks: dict[str, Any] = {"marker": "o", "ms": size, "mec": "white", "mew": size / 7}
    axes.plot(epochs, values, color=colour, lw=1.5, **marks, label=label, zorder=3)
    axes.annotate(
        f"{values[-1]:.1%}" if percent else f"{values[-1]:.2f}",
        (float(epochs[-1]), float(values[-1])),
        xytext=(8, raised),
        textcoords="offset points",
        va="center",
        color=colour,
        fontweight="bold",
        annotation_clip=False,
    )


def _limits(axes: Axes, epochs: np.ndarray, values: np.ndarray, key: str) -> None:
    """Both axes from 0; accuracy in per cent, and no further than the full 100; other measures to 1."""
    last, top = epochs.max(initial=0), values.max(initial=0)
    axes.set_xlim(0, 1.02 * last or 1)
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=bool(last >= 4), steps=[1, 2, 5, 10]))
    axes.set_ylim(0, 1.05 * top or 1)
    if key == "measure":
        axes.set_ylim(0, 1.02)
    if key == "accuracy":
        axes.set_ylim(0, min(1.02, 1.1 * top) or 1)
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
