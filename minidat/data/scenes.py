"""`scenes`: one to four of the shapes among clutter, drawn on the fly, with boxes, masks and the class of every pixel.

Objects keep their distance: two centres are at least the sum of the radii apart, so that outlines meet at their tips at most.
Where they do, the later object hides the earlier one, whose mask and box are of what is seen.
"""

from __future__ import annotations

import operator

import numpy as np
from numpy.typing import ArrayLike

from minidat.data import draws, painting
from minidat.data.dataset import checked_indices
from minidat.data.outlines import CLASSES, REACH, Place, cover, turned
from minidat.data.rle import Rle
from minidat.data.samples import Sample, Truth, extents, mask_boxes

SIZES = {"train": 20_000, "test": 500}
RADII = (5.0, 11.0)  # pixels: half of what an object measures across
TRIES = 16  # places that are drawn for an object; it is left out where none of them is free
FIRST_ROOT = 4  # added to the number of the split, so that no image has the key of one of `shapes`


class Scenes:
    """Images uint8 (H, W, 3) with one to `objects` objects in ten classes; the classes of pixels are these and the background, 0.

    An image depends on (seed, split, index) and the options alone, not on the batch it is drawn in.

    split: "train" or "test". size: number of images; None is 20,000 for train and 500 for test. image: (H, W) in pixels.
    Raises ValueError for another split, a size below 1, an image in which the largest object has no room, or no object.
    """

    name = "scenes"
    classes: tuple[str, ...] = CLASSES
    semantic_classes: tuple[str, ...] = ("background", *CLASSES)
    mean = (0.306, 0.306, 0.306)
    std = (0.186, 0.186, 0.186)

    def __init__(
        self,
        split: str,
        *,
        seed: int = 0,
        size: int | None = None,
        image: tuple[int, int] = (64, 64),
        objects: int = 4,
    ):
        if split not in SIZES:
            raise ValueError(f"scenes: split is {split!r}, expected one of {', '.join(SIZES)}")
        self.split, self.seed, self.objects = split, operator.index(seed), operator.index(objects)
        self.size = SIZES[split] if size is None else operator.index(size)
        self.image = operator.index(image[0]), operator.index(image[1])
        if self.size < 1:
            raise ValueError(f"scenes: size is {size}, expected at least 1 image")
        if self.objects < 1:
            raise ValueError(f"scenes: objects is {objects}, expected at least 1")
        least = int(np.ceil(2 * (REACH * RADII[1] + 0.5)))
        if min(self.image) < least:
            height, width = self.image
            raise ValueError(f"scenes: image is {height}×{width}, expected sides of {least} pixels or more")

    def __len__(self) -> int:
        return self.size

    def samples(self, indices: ArrayLike) -> list[Sample]:
        """Draw images. indices: (B,) integers in 0 … len − 1. Raises IndexError for an index outside the data set."""
        indices = checked_indices(indices, self.name, self.size)
        root = draws.root(self.seed, FIRST_ROOT + list(SIZES).index(self.split))
        keys = draws.mix(root + draws.GOLDEN * indices.astype(np.uint64))  # (B,)
        labels, places = self._objects(keys)  # (B, K)
        covers = [cover(labels[:, k], place, self.image) for k, place in enumerate(places)]  # K of (B, H, W)
        images = self._paint(keys, places, covers)
        masks = _seen(np.stack(covers, 1) >= 0.5)  # (B, K, H, W)
        drawn = zip(indices.tolist(), images, labels, masks, strict=True)
        return [self._sample(index, image, own[own >= 0], mask[own >= 0]) for index, image, own, mask in drawn]

    def truth(self, index: int) -> Truth:
        """The objects of an image as an evaluation takes them; areas are those of the masks."""
        (sample,) = self.samples([index])
        areas = sample.masks.sum((1, 2), dtype=np.float64)
        return Truth(extents(sample.boxes), sample.labels, areas, sample.crowd, [Rle.of(mask) for mask in sample.masks])

    def semantic_truth(self, index: int) -> np.ndarray:
        """The class of each pixel, uint8 (H, W): 0 is the background, k + 1 the object class k."""
        (sample,) = self.samples([index])
        assert sample.semantic is not None
        return sample.semantic

    def _objects(self, keys: np.ndarray) -> tuple[np.ndarray, list[Place]]:
        """Labels int64 (B, K), −1 where there is no object, and the K places, with a radius of −1 there."""
        batch, most = len(keys), self.objects
        count = 1 + (draws.uniform(keys, painting.COUNT, 1) * most).astype(np.int64)  # (B, 1)
        labels = (draws.uniform(keys, painting.LABEL, most) * len(CLASSES)).astype(np.int64)  # (B, K)
        u = draws.uniform(keys, painting.PLACE, most * (2 + 2 * TRIES))
        u = u.reshape(batch, most, 2 + 2 * TRIES)  # (B, K, 2 + 2 TRIES)
        radii = RADII[0] + (RADII[1] - RADII[0]) * u[..., 0]  # (B, K)
        start = REACH * radii + 0.5  # closer to the border an object might be cut off
        room = np.array(self.image, np.float32) - 2 * start[..., None]  # (B, K, 2)
        tries = start[..., None, None] + room[:, :, None] * u[..., 2:].reshape(batch, most, TRIES, 2)

        places: list[Place] = []
        for k in range(most):
            free = np.ones((batch, TRIES), bool)
            for place in places:
                away = (tries[:, k, :, 0] - place.row[:, None]) ** 2 + (tries[:, k, :, 1] - place.col[:, None]) ** 2
                free &= (place.radius < 0)[:, None] | (away >= (place.radius + radii[:, k])[:, None] ** 2)
            absent = ~free.any(1) | (count[:, 0] <= k)
            labels[absent, k] = -1
            row, col = tries[np.arange(batch), k, free.argmax(1)].T
            radius = np.where(absent, np.float32(-1), radii[:, k])
            places.append(Place(row, col, radius, turned(labels[:, k], u[:, k, 1])))
        return labels, places

    def _paint(self, keys: np.ndarray, places: list[Place], covers: list[np.ndarray]) -> np.ndarray:
        """Background, clutter, objects in turn and grain: uint8 (B, H, W, 3)."""
        canvas = painting.background(keys, self.image)  # (3, B, H, W)
        colours = painting.bright(draws.uniform(keys, painting.COLOUR, 3 * len(places)).T).reshape(
            len(places), 3, len(keys)
        )
        colours = [
            painting.contrasting(colour, painting.sample(canvas, place.row, place.col))
            for colour, place in zip(colours, places, strict=True)
        ]  # K of (3, B)
        clutter, shades = painting.clutter(keys, places, canvas)  # (B, H, W), (3, B, H, W)
        canvas += clutter * (shades - canvas)
        for covered, colour in zip(covers, colours, strict=True):
            canvas += covered * (colour[:, :, None, None] - canvas)
        return painting.pixels(canvas, keys)

    def _sample(self, index: int, image: np.ndarray, labels: np.ndarray, masks: np.ndarray) -> Sample:
        semantic = np.zeros(self.image, np.uint8)
        for label, mask in zip(labels, masks, strict=True):
            semantic[mask] = label + 1
        crowd = np.zeros(len(labels), bool)
        name = f"image {index} of scenes"
        return Sample(image, mask_boxes(masks), labels, masks, crowd, semantic, index, name, self.image)


def _seen(masks: np.ndarray) -> np.ndarray:
    """What later objects leave to be seen of earlier ones: bool (B, K, H, W) to the same."""
    behind = np.zeros_like(masks[:, 0])
    seen = np.empty_like(masks)
    for k in reversed(range(masks.shape[1])):
        seen[:, k] = masks[:, k] & ~behind
        behind |= masks[:, k]
    return seen
