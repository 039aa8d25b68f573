"""Anchors: boxes of fixed shapes at every pixel of every level, from which a head measures objects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Anchors:
    """`strides` of the levels; at each pixel of a level one anchor for each of `ratios` (height/width) and, within it, each of
    `scales`: its area is (stride·scale)². Its centre is at stride·(row, col), the corner of the pixel's patch of the image, not
    the middle. Source: mmdetection 2.26, `anchor_generator.py`. Raises ValueError for scales or ratios that are not positive."""

    strides: tuple[int, ...]
    scales: tuple[float, ...]
    ratios: tuple[float, ...] = (0.5, 1.0, 2.0)

    def __post_init__(self) -> None:
        if not len(self) or not min(*self.scales, *self.ratios) > 0:
            raise ValueError(
                f"Anchors: scales {self.scales} and ratios {self.ratios} must be positive, at least one each"
            )

    def __len__(self) -> int:
        """Anchors at a pixel."""
        return len(self.scales) * len(self.ratios)

    def base(self, stride: int) -> np.ndarray:
        """(A, 4): those of the pixel (0, 0) of a level."""
        side = stride * np.array(self.scales)
        root = np.sqrt(np.array(self.ratios))[:, None]
        half = np.stack([side * root, side / root], -1).reshape(-1, 2) / 2  # half of (height, width)
        return np.concatenate([-half, half], 1)

    def level(self, stride: int, size: tuple[int, int]) -> np.ndarray:
        """(H·W·A, 4) float32: those of a level of (H, W) pixels, row by row."""
        rows, cols = (stride * np.arange(n) for n in size)
        corner = np.stack(np.meshgrid(rows, cols, indexing="ij"), -1).reshape(-1, 1, 2)
        return (np.concatenate([corner, corner], -1) + self.base(stride)).reshape(-1, 4).astype(np.float32)

    def levels(self, sizes: Sequence[tuple[int, int]]) -> list[np.ndarray]:
        """The anchors of each level, `sizes` (H, W) of its map."""
        return [self.level(stride, size) for stride, size in zip(self.strides, sizes, strict=True)]

    def on_image(self, sizes: Sequence[tuple[int, int]], size: tuple[int, int], multiple: int) -> np.ndarray:
        """(sum of H·W·A) bool, of all levels: whether the pixel of an anchor is on an image of `size`, not on the padding of a
        batch. As released, an image reaches to the next multiple of `multiple`."""
        size = (-(-size[0] // multiple) * multiple, -(-size[1] // multiple) * multiple)
        found = []
        for stride, (h, w) in zip(self.strides, sizes, strict=True):
            rows, cols = np.arange(h) * stride < size[0], np.arange(w) * stride < size[1]
            found.append((rows[:, None] & cols).reshape(-1).repeat(len(self)))
        return np.concatenate(found)


def inside(anchors: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(n) bool: whether a whole anchor is on an image of (H, W)."""
    return np.all((anchors[:, :2] >= 0) & (anchors[:, 2:] < np.array(size)), axis=1)
