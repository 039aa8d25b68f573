"""`shapes`: a data set drawn on the fly, one object among clutter, so that training needs no files.

Colour, place and background say nothing about the class: a linear model stays below twice chance, and a model
that finds the object first has the easier task. The boxes and masks of the objects are known, so that what a
model attends to can be compared with where the object is.
"""

from __future__ import annotations

import operator

import numpy as np
from numpy.typing import ArrayLike

from minidat.data import draws, painting
from minidat.data.dataset import checked_indices
from minidat.data.outlines import CLASSES, REACH, Place, cover, turned
from minidat.data.samples import mask_boxes

SIZES = {"train": 20_000, "test": 2_000}
MEAN = (0.305, 0.305, 0.305)
STD = (0.183, 0.183, 0.183)

IMAGE = 32  # pixels a side
RADII = (5.2, 7.0)  # pixels: half of what an object measures across


class Shapes:
    """Images of one shape each, 32×32×3 uint8, in ten balanced classes.

    An image depends on (seed, split, index) alone, not on the batch it is drawn in.

    split: "train" or "test"; `data.load` holds out validation images of "train". size: number of images; None is 20,000 for
    train and 2,000 for test. Raises
    ValueError for another split or a size below 1.
    """

    name: str = "shapes"
    classes: tuple[str, ...] = CLASSES
    image_size: int = IMAGE
    mean: tuple[float, float, float] = MEAN
    std: tuple[float, float, float] = STD

    def __init__(self, split: str, *, seed: int = 0, size: int | None = None):
        if split not in SIZES:
            raise ValueError(f"shapes: split is {split!r}, expected one of {', '.join(SIZES)}")
        self.split = split
        self.seed = operator.index(seed)
        self.size = SIZES[split] if size is None else operator.index(size)
        if self.size < 1:
            raise ValueError(f"shapes: size is {size}, expected at least 1 image")

    def __len__(self) -> int:
        return self.size

    def batch(self, indices: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
        """Draw images.

        indices: (B,) integers in 0..len-1. Returns images uint8 (B, 32, 32, 3) and labels int64 (B,). Raises
        IndexError for an index outside the data set.
        """
        keys, labels = self._keys(indices)
        place = _place(keys, labels)
        return _paint(keys, place, cover(labels, place, (IMAGE, IMAGE))), labels

    def objects(self, indices: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
        """Where the objects are.

        indices: (B,) integers in 0..len-1. Returns boxes float32 (B, 4), each (row0, col0, row1, col1) in
        pixels, and masks bool (B, 32, 32), true where the object covers at least half of a pixel. A box is
        the tight, half-open range of its mask's rows and columns: mask[row0:row1, col0:col1] holds the whole
        object. Raises IndexError for an index outside the data set.
        """
        keys, labels = self._keys(indices)
        masks = cover(labels, _place(keys, labels), (IMAGE, IMAGE)) >= 0.5  # (B, H, W)
        return mask_boxes(masks).astype(np.float32), masks

    def _keys(self, indices: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
        """Each image's random key, uint64 (B,), and its label, int64 (B,)."""
        indices = checked_indices(indices, self.name, self.size).astype(np.uint64)
        root = draws.root(self.seed, list(SIZES).index(self.split))  # (1,)
        # Every ten consecutive images show the ten classes, in a random order.
        tens, unit = np.divmod(indices, np.uint64(len(CLASSES)))
        ranks = draws.uniform(draws.mix(root + draws.GOLDEN * tens), painting.LABEL, len(CLASSES))
        order = ranks.argsort(1, kind="stable")  # (B, 10)
        labels = order[np.arange(len(indices)), unit.astype(np.int64)]
        return draws.mix(~root + draws.GOLDEN * indices), labels.astype(np.int64)


def _place(keys: np.ndarray, labels: np.ndarray) -> Place:
    u = draws.uniform(keys, painting.PLACE, 4)  # (B, 4)
    radius = RADII[0] + (RADII[1] - RADII[0]) * u[:, 0]
    start = REACH * radius + 0.5  # closer to the border an object might be cut off
    room = IMAGE - 2 * start
    return Place(start + room * u[:, 1], start + room * u[:, 2], radius, turned(labels, u[:, 3]))


def _paint(keys: np.ndarray, place: Place, covered: np.ndarray) -> np.ndarray:
    """Background, clutter, object and grain, in this order: uint8 (B, H, W, 3)."""
    size = covered.shape[1], covered.shape[2]
    canvas = painting.background(keys, size)  # (3, B, H, W): planes first, so that a cover broadcasts over whole planes
    behind = painting.sample(canvas, place.row, place.col)  # (3, B)
    colour = painting.contrasting(painting.bright(draws.uniform(keys, painting.COLOUR, 3).T), behind)  # (3, B)
    clutter, colours = painting.clutter(keys, [place], canvas)  # (B, H, W), (3, B, H, W)
    canvas += clutter * (colours - canvas)
    canvas += covered * (colour[:, :, None, None] - canvas)
    return painting.pixels(canvas, keys)
