"""The random numbers of a training pass, as arrays that stay on the device, so that a CUDA graph may hold them."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from types import ModuleType
from typing import Any

import numpy as np

from minidat.autograd import Tensor, array_module, no_grad
from minidat.data.share import Share
from minidat.models import Pyramid


class ShapeRecorder:
    """Takes the place of a generator to record which shapes a model draws."""

    def __init__(self, xp: ModuleType):
        self.xp = xp
        self.shapes: list[tuple[int, ...]] = []

    def random(self, shape: tuple[int, ...], dtype: Any) -> Any:
        self.shapes.append(tuple(shape))
        return self.xp.zeros(shape, dtype)


class Noise:
    """The uniform numbers that a model's training pass draws: the same arrays on the device in every pass, refilled each time.

    A pass gets this object in place of a generator. `draw` makes the numbers on the host, and the step copies them to `flat`
    on the device. After `rewind`, the pass gets its arrays one after the other. The first axis of each array is the batch.
    """

    def __init__(self, model: Pyramid, images: Any):
        """Runs one pass on `images`, to record the shapes that it draws."""
        xp = array_module(images)
        recorder = ShapeRecorder(xp)
        with no_grad():
            model(Tensor(images), rng=recorder)  # ty: ignore[invalid-argument-type]
        self.shapes = recorder.shapes
        self.sizes = [math.prod(shape) for shape in self.shapes]
        self.flat = xp.zeros(sum(self.sizes), np.float32)
        self.views = self._cut(self.flat)
        self._next = iter(self.views)

    def _cut(self, flat: Any) -> list[Any]:
        ends = np.cumsum([0, *self.sizes]).tolist()
        return [flat[a:b].reshape(shape) for (a, b), shape in zip(pairwise(ends), self.shapes, strict=True)]

    def random(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """The next array, as `numpy.random.Generator.random` would give it."""
        return next(self._next)

    def rewind(self) -> None:
        """Let the next pass begin with the first array."""
        self._next = iter(self.views)

    def draw(self, share: Share, micro: int, generator: Callable[[int], np.random.Generator]) -> np.ndarray:
        """The numbers of one pass over the share's images, float32, flat: the same as micro-batches of the whole batch would
        draw, each from its own generator."""
        flat = np.empty(self.flat.size, np.float32)
        rows = self._cut(flat)
        if rows:
            rng = share.noise(slice(None), micro, generator)
            for array in rows:
                array[...] = rng.random(array.shape, np.float32)
        return flat
