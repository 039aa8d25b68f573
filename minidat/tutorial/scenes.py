"""What the chapters on detection and segmentation both show: an image, where a block's points went on it, and runs by seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from minidat.tutorial.show import COLOURS


def scene(axes: Axes, image: np.ndarray, *, pale: bool = False) -> None:
    """Draw an image uint8 (H, W, 3) with its pixels' centres on whole numbers. pale: lightened, in few shades."""
    axes.imshow(255 - (255 - image) // 48 * 26 if pale else image, interpolation="nearest")
    height, width = image.shape[:2]
    axes.set(xticks=[], yticks=[], xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))


def moves(axes: Axes, references: Any, points: Any) -> None:
    """Draw a line from each reference (N, 2) to where each group moved it, points (G, N, 2): (row, col), pixels of the image."""
    start = np.asarray(references)
    for group, end in enumerate(np.asarray(points)):
        colour = COLOURS[group % len(COLOURS)]
        axes.plot([start[:, 1], end[:, 1]], [start[:, 0], end[:, 0]], color=colour, lw=0.6)
        axes.plot(end[:, 1], end[:, 0], "o", color=colour, ms=3.5, mec="white", mew=0.5)
    axes.plot(start[:, 1], start[:, 0], "o", color="#8c8c8c", ms=3)


def moves_in_words(blocks: Mapping[str, Mapping[str, float]]) -> str:
    """A line for each block of a stored run: how far its points moved, and how many of them lie on objects."""
    return "\n".join(
        f"{name}: points moved by {block['mean move']:.1f} pixels of the image; {block['references on objects']:.1%} of the "
        f"references lie on objects, and {block['points on objects']:.1%} of the points"
        for name, block in blocks.items()
    )


def by_seed(models: Mapping[str, Mapping[str, Mapping[str, float]]], measures: Mapping[str, str]) -> str:
    """A line for each model: of each measure the mean, and the runs by seed. models: name → measure → seed → value, as in
    results/scenes/comparison.json; measures: their names."""
    rows = [("", *measures.values())]
    for name, found in models.items():
        rows.append((name, *(_mean_of(list(found[measure].values())) for measure in measures)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _mean_of(values: Sequence[float]) -> str:
    """Such as 0.720 (0.700 0.740)."""
    if not values:
        return "not run yet"
    return f"{np.mean(values):.3f} ({' '.join(f'{value:.3f}' for value in values)})"
