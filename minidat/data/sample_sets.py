"""Data sets for detection and segmentation by name: drawn scenes."""

from __future__ import annotations

from pathlib import Path

from minidat.data.samples import SampleSet
from minidat.data.scenes import Scenes

SAMPLES = ("shapes",)
TEST_SIDES = {"shapes": (64, 192)}
"""Pixels of the short side, and of the long one at most, of a photograph that a network trained on this data looks at."""


def colours(name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each colour, for pixel values scaled to 0..1."""
    return Scenes.mean, Scenes.std


def load_samples(
    name: str, split: str, *, data_dir: str | Path | None = None, seed: int = 0, size: int | None = None
) -> SampleSet:
    """The data set called `name` of `SAMPLES`: "shapes" are scenes of one to four shapes.

    split: "train" or "test". size: keep this many images, the first ones (None: all). seed: which scenes are drawn; files do not
    depend on it. Raises ValueError for an unknown name.
    """
    if name not in SAMPLES:
        raise ValueError(f"data set {name!r} is unknown, expected one of {', '.join(SAMPLES)}")
    return Scenes(split, seed=seed, size=size)
