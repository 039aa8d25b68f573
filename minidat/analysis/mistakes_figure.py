"""A sheet of the images that a network got wrong."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from minidat.analysis.style import DPI, GREY, INK, save, short

COLUMNS = 6
SIDE, GAP, TEXT = 1.35, 0.12, 0.42  # inches: an image, between images, two lines under each
LONGEST = 20  # characters of a name


def mistakes_figure(
    images: Sequence[np.ndarray], said: Sequence[str], wanted: Sequence[str], confidence: Sequence[float], out: Path
) -> None:
    """Images with what the network said, how sure it was, and what was right, as a PNG, six a row.

    images: uint8 (H, W, 3) each. said, wanted: names of classes. confidence: probabilities, 0 … 1. Raises ValueError where
    there is none, or they differ in number.
    """
    if not len(images) == len(said) == len(wanted) == len(confidence) or not len(images):
        raise ValueError(
            f"mistakes_figure: {len(images)} images, {len(said)} and {len(wanted)} names, {len(confidence)} probabilities; "
            "there must be equally many, and one at least"
        )
    rows = -(-len(images) // COLUMNS)
    width = COLUMNS * (SIDE + GAP) + GAP
    height = 0.5 + rows * (SIDE + TEXT + GAP)
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
    figure.text(
        GAP / width,
        1 - 0.25 / height,
        "Mistakes, the surest first",
        color=INK,
        fontsize=12,
        fontweight="bold",
        va="center",
    )
    for i, image in enumerate(images):
        row, column = divmod(i, COLUMNS)
        left, top = GAP + column * (SIDE + GAP), 0.5 + row * (SIDE + TEXT + GAP)
        axes = figure.add_axes((left / width, 1 - (top + SIDE) / height, SIDE / width, SIDE / height))
        axes.imshow(image, interpolation="nearest" if len(image) < 100 else "antialiased")
        axes.set_axis_off()
        texts = (f"{short(said[i], LONGEST)} {confidence[i]:.0%}", INK), (f"is {short(wanted[i], LONGEST)}", GREY)
        for line, (text, colour) in enumerate(texts):
            y = 1 - (top + SIDE + 0.03 + 0.17 * line) / height
            figure.text(left / width, y, text, color=colour, fontsize=8, va="top", parse_math=False)
    save(figure, out)
