"""What a data set is to the trainer: one in memory, a part of one, and one on a device."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike

from minidat.autograd.backend import device_module

PIECE = 1000  # images that are drawn, or sent to a device, at a time


class DataError(ValueError):
    """Data is missing or damaged. The message says what was found, what was expected and what to do."""


class Dataset(Protocol):
    """A data set as the trainer uses it. `mean` and `std` are of each colour, for pixel values scaled to 0..1."""

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
    """A data set in memory: images uint8 (N, H, W, 3) and labels int64 (N,)."""

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


class Part:
    """The images `start` … `stop` − 1 of a data set, as a data set."""

    def __init__(self, dataset: Dataset, start: int, stop: int):
        self.dataset, self.start, self.stop = dataset, start, stop
        self.name, self.classes, self.image_size = dataset.name, dataset.classes, dataset.image_size
        self.mean, self.std = dataset.mean, dataset.std

    def __len__(self) -> int:
        return self.stop - self.start

    def batch(self, indices: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
        """Images uint8 (B, H, W, 3) and labels int64 (B,) of the integers `indices` (B,) in 0 … len − 1.

        Raises IndexError for an index outside, so that no image of the other part is ever seen.
        """
        indices = np.asarray(indices)
        if indices.size and not 0 <= indices.min() <= indices.max() < len(self):
            span = f"{indices.min()}..{indices.max()}"
            raise IndexError(f"{self.name}: indices run {span}, expected within 0..{len(self) - 1}")
        return self.dataset.batch(indices + self.start)


def checked_indices(indices: ArrayLike, name: str, size: int) -> np.ndarray:
    """Indices as an integer array (B,). Raises IndexError, naming the data set, where they are no integers of 0 … size − 1."""
    indices = np.asarray(indices)
    shape, kind = indices.shape, indices.dtype
    if indices.ndim != 1 or (indices.size and kind.kind not in "iu"):
        raise IndexError(f"{name}: indices have shape {shape} and type {kind}, expected (B,) integers")
    if indices.size and (indices.min() < 0 or indices.max() >= size):
        raise IndexError(f"{name}: indices run {indices.min()}..{indices.max()}, expected within 0..{size - 1}")
    return indices.astype(np.int64)


def in_order(dataset: Dataset) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """All images uint8 (P, H, W, 3) and labels int64 (P,) of a data set in order, in pieces of P ≤ `PIECE`."""
    for start in range(0, len(dataset), PIECE):
        yield dataset.batch(np.arange(start, min(start + PIECE, len(dataset))))


class OnDevice:
    """A data set copied to a device: images uint8 (N, H, W, 3) and labels int64 (N,).

    Raises DataError for a label outside 0 … K − 1. It is checked here, on the host: on the device a check of each batch
    would force a synchronisation.
    """

    def __init__(self, dataset: Dataset, device: str):
        self.name, self.classes, self.image_size = dataset.name, dataset.classes, dataset.image_size
        self.mean, self.std = dataset.mean, dataset.std
        self.xp = device_module(device)
        count, side = len(dataset), dataset.image_size
        self.images = self.xp.empty((count, side, side, 3), np.uint8)
        self.labels = self.xp.empty(count, np.int64)
        start = 0
        for images, labels in in_order(dataset):
            if labels.min() < 0 or labels.max() >= len(self.classes):
                span = f"{labels.min()}..{labels.max()}"
                raise DataError(f"{self.name}: labels run {span}, expected within 0..{len(self.classes) - 1}")
            piece = slice(start, start + len(labels))
            self.images[piece], self.labels[piece] = self.xp.asarray(images), self.xp.asarray(labels)
            start = piece.stop

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, indices: Any) -> tuple[Any, Any]:
        """Images (B, H, W, 3) and labels (B,) at `indices`, integers (B,) on the host or the device. Both are on the device."""
        indices = self.xp.asarray(indices)
        return self.images[indices], self.labels[indices]
