"""A picture of one image's most important keys: circles where deformable blocks read, larger for a higher score."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from minidat.analysis.keys import Place, Read
from minidat.analysis.points import map_to_image, overshoot, show_image
from minidat.analysis.style import DPI, GREY, save, write_at

EDGE, SIDE, GAP, HEAD, FOOT = 0.25, 4.0, 0.12, 0.85, 0.95  # inches: around all, a panel, between panels, above, below
ORANGE = "#e8710a"
MOST = 30  # circles of a stage
AREA = 0.012  # of the largest circle, in parts of the panel's area
CAPTION = (
    "A circle is a key that the deformable blocks of a stage read, its area how much of the answer is mixed from it: attention "
    "weights, handed down through the blocks above. That says where the network read, not that only these pixels counted."
)


def keys_figure(
    image: np.ndarray,
    seen: Mapping[Place, Read],
    scores: Mapping[Place, np.ndarray],
    out: Path,
    *,
    title: str,
    keep: int | None = None,
    query: tuple[float, float] | None = None,
) -> None:
    """One image as the network saw it, and a panel for each stage with deformable blocks, side by side, as a PNG.

    image: uint8 (H, W, 3). seen, scores: of `keys.look` and `keys.important_keys`. keep: how many keys of a stage are circles
    (None: a third of them, at most `MOST`); the others are grey dots. query: (row, col) in pixels of the image, drawn as a star.
    Raises ValueError for an image of another kind, and where there is no deformable block.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"keys_figure: image must be uint8 (H, W, 3), got {image.dtype} {image.shape}")
    stages = sorted({stage for stage, _ in scores})
    if not stages:
        raise ValueError("keys_figure: scores is empty: the network has no deformable block")
    keys = {stage: _keys(seen, scores, stage, image.shape[:2]) for stage in stages}
    outside = max(float(overshoot(points, image.shape[:2]).max()) for points, _ in keys.values())
    rim = min(0.03 + outside, 1 / 6)  # parts of the image's sides
    tall, width = SIDE * image.shape[0] / image.shape[1], 2 * EDGE + SIDE + len(stages) * (SIDE + GAP)
    height = HEAD + tall + FOOT
    start = EDGE + SIDE * rim / (1 + 2 * rim)  # where the first image begins, and all text above and below it
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")

    write = partial(write_at, figure)
    write(start, 0.2, title, fontsize=16, fontweight="bold")
    what = "for the query at the star" if query else "for the whole answer"
    write(start, 0.6, f"The most important keys {what}", fontsize=11, color=GREY)
    for i, stage in enumerate([None, *stages]):
        step = i * (SIDE + GAP)
        axes = figure.add_axes(((EDGE + step) / width, FOOT / height, SIDE / width, tall / height))
        show_image(axes, image, 0.0 if stage is None else 0.35, rim)
        if query is not None:
            axes.plot(query[1], query[0], "*", color="#d11141", mec="white", ms=15, mew=1.0)
        if stage is None:
            write(start + step, HEAD + tall + 0.04, "What the network saw", fontsize=11, fontweight="bold")
            lines = textwrap.fill(CAPTION, 66)
            write(start + step, HEAD + tall + 0.26, lines, fontsize=8, color=GREY, linespacing=1.35)
            continue
        points, found = keys[stage]
        circles = min(MOST, -(-len(found) // 3)) if keep is None else min(keep, len(found))
        _circles(axes, points, found, circles, SIDE / (1 + 2 * rim))
        write(start + step, HEAD + tall + 0.04, f"Stage {stage + 1}", fontsize=11, fontweight="bold")
        write(start + step, HEAD + tall + 0.28, _describe(scores, stage, found, circles), fontsize=8.5, color=GREY)
    save(figure, out)


def _keys(
    seen: Mapping[Place, Read], scores: Mapping[Place, np.ndarray], stage: int, image: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """All keys of a stage's blocks: points (n, 2) in pixels of the image, scores (n,) that add up to 1."""
    of_stage = [place for place in sorted(scores) if place[0] == stage]
    points = [map_to_image(seen[place].points.reshape(-1, 2), seen[place].size, image) for place in of_stage]
    found = np.concatenate([scores[place].ravel() for place in of_stage])
    return np.concatenate(points), found / max(found.sum(), 1e-30)


def _circles(axes: Axes, points: np.ndarray, scores: np.ndarray, circles: int, inches: float) -> None:
    strong = np.argsort(-scores, kind="stable")[:circles]
    rest = np.delete(points, strong, axis=0)
    axes.plot(rest[:, 1], rest[:, 0], "o", ms=2.2, color=GREY, mec="white", mew=0.3)
    area = AREA * (72 * inches) ** 2 * scores[strong] / scores[strong[0]]  # square points
    places = points[strong]
    axes.scatter(places[:, 1], places[:, 0], s=area, color=ORANGE, alpha=0.75, lw=0.8, edgecolor="white")


def _describe(scores: Mapping[Place, np.ndarray], stage: int, found: np.ndarray, circles: int) -> str:
    blocks = sum(place[0] == stage for place in scores)
    share = np.sort(found)[::-1][:circles].sum()
    kind = f"{blocks} deformable blocks" if blocks > 1 else "1 deformable block"
    return f"{circles} of {len(found):,} keys, {share:.0%} of the importance; {kind}"
