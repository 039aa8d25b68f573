"""A picture of one prediction: the image as the network saw it, and the points that its deformable blocks read."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from minidat.analysis.points import (
    GROUPS,
    Record,
    check_records,
    describe,
    draw_points,
    on_host,
    overshoot,
    reference_pixels,
    show_image,
)
from minidat.analysis.style import DPI, GREY, INK, save, write_at

EDGE, SIDE, GAP, HEAD, FOOT = 0.25, 4.2, 0.12, 1.3, 1.2  # inches: around all, a panel, between panels, above, below
CAPTION = (
    "Reference points in grey; a line leads from each to where the block read its keys and values instead, one colour a "
    "group of channels. Points fade out beyond the map’s edge."
)


def prediction_figure(
    image: np.ndarray,
    records: Mapping[tuple[int, int], Record],
    out: Path,
    *,
    named: Sequence[tuple[str, float]],
) -> None:
    """One image, its most probable classes, and a panel for each deformable block, side by side, as a PNG.

    image: uint8 (H, W, 3), as it is to be seen. records: (stage, block) → what `model(x, record=records)` filled for this
    one image; see `points_figure.points_figure`. named: (class, probability), the most probable first. Raises ValueError for an
    image of another kind, for records of several images, for no records and for no classes.
    """
    check_records(image[None], records)
    if not named:
        raise ValueError("prediction_figure: named is empty: there is no class to write")
    records = {key: on_host(records[key]) for key in sorted(records)}
    rim = min(0.03 + max(map(_outside, records.values())), 1 / 6)  # parts of the image's sides
    tall, width = SIDE * image.shape[0] / image.shape[1], 2 * EDGE + SIDE + len(records) * (SIDE + GAP)
    height = HEAD + tall + FOOT
    start = EDGE + SIDE * rim / (1 + 2 * rim)  # where the first image begins, and all text above and below it
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")

    write = partial(write_at, figure)
    (name, share), *others = named
    write(start, 0.2, f"{name}, {share:.1%}", fontsize=18, fontweight="bold")
    rest = "then " + " · ".join(f"{name} {share:.1%}" for name, share in others)
    write(start, 0.62, textwrap.shorten(rest, int(11 * width), placeholder=" …") if others else "", color=GREY)
    for i, key in enumerate([None, *records]):
        step = i * (SIDE + GAP)
        axes = figure.add_axes(((EDGE + step) / width, FOOT / height, SIDE / width, tall / height))
        show_image(axes, image, 0.0 if key is None else 0.5, rim)
        below = HEAD + tall + 0.04
        if key is None:
            write(start + step, below, "What the network saw", fontsize=11, fontweight="bold")
            write(start + step, below + 0.24, textwrap.fill(CAPTION, 62), fontsize=8.5, color=GREY, linespacing=1.4)
            continue
        draw_points(axes, records[key], 0, image.shape[:2], SIDE / (1 + 2 * rim))
        write(start + step, below, f"Stage {key[0] + 1}, block {key[1] + 1}", fontsize=11, fontweight="bold")
        write(start + step, below + 0.24, describe(records[key]), fontsize=8.5, color=GREY, linespacing=1.4)
    groups = max(record["points"].shape[1] for record in records.values())
    _legend(figure, groups, start / width, 1 - (HEAD - 0.05) / height)
    save(figure, out)


def _outside(record: Record) -> float:
    """How far points or references lie outside the map, in parts of its sides."""
    both = record["points"], reference_pixels(record["reference"], record["size"])
    return max(float(overshoot(points, record["size"]).max()) for points in both)


def _legend(figure: Figure, groups: int, left: float, bottom: float) -> None:
    """Reference points and groups, upwards from a place in parts of the page."""
    marks = [("o", GREY, "reference point")]
    marks += [(GROUPS[g % len(GROUPS)][1], GROUPS[g % len(GROUPS)][0], f"group {g + 1}") for g in range(groups)]
    handles = [Line2D([], [], ls="", marker=m, ms=6, color=c, mec="white", mew=0.6, label=text) for m, c, text in marks]
    figure.legend(
        handles=handles,
        loc="lower left",
        bbox_to_anchor=(left, bottom),
        ncols=9,
        frameon=False,
        fontsize=9,
        labelcolor=INK,
        handletextpad=0.3,
        columnspacing=1.0,
        borderpad=0,
        borderaxespad=0,
    )
