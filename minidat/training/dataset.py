"""What a data set is to the trainer, and one that lies in memory."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike


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
