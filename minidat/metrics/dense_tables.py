"""The results of detection and segmentation as text of at most 80 columns."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from minidat.metrics.average_precision import Curves
from minidat.metrics.mean_iou import Confusion

NAME = 24  # characters of a class's name before it is cut


def coco_table(curves: Curves) -> str:
    """COCO's twelve lines, character by character as its own evaluation prints them; −1 where there is no object."""
    lines = []
    for name, value in curves.numbers.items():
        kind, rest = name[:2], name[2:]
        title = "Average Precision" if kind == "AP" else "Average Recall"
        overlap = f"0.{rest}" if kind == "AP" and rest.isdecimal() else "0.50:0.95"
        area = {"s": "small", "m": "medium", "l": "large"}.get(rest, "all")
        most = int(rest) if kind == "AR" and rest.isdecimal() else 100
        lines.append(
            f" {title:<18} ({kind}) @[ IoU={overlap:<9} | area={area:>6s} | maxDets={most:>3d} ] = {value:0.3f}"
        )
    return "\n".join(lines)


def ap_by_class(curves: Curves, names: Sequence[str]) -> str:
    """A line for each class with AP, AP50 and AP75 in percent; – where there is no object."""
    rows = [
        (name, [curves.ap(label=k), curves.ap(0.5, label=k), curves.ap(0.75, label=k)]) for k, name in enumerate(names)
    ]
    shown = [(name, [np.nan if value < 0 else value for value in values]) for name, values in rows]
    return _by_class(("AP", "AP50", "AP75"), shown)


def iou_table(confusion: Confusion, names: Sequence[str]) -> str:
    """A line for each class with IoU and accuracy in percent, – where there is none, then mIoU, mAcc and aAcc."""
    found, numbers = zip(confusion.iou, confusion.accuracy), confusion.numbers
    rows = [(name, list(values)) for name, values in zip(names, found, strict=True)]
    means = "  ".join(f"{name} {_percent(value).strip()}" for name, value in numbers.items())
    return _by_class(("IoU", "Acc"), rows) + "\n" + means


def _by_class(heads: Sequence[str], rows: Sequence[tuple[str, list[float]]]) -> str:
    names = [name if len(name) <= NAME else name[: NAME - 1] + "…" for name, _ in rows]
    width = max(map(len, ["class", *names]))
    lines = [f"{'class':<{width}}" + "".join(f"{head:>8}" for head in heads)]
    lines.append("─" * len(lines[0]))
    lines += [
        f"{name:<{width}}" + "".join(f"{_percent(value):>8}" for value in values)
        for name, (_, values) in zip(names, rows)
    ]
    return "\n".join([*lines, lines[1]])


def _percent(value: float) -> str:
    return "–" if np.isnan(value) else f"{100 * value:.2f}"
