"""What is on an image, and what a detector finds on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Size = tuple[int, int]
IGNORED = 255
"""The label of a pixel that no loss and no metric of a segmentation counts."""


@dataclass(frozen=True)
class Objects:
    """What is on one image: the target of a detector. Arrays are NumPy's.

    boxes (n, 4) float32: (row0, col0, row1, col1) in pixels of the image, edges: pixel i reaches from i to i + 1. labels (n):
    whole numbers from 0. size: (H, W) of the image without padding. masks (n, H, W) bool, at least as large as `size`; None:
    there are none. crowd (n) bool: boxes around crowds, which no anchor is held to; None: there is none. n may be 0.
    Raises ValueError where these do not go together.
    """

    boxes: np.ndarray
    labels: np.ndarray
    size: Size
    masks: np.ndarray | None = None
    crowd: np.ndarray | None = None

    def __post_init__(self) -> None:
        n = len(self.boxes)
        if self.boxes.shape != (n, 4) or self.labels.shape != (n,):
            raise ValueError(
                f"Objects: boxes {self.boxes.shape} and labels {self.labels.shape} must be (n, 4) and (n,) for n objects"
            )
        if self.labels.dtype.kind not in "iu":
            raise ValueError(f"Objects: labels must be whole numbers, got {self.labels.dtype}")
        for i in np.flatnonzero(~(np.isfinite(self.boxes).all(1) & (self.boxes[:, 2:] >= self.boxes[:, :2]).all(1)))[
            :1
        ]:
            raise ValueError(f"Objects: box {i} is {self.boxes[i].tolist()}; its edges must be finite and in order")
        if self.masks is not None:
            _, h, w = self.masks.shape if self.masks.ndim == 3 else (0, 0, 0)
            if len(self.masks) != n or h < self.size[0] or w < self.size[1]:
                raise ValueError(
                    f"Objects: masks {self.masks.shape} are not one of at least {self.size} for each of {n} objects"
                )
        if self.crowd is not None and (self.crowd.shape != (n,) or self.crowd.dtype != bool):
            raise ValueError(f"Objects: crowd is {self.crowd.dtype} {self.crowd.shape}; it must be bool ({n},)")

    def trained(self) -> Objects:
        """Without crowds."""
        if self.crowd is None or not self.crowd.any():
            return self
        kept = ~self.crowd
        masks = None if self.masks is None else self.masks[kept]
        return Objects(self.boxes[kept], self.labels[kept], self.size, masks)


@dataclass(frozen=True)
class Detections:
    """What a detector finds on one image, by descending score.

    boxes (k, 4) float32: (row0, col0, row1, col1) in pixels of an image of `size`; labels (k) int64; scores (k) float32; masks
    (k, H, W) bool, or None for a detector without masks.
    """

    boxes: np.ndarray
    labels: np.ndarray
    scores: np.ndarray
    size: Size
    masks: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.boxes)


def padded(images: Sequence[np.ndarray], multiple: int) -> tuple[np.ndarray, list[Size]]:
    """Images (H, W, C) of any sizes as one array (B, H, W, C), zeros at the bottom and on the right, its sides multiples of
    `multiple`; and the size of each. Raises ValueError for no image."""
    if not images:
        raise ValueError("padded: there are no images")
    sizes = [image.shape[:2] for image in images]
    rows, cols = (-(-max(size[axis] for size in sizes) // multiple) * multiple for axis in (0, 1))
    out = np.zeros((len(images), rows, cols, images[0].shape[2]), images[0].dtype)
    for place, image in zip(out, images, strict=True):
        place[: image.shape[0], : image.shape[1]] = image
    return out, sizes


def sizes_of(images: Any, sizes: Sequence[Size] | None) -> list[Size]:
    """`sizes`, or those of the whole images (B, H, W, C) where it is None. Raises ValueError for another number of sizes and for
    one that is larger than the array."""
    b, h, w = images.shape[:3]
    if sizes is None:
        return [(h, w)] * b
    if len(sizes) != b or any(not (0 < rows <= h and 0 < cols <= w) for rows, cols in sizes):
        raise ValueError(f"sizes {list(sizes)[:4]} are not those of {b} images inside {h}×{w}")
    return [(int(rows), int(cols)) for rows, cols in sizes]
