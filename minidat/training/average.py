"""An exponential moving average of a network's parameters and running statistics, to be tested in their place."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager

import numpy as np

from minidat.autograd import Tensor
from minidat.autograd.backend import array_module
from minidat.training.arena import Arena
from minidat.training.optim import pieces

WARM = 10  # steps: an average over fewer is short, so that the random parameters of the start are soon forgotten


class Average:
    """θ̄ ← θ̄ + (1 − d_t)(θ − θ̄), d_t = min(d, (1 + t)/(10 + t)), after each step t = 1, 2, …; θ̄ begins at θ.

    flat: θ̄, an array like `arena.data`. statistics: of `running`, a model's running statistics by name, the same average: those
    of the last parameters would not fit θ̄. decay: d in (0, 1). rate: (1) in its dtype, 1 − d_t of the next `step`, which a CUDA
    graph may contain: the host refills it. Sources: Polyak & Juditsky, "Acceleration of Stochastic Approximation by Averaging",
    1992; d_t is that of TensorFlow's `ExponentialMovingAverage`; timm's `ModelEma` averages statistics too.
    """

    def __init__(self, arena: Arena, decay: float, running: Mapping[str, Tensor]):
        xp = array_module(arena.data)
        self.arena, self.decay, self.running = arena, decay, running
        self.flat = arena.data.copy()
        self.statistics = {name: t.data.copy() for name, t in running.items()}
        self.rate = xp.zeros(1, arena.data.dtype)
        self._pieces = list(pieces(arena.data))
        self._scratch = xp.empty_like(arena.data[self._pieces[0]])

    def rate_at(self, t: int) -> np.ndarray:
        """(1) in the parameters' dtype, on the host: 1 − d_t."""
        return np.array([1 - min(self.decay, (1 + t) / (WARM + t))], self.arena.data.dtype)

    def step(self) -> None:
        """Move towards the parameters by `rate`. Without running statistics it allocates nothing."""
        for piece in self._pieces:
            mean, change = self.flat[piece], self._scratch[: piece.stop - piece.start]
            array_module(mean).subtract(self.arena.data[piece], mean, out=change)
            change *= self.rate
            mean += change
        for name, mean in self.statistics.items():
            mean += (self.running[name].data - mean) * self.rate

    @contextmanager
    def in_place(self) -> Generator[None]:
        """Inside, the network has the average for its parameters and running statistics."""
        pairs = [(self.arena.data, self.flat), *((t.data, self.statistics[name]) for name, t in self.running.items())]
        own = [array.copy() for array, _ in pairs]
        for array, mean in pairs:
            array[...] = mean
        try:
            yield
        finally:
            for (array, _), before in zip(pairs, own, strict=True):
                array[...] = before
