"""What a detector or a segmenter says of an image, drawn over it."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.patches import Rectangle

from minidat.analysis.style import INK
from minidat.dense import IGNORED, Detections

MASK, LABELS = 0.5, 0.6  # how much of a pixel's colour is the class's
TURN = 0.618034  # of the hue from one class to the next: the golden ratio, so that no two of few classes are alike
FIRST = (
    "#d55e00", "#0072b2", "#009e73", "#e69f00", "#b5489a", "#3a9bd9", "#7a4b1c", "#6a51a3", "#9a9a00", "#b3261e", "#2f4f4f",
    "#ff6f91",
)  # fmt: skip


def palette(count: int) -> np.ndarray:
    """A colour for each of `count` classes, RGB of 0..1, (count, 3): hand-picked ones for the first twelve, then hues in turn."""
    named = [to_rgb(colour) for colour in FIRST[:count]]
    hues = [(i * TURN) % 1 for i in range(count - len(named))]
    more = [colorsys.hsv_to_rgb(hue, 0.55 + 0.4 * (i % 2), 0.55 + 0.4 * (i % 3) / 2) for i, hue in enumerate(hues)]
    return np.array(named + more).reshape(-1, 3)


def blend(image: np.ndarray, where: np.ndarray, colour: Any, share: float) -> np.ndarray:
    """The image (H, W, 3) uint8 with `share` of a colour, RGB of 0..1, at the pixels `where`, bool (H, W)."""
    out = image.astype(np.float64)
    out[where] = (1 - share) * out[where] + share * 255 * np.asarray(colour)
    return out.round().astype(np.uint8)


def with_masks(image: np.ndarray, found: Detections) -> np.ndarray:
    """The image with the masks of what was found, in the colour of its class, the best over the others."""
    colours = palette(int(found.labels.max(initial=-1)) + 1)
    masks = [] if found.masks is None else list(zip(found.masks, found.labels.tolist(), strict=True))
    for mask, label in reversed(masks):
        image = blend(image, mask, colours[label], MASK)
    return image


def with_labels(image: np.ndarray, labels: np.ndarray, *, clear: Sequence[int] = ()) -> np.ndarray:
    """The image with the class of each pixel, integers (H, W), as its colour; classes `clear` and ignored pixels stay clear."""
    kinds = [k for k in np.unique(labels).tolist() if k != IGNORED and k not in clear]
    colours = palette(max(kinds, default=-1) + 1)
    for kind in kinds:
        image = blend(image, labels == kind, colours[kind], LABELS)
    return image


def draw_boxes(axes: Axes, found: Detections, names: Sequence[str], *, size: float, scores: bool = True) -> None:
    """Boxes with name and score, on axes that show the image. size: of the text in typographic points."""
    colours = palette(int(found.labels.max(initial=-1)) + 1)
    height = found.size[0]
    for box, label, score in zip(found.boxes, found.labels.tolist(), found.scores.tolist(), strict=True):
        row, col, end_row, end_col = (float(edge) - 0.5 for edge in box)  # pixel i is drawn from i − ½ to i + ½
        colour = tuple(colours[label])
        for edge, width in (("white", 2.4), (colour, 1.4)):
            style: dict[str, Any] = {"fill": False, "ec": edge, "lw": width * size / 8}
            axes.add_patch(Rectangle((col, row), end_col - col, end_row - row, **style))
        above = row > 0.12 * height  # else there is no room over the box
        axes.annotate(
            f"{names[label]} {score:.2f}" if scores else names[label],
            (col, row if above else end_row),
            xytext=(0, 1 if above else -1),
            textcoords="offset points",
            ha="left",
            va="bottom" if above else "top",
            fontsize=size,
            color="white",
            parse_math=False,
            annotation_clip=False,
            bbox={"boxstyle": "square,pad=0.12", "fc": colour, "ec": "none"},
        )


def above(found: Detections, score: float) -> Detections:
    """What was found with at least this score."""
    kept = found.scores >= score
    masks = None if found.masks is None else found.masks[kept]
    return Detections(found.boxes[kept], found.labels[kept], found.scores[kept], found.size, masks)


def legend_handles(kinds: Sequence[int], names: Sequence[str]) -> list[Rectangle]:
    """A patch in the colour of each class."""
    colours = palette(max(kinds, default=-1) + 1)
    return [Rectangle((0, 0), 1, 1, fc=tuple(colours[k]), ec=INK, lw=0.4, label=names[k]) for k in kinds]
