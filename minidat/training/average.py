"""An exponential moving average of a network's parameters, to be tested in their place."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import numpy as np

from minidat.autograd.backend import array_module
from minidat.training.optim import Arena, pieces

WARM = 10  # steps: an average over fewer is short, so that the random parameters of the start are soon forgotten


class Average:
    """θ̄ ← θ̄ + (1 − d_t)(θ − θ̄), d_t = min(d, (1 + t)/(10 + t)), after each step t = 1, 2, …; θ̄ begins at θ.

    flat: θ̄, an array like `arena.data`. decay: d in (0, 1). rate: (1) in its dtype, 1 − d_t of the next `step`, which a CUDA
    graph may contain: the host refills it. Source: Polyak & Juditsky, "Acceleration of Stochastic Approximation by Averaging",
    1992; d_t is that of TensorFlow's `ExponentialMovingAverage`.
    """

    def __init__(self, arena: Arena, decay: float):
        xp = array_module(arena.data)
        self.arena, self.decay = arena, decay
        self.flat = arena.data.copy()
        self.rate = xp.zeros(1, arena.data.dtype)
        self._pieces = list(pieces(arena.data))
        self._scratch = xp.empty_like(arena.data[self._pieces[0]])

    def rate_at(self, t: int) -> np.ndarray:
        """(1) in the parameters' dtype, on the host: 1 − d_t."""
        return np.array([1 - min(self.decay, (1 + t) / (WARM + t))], self.arena.data.dtype)

    def step(self) -> None:
        """Move towards the parameters by `rate`. Allocates nothing."""
        for piece in self._pieces:
            mean, change = self.flat[piece], self._scratch[: piece.stop - piece.start]
            array_module(mean).subtract(self.arena.data[piece], mean, out=change)
            change *= self.rate
            mean += change

    @contextmanager
    def in_place(self) -> Generator[None]:
        """Inside, the network has the average for its parameters."""
        own = self.arena.data.copy()
        self.arena.data[...] = self.flat
        try:
            yield
        finally:
            self.arena.data[...] = own
