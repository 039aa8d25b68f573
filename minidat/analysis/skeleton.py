"""A model with the shapes of all its parameters and none of their memory, for counting."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidat.models.config import Config
from minidat.models.pyramid import Pyramid


class ZeroStrideArray(np.ndarray):
    """An array of any shape whose elements are all the same one number in memory, in every copy of it too."""

    __module__ = np.ndarray.__module__  # whose functions take it

    def astype(self, *arguments: Any, **options: Any) -> ZeroStrideArray:
        return self


def outline(shape: tuple[int, ...]) -> ZeroStrideArray:
    return ZeroStrideArray(shape, np.float32, buffer=np.zeros(1, np.float32), strides=(0,) * len(shape))


class ZeroStrideGenerator:
    """Stands in for a random generator: what it draws are outlines."""

    def uniform(self, low: float, high: float, shape: tuple[int, ...]) -> ZeroStrideArray:
        return outline(shape)

    def normal(self, mean: float, sigma: float, shape: tuple[int, ...]) -> ZeroStrideArray:
        return outline(shape)


def skeleton(config: Config) -> Pyramid:
    """The network of a configuration with parameters that have shapes and no values: 88 million take no more memory than 28.

    To be counted, not run. Raises ValueError as `Pyramid` does.
    """
    generator: Any = ZeroStrideGenerator()
    return Pyramid(config, generator)
