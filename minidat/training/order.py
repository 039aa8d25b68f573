"""Which images a step sees."""

from __future__ import annotations

import numpy as np

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
