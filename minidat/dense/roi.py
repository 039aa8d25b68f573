"""Boxes read from the level of the pyramid that suits their size."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from minidat import ops
from minidat.autograd import Tensor
from minidat.autograd.backend import like
from minidat.dense.boxes import areas
from minidat.dense.layers import rows_of

FINEST = 56
"""Pixels: a box with sides of twice as many is read on the second level."""
READERS = ("released", "no half pixel", "rounded")


def level_of(boxes: np.ndarray, levels: int) -> np.ndarray:
    """⌊log₂(√(h·w)/56 + 1e-6)⌋, cut to 0 … levels − 1. Source: mmdetection 2.26, `single_level_roi_extractor.py`."""
    side = np.sqrt(np.maximum(areas(boxes), 0))
    return np.clip(np.floor(np.log2(side / FINEST + 1e-6)), 0, levels - 1).astype(np.int64)


def read_boxes(
    maps: Sequence[Tensor],
    strides: Sequence[int],
    boxes: np.ndarray,
    images: np.ndarray,
    side: int,
    reader: str = "released",
) -> Tensor:
    """RoIAlign of boxes (R, 4), in pixels, of `images` (R) of the batch: (R, side, side, C).

    maps: levels, fine to coarse, with their strides. reader: "released"; or, to see what they cost, two mistakes: "no half pixel"
    takes a pixel's edge for its centre, "rounded" first moves the edges to whole pixels of the map, as RoIPool did.
    """
    if reader not in READERS:
        raise ValueError(f"reader {reader!r} is unknown; choose from {', '.join(READERS)}")
    levels = level_of(boxes, len(maps))
    parts, places = [], []
    for i, (x, stride) in enumerate(zip(maps, strides, strict=True)):
        mine = np.flatnonzero(levels == i)
        if not len(mine) and (len(boxes) or i):
            continue
        own = np.round(boxes[mine] / stride) * stride if reader == "rounded" else boxes[mine]
        own = like(own.astype(x.dtype), x.data)
        options = {"size": (side, side), "scale": 1 / stride, "half_pixel": reader != "no half pixel"}
        parts.append(ops.roi_align(x, own, like(images[mine], x.data), **options))
        places.append(mine)
    if len(parts) == 1:
        return parts[0]
    return rows_of(ops.concatenate(*parts, axis=0), np.argsort(np.concatenate(places)))
