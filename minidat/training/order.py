"""Which images a step sees."""

from __future__ import annotations

import numpy as np

from minidat.data.share import Share
from minidat.training.randomness import ORDER, generator


class Order:
    """Step → the images of its batch. An epoch is a permutation of the `count` images, drawn from the seed and the epoch and
    cut into batches; the last images of a permutation, fewer than a batch, are left out of that epoch."""

    def __init__(self, seed: int, count: int, batch: int):
        self.seed, self.count, self.batch = seed, count, batch
        self.steps_per_epoch = count // batch
        self._epoch, self._permutation = -1, np.empty(0, np.int64)

    def __call__(self, step: int) -> np.ndarray:
        """Indices (batch,) int64 of the images of the step that follows `step` steps."""
        epoch, position = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            self._permutation = generator(self.seed, ORDER, epoch).permutation(self.count)
            self._epoch = epoch
        return self._permutation[position * self.batch : (position + 1) * self.batch]


class RankOrder:
    """Step → the images of one of several ranks, in the order in which it asks for them: its share of each part of the batch."""

    def __init__(self, order: Order, parts: int, rank: int, ranks: int):
        self.order, self.parts, self.rank, self.ranks = order, parts, rank, ranks

    def __call__(self, step: int) -> np.ndarray:
        """Indices int64 of the images of the step that follows `step` steps."""
        parts = np.split(self.order(step), self.parts)
        return np.concatenate([part[Share.of(len(part), self.rank, self.ranks).positions] for part in parts])
