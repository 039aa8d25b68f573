"""Deformable points on an image: where they lie, how far outside, and how they are drawn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection

from minidat.analysis.style import GREY
from minidat.autograd.backend import asnumpy
from minidat.ops.coordinates import to_pixels

GROUPS = (  # of a group of points: its colour, and its mark, so that a grey print tells them apart too
    ("#d55e00", "o"),
    ("#0072b2", "s"),
    ("#009e73", "^"),
    ("#b5489a", "D"),
    ("#e69f00", "v"),
    ("#3a9bd9", "P"),
    ("#7a4b1c", "X"),
    ("#6a51a3", "p"),
)

Record = Mapping[str, Any]


def map_to_image(points: np.ndarray, size: tuple[int, int], image: tuple[int, int]) -> np.ndarray:
    """Points (…, 2), (row, col) in pixels of a map of `size` (h, w), in pixels of an image (H, W) that the
    map covers: (p + ½)·H/h − ½, since pixel i reaches from i − ½ to i + ½ in both."""
    scale = np.array([whole / n for whole, n in zip(image, size, strict=True)])
    return (np.asarray(points) + 0.5) * scale - 0.5


def reference_pixels(reference: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Reference points (P, 2), normalised to [−1, 1], in pixels of a map of `size` (h, w)."""
    return np.stack([to_pixels(np.asarray(reference)[:, i], n) for i, n in enumerate(size)], -1)


def overshoot(points: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """How far points (…, 2) lie outside a map of `size` (h, w), in parts of its sides: (…), 0 inside."""
    parts = (np.asarray(points) + 0.5) / size
    return np.maximum(np.maximum(-parts, parts - 1), 0.0).max(-1)


def on_host(record: Record) -> Record:
    """The record with its points and references in NumPy."""
    return dict(record) | {key: asnumpy(record[key]) for key in ("points", "reference")}


def check_records(images: np.ndarray, records: Mapping[tuple[int, int], Record]) -> None:
    """Raises ValueError for images that are not uint8 (N, H, W, 3), for no records and for those of other images."""
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3 or not len(images):
        got = f"{images.dtype} {images.shape}"
        raise ValueError(f"points: images must be uint8 (N, H, W, 3), got {got}")
    if not records:
        why = "the model has no deformable block, or was called without record="
        raise ValueError(f"points: records is empty: {why}")
    for (stage, block), record in records.items():
        n = len(record["points"])
        if n != len(images):
            where = f"records[{stage}, {block}]"
            raise ValueError(f"points: {where} is of {n} images, but {len(images)} are given")


def describe(record: Record) -> str:
    """Under a row's label: how many points there are, and how far they moved."""
    points, size = record["points"], record["size"]
    moved = np.linalg.norm(points - reference_pixels(record["reference"], size), axis=-1).mean()
    map_size, grid = ("×".join(map(str, record[name])) for name in ("size", "grid"))
    groups, outside = points.shape[1], (overshoot(points, size) > 0).mean()
    lines = [
        f"{map_size} map, {grid} points",
        f"{groups} groups" if groups > 1 else "1 group",
        f"mean move {moved:.2f} map pixels",
    ]
    return "\n".join([*lines, f"{outside:.1%} outside the map"] if outside else lines)


def show_image(axes: Axes, image: np.ndarray, pale: float, rim: float) -> None:
    """An image, enlarged without smoothing, lightened so that points stand out, with a white rim."""
    rows, cols = image.shape[:2]
    axes.imshow(image + ((255 - image) * pale).astype(np.uint8), interpolation="nearest")
    axes.set_xlim(-0.5 - rim * cols, cols - 0.5 + rim * cols)
    axes.set_ylim(rows - 0.5 + rim * rows, -0.5 - rim * rows)
    axes.set_axis_off()


def draw_points(axes: Axes, record: Record, i: int, image: tuple[int, int], inches: float) -> None:
    """Image i's points: grey references, a line from each to where it went, a mark there."""
    size = record["size"]
    reference = reference_pixels(record["reference"], size)
    start = map_to_image(reference, size, image)[:, ::-1]  # (P, 2) as (x, y)
    ends = map_to_image(record["points"][i], size, image)[..., ::-1]  # (G, P, 2)
    mark = float(np.clip(0.2 * 72 * inches / max(record["grid"]), 1.8, 5.5))  # typographic points
    for group, end in enumerate(ends):
        colour, _ = GROUPS[group % len(GROUPS)]
        lines = list(np.stack([start, end], 1))
        axes.add_collection(LineCollection(lines, colors=colour, linewidths=mark / 4.5))
    axes.plot(*start.T, "o", ms=0.75 * mark, color=GREY, mec="white", mew=mark / 12)
    for group, end in enumerate(ends):
        colour, shape = GROUPS[group % len(GROUPS)]
        axes.plot(*end.T, shape, ms=mark, color=colour, mec="white", mew=mark / 9)
