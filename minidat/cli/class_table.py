"""Accuracy by class as text: all classes, or the worst and the best of many."""

from __future__ import annotations

import unicodedata

import numpy as np

from minidat.cli.terminal import COLUMNS, printable
from minidat.metrics.by_class import ByClass

FEW = 24  # classes that are all shown
WORST, BEST, PAIRS = 10, 5, 5  # lines where there are more; pairs of classes that are confused
LONGEST = 24  # columns of a name


def class_table(report: ByClass) -> str:
    """Accuracy by class in lines of at most 80 columns, and which classes are taken for which others."""
    count = report.count
    there = np.flatnonzero(count)
    order = there[np.argsort(report.right[there] / count[there], kind="stable")]  # the worst first
    width = max(map(columns, (name_of(report, k) for k in range(len(report.classes)))))
    if len(order) <= FEW:
        lines = ["accuracy by class, the worst first", *_side_by_side([_entry(report, k, width) for k in order])]
    else:
        lines = [f"the worst {WORST} of {len(order):,} classes"]
        lines += _side_by_side([_entry(report, k, width) for k in order[:WORST]])
        lines += [f"the best {BEST}", *_side_by_side([_entry(report, k, width) for k in order[: -BEST - 1 : -1]])]
    absent = len(count) - len(there)
    lines += [f"without an image here: {absent} of {len(count)} classes"] if absent else []
    pairs = report.confusions(PAIRS)
    lines += ["taken most often for another class"] if pairs else []
    for i, j, times in pairs:
        lines.append(
            f"  {padded(name_of(report, i), width)}  for {padded(name_of(report, j), width)}  {times:,} of {count[i]:,}"
        )
    return "\n".join(line.rstrip() for line in lines)


def _entry(report: ByClass, k: int, width: int) -> str:
    right, count = int(report.right[k]), int(report.count[k])
    return f"  {padded(name_of(report, k), width)}  {100 * right / count:5.1f} %  {f'{right:,} of {count:,}':<12}"


def _side_by_side(entries: list[str]) -> list[str]:
    """Two entries a line where they fit, in order down the first column, then down the second."""
    if len(entries) < 6 or max(map(columns, entries)) * 2 > COLUMNS:
        return entries
    half = -(-len(entries) // 2)
    return [a + b for a, b in zip(entries[:half], [*entries[half:], ""])]


def name_of(report: ByClass, k: int) -> str:
    """A class's name for a terminal, cut to `LONGEST` columns."""
    name = printable(report.classes[k])
    if columns(name) <= LONGEST:
        return name
    while columns(name) > LONGEST - 1:
        name = name[:-1]
    return name + "…"


def columns(text: str) -> int:
    """How many columns of a terminal a text takes: two for wide characters, none for marks that stand on others."""
    wide = sum(unicodedata.east_asian_width(c) in "WF" for c in text)
    return len(text) + wide - sum(unicodedata.category(c) in ("Mn", "Me", "Cf") for c in text)


def padded(text: str, width: int) -> str:
    return text + " " * (width - columns(text))
