"""Which images of a batch a process takes, where several share it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np


class Share(NamedTuple):
    """Some images of a batch. batch: images in all. positions: int64 (b,) in 0 … batch − 1, ascending."""

    batch: int
    positions: np.ndarray

    @classmethod
    def whole(cls, batch: int) -> Share:
        """All images of a batch."""
        return cls(batch, np.arange(batch))

    @classmethod
    def of(cls, batch: int, rank: int, ranks: int, parts: int = 1) -> Share:
        """What one of several ranks takes of a batch, or of one of the equal `parts` that it is cut into: every image has one
        rank, and sizes differ by two at most.

        An image i stays with batch − 1 − i, its partner in mixup and cutmix, so that mixing needs no image of another rank: the
        share in reverse order is what the batch in reverse order has there. Raises ValueError where there are fewer pairs than
        ranks."""
        own = batch // parts
        pairs = (own + 1) // 2  # the middle image of an odd number is its own partner
        if pairs < ranks:
            cut = f" in {parts} parts" if parts > 1 else ""
            raise ValueError(
                f"batch is {batch} images over all {ranks} ranks{cut}, and a rank takes them in pairs; "
                f"make it at least {(2 * ranks - 1) * parts}, or take fewer ranks"
            )
        first = np.arange(pairs * rank // ranks, pairs * (rank + 1) // ranks)
        return cls(own, np.unique(np.concatenate([first, own - 1 - first])))

    @property
    def is_whole(self) -> bool:
        return len(self.positions) == self.batch

    def noise(self, piece: slice, micro: int, generator: Callable[[int], np.random.Generator]) -> SharedNoise:
        """The random numbers of the share's images in `piece`: those that a process with the whole batch would give them.

        micro: images of a micro-batch, as that process cuts its batch. generator: start of one → its random numbers."""
        positions = self.positions[piece]
        starts = positions // micro * micro
        return SharedNoise(
            [
                (generator(start), min(micro, self.batch - start), positions[starts == start] - start)
                for start in np.unique(starts).tolist()
            ]
        )


class SharedNoise:
    """Takes the place of a `numpy.random.Generator` where a pass is over some images of micro-batches.

    parts: of each micro-batch its generator, its number of images, and which of them take part, (b,) integers.
    """

    def __init__(self, parts: list[tuple[np.random.Generator, int, np.ndarray]]):
        self.parts = parts

    def random(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """Uniform numbers in [0, 1) of a shape whose first axis is the images. All of a micro-batch are drawn."""
        return np.concatenate([rng.random((count, *shape[1:]), dtype)[rows] for rng, count, rows in self.parts])
