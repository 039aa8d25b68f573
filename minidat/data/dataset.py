"""What a data set is to the trainer, and one that lies in memory."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike

from minidat.autograd.backend import device_module

PIECE = 1000  # images that are drawn and sent to a device at a time


class DataError(ValueError):
    """Data that is missing or damaged: says what was found, what was expected and what to do."""


class Dataset(Protocol):
    """What the trainer needs to know of a data set. `mean` and `std` are per colour, in units of 0..1."""

    name: str
    classes: tuple[str, ...]
    image_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __len__(self) -> int: ...

    def batch(self, indices: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
        """Images uint8 (B, H, W, 3) and labels int64 (B,) of the integers `indices` (B,)."""
        ...


class InMemory:
    """A data set that is two arrays: images uint8 (N, H, W, 3) and labels int64 (N,)."""

    def __init__(
        self,
        name: str,
        images: np.ndarray,
        labels: np.ndarray,
        *,
        classes: tuple[str, ...],
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
    ):
        self.name, self.images, self.labels, self.classes = name, images, labels, classes
        self.image_size, self.mean, self.std = images.shape[1], mean, std

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, indices: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
        """Copies of the images uint8 (B, H, W, 3) and labels int64 (B,) at `indices`, (B,) integers.

        Raises IndexError for an index outside the data set; negative ones count from the end.
        """
        indices = np.asarray(indices)
        return self.images[indices], self.labels[indices]


class OnDevice:
    """A data set whose images and labels lie on a device, for good: images uint8 (N, H, W, 3), labels int64 (N,).

    Raises DataError for a label that is no class: later, looking for one would mean to wait for the device.
    """

    def __init__(self, dataset: Dataset, device: str):
        self.name, self.classes, self.image_size = dataset.name, dataset.classes, dataset.image_size
        self.mean, self.std = dataset.mean, dataset.std
        self.xp = device_module(device)
        count, side = len(dataset), dataset.image_size
        self.images = self.xp.empty((count, side, side, 3), np.uint8)
        self.labels = self.xp.empty(count, np.int64)
        for start in range(0, count, PIECE):
            piece = slice(start, min(start + PIECE, count))
            images, labels = dataset.batch(np.arange(piece.start, piece.stop))
            if labels.min() < 0 or labels.max() >= len(self.classes):
                span = f"{labels.min()}..{labels.max()}"
                raise DataError(f"{self.name}: labels run {span}, expected within 0..{len(self.classes) - 1}")
            self.images[piece], self.labels[piece] = self.xp.asarray(images), self.xp.asarray(labels)

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, indices: Any) -> tuple[Any, Any]:
        """Images (B, H, W, 3) and labels (B,) at `indices`, integers (B,) of the host or the device; on the device."""
        indices = self.xp.asarray(indices)
        return self.images[indices], self.labels[indices]
