"""Augmentation that moves boxes, masks and the classes of pixels along with the image."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from minidat.data.samples import IGNORED, Sample

REDRAWS = 10  # crops that are drawn before one with too much of one class is taken


@dataclass(frozen=True)
class SampleRecipe:
    """scale: the range of a factor on both sides, drawn once an image. crop: at most so many rows and columns are kept, at a
    random place. flip: probability of mirroring left to right. dominant: a crop is drawn again, up to `REDRAWS` times, while
    one class has this share of its pixels or more (mmsegmentation's `cat_max_ratio`)."""

    flip: float = 0.5
    scale: tuple[float, float] = (1.0, 1.0)
    crop: tuple[int, int] | None = None
    dominant: float = 1.0


def augment_sample(sample: Sample, recipe: SampleRecipe, rng: np.random.Generator) -> Sample:
    """A training sample by a recipe: scale, crop, flip, in this order."""
    low, high = recipe.scale
    if (low, high) != (1, 1):
        factor = rng.uniform(low, high)
        height, width = (max(1, int(n * factor + 0.5)) for n in sample.size)
        sample = resized(sample, (height, width))
    if recipe.crop is not None:
        sample = cropped(sample, *_crop(sample, recipe, rng))
    return flipped(sample) if rng.random() < recipe.flip else sample


def _crop(sample: Sample, recipe: SampleRecipe, rng: np.random.Generator) -> tuple[tuple[int, int], tuple[int, int]]:
    """The corner and the size of a crop."""
    assert recipe.crop is not None
    size = min(sample.size[0], recipe.crop[0]), min(sample.size[1], recipe.crop[1])
    corner = (0, 0)
    for _ in range(1 + REDRAWS):
        corner = int(rng.integers(sample.size[0] - size[0] + 1)), int(rng.integers(sample.size[1] - size[1] + 1))
        if sample.semantic is None or recipe.dominant >= 1:
            break
        part = sample.semantic[corner[0] : corner[0] + size[0], corner[1] : corner[1] + size[1]]
        counts = np.bincount(part[part != IGNORED], minlength=1)
        if np.count_nonzero(counts) > 1 and counts.max() < recipe.dominant * counts.sum():
            break
    return corner, size


def flipped(sample: Sample) -> Sample:
    """Mirrored left to right."""
    width = sample.size[1]
    boxes = sample.boxes.copy()
    boxes[:, 1], boxes[:, 3] = width - sample.boxes[:, 3], width - sample.boxes[:, 1]
    return replace(
        sample,
        image=np.ascontiguousarray(sample.image[:, ::-1]),
        boxes=boxes,
        masks=np.ascontiguousarray(sample.masks[:, :, ::-1]),
        semantic=None if sample.semantic is None else np.ascontiguousarray(sample.semantic[:, ::-1]),
    )


def resized(sample: Sample, size: tuple[int, int]) -> Sample:
    """To `size` (H, W): the image by Pillow's bilinear filter, masks and classes by the nearest pixel, boxes in proportion."""
    if size == sample.size:
        return sample
    (height, width), (rows, columns) = size, sample.size
    image = Image.fromarray(sample.image).resize((width, height), Image.Resampling.BILINEAR)
    down = (np.arange(height) * 2 + 1) * rows // (2 * height)  # the pixel that holds each centre
    across = (np.arange(width) * 2 + 1) * columns // (2 * width)
    ratio = np.array([height / rows, width / columns])
    return replace(
        sample,
        image=np.asarray(image),
        boxes=np.clip(sample.boxes * [*ratio, *ratio], 0, [*size, *size]),
        masks=sample.masks[:, down[:, None], across],
        semantic=None if sample.semantic is None else sample.semantic[down[:, None], across],
    )


def cropped(sample: Sample, corner: tuple[int, int], size: tuple[int, int]) -> Sample:
    """The part of `size` (H, W) whose first pixel is `corner` (row, col). Boxes are cut at its border; objects whose box
    is outside, or none of whose mask is left, are dropped."""
    (top, left), (height, width) = corner, size
    rows, columns = slice(top, top + height), slice(left, left + width)
    boxes = np.clip(sample.boxes - [top, left, top, left], 0, [height, width, height, width])
    masks = sample.masks[:, rows, columns]
    kept = ((boxes[:, 2:] - boxes[:, :2]) > 0).all(1) & np.any(masks, (1, 2))
    return replace(
        sample,
        image=np.ascontiguousarray(sample.image[rows, columns]),
        boxes=boxes[kept],
        labels=sample.labels[kept],
        masks=np.ascontiguousarray(masks[kept]),
        crowd=sample.crowd[kept],
        semantic=None if sample.semantic is None else np.ascontiguousarray(sample.semantic[rows, columns]),
    )


def released_size(size: tuple[int, int], long: int = 1333, short: int = 800) -> tuple[int, int]:
    """The size to which detection resizes (H, W): the largest in proportion with sides of at most `long` and `short`."""
    factor = min(long / max(size), short / min(size))
    return max(1, int(size[0] * factor + 0.5)), max(1, int(size[1] * factor + 0.5))
