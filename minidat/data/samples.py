"""One image of a detection or segmentation data set with what is known of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import ArrayLike

from minidat.data.rle import Rle
from minidat.dense.targets import IGNORED

__all__ = ["IGNORED", "Sample", "SampleSet", "Truth", "extents", "mask_boxes"]


class Truth(NamedTuple):
    """The N objects of an image as an evaluation takes them. extents: float64 (N, 4), boxes as (row, col, height, width) in
    pixels. labels: integers (N,). areas: (N,) pixels², COCO's are those of the masks. crowd: bool (N,)."""

    extents: np.ndarray
    labels: np.ndarray
    areas: np.ndarray
    crowd: np.ndarray
    masks: Sequence[Rle] = ()


@dataclass(frozen=True, eq=False)
class Sample:
    """An image, its N objects, and the class of each of its pixels.

    image: uint8 (H, W, 3). boxes: float64 (N, 4), each (row0, col0, row1, col1) in pixels of `image`. labels: int64 (N,),
    0 … K − 1. masks: bool (N, H, W). crowd: bool (N,), True where a box holds many objects that are not told apart: no loss
    takes it for one. semantic: uint8 (H, W), 0 … K' − 1 or `IGNORED`; None where a data set has objects alone. identity: the
    image's number in its data set. name: its file or number, for messages. original: (H, W) before any resizing.
    """

    image: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    masks: np.ndarray
    crowd: np.ndarray
    semantic: np.ndarray | None
    identity: int
    name: str
    original: tuple[int, int]

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the image as it is."""
        height, width = self.image.shape[:2]
        return height, width


class SampleSet(Protocol):
    """A data set for detection, segmentation or both. `classes` are those of objects, `semantic_classes` those of pixels; either
    may be empty. `mean` and `std` are of each colour, for pixel values scaled to 0..1."""

    name: str
    classes: tuple[str, ...]
    semantic_classes: tuple[str, ...]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __len__(self) -> int: ...

    def samples(self, indices: ArrayLike) -> list[Sample]:
        """The images at the integers `indices` (B,), with the objects that training uses."""
        ...

    def truth(self, index: int) -> Truth:
        """The objects that an evaluation counts, in the image's original size."""
        ...

    def semantic_truth(self, index: int) -> np.ndarray:
        """The class of each pixel in the image's original size: uint8 (H, W), 0 … K' − 1 or `IGNORED`."""
        ...


def extents(boxes: np.ndarray) -> np.ndarray:
    """Boxes (N, 4) as (row0, col0, row1, col1) to float64 (N, 4) as (row, col, height, width)."""
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1)


def mask_boxes(masks: np.ndarray) -> np.ndarray:
    """The tight, half-open boxes of masks bool (N, H, W): float64 (N, 4), masks[i, row0:row1, col0:col1] holds all of i.

    All zero for an empty mask.
    """
    height, width = masks.shape[1:]
    rows, cols = np.any(masks, 2), np.any(masks, 1)  # (N, H), (N, W)
    first = rows.argmax(1), cols.argmax(1)
    end = height - rows[:, ::-1].argmax(1), width - cols[:, ::-1].argmax(1)
    return np.stack(first + end, 1).astype(np.float64) * np.any(rows, 1, keepdims=True)
