"""A model with the shapes of all its parameters and none of their memory, for counting."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidat.dense import DenseModel, build
from minidat.models.config import Config
from minidat.models.pyramid import Pyramid


class ZeroStrideArray(np.ndarray):
    """An array of any shape that takes the memory of one number: all its strides are 0, and those of its copies too."""

    __module__ = np.ndarray.__module__  # `array_module` then returns NumPy

    def astype(self, *arguments: Any, **options: Any) -> ZeroStrideArray:
        return self


def zero_strides(shape: tuple[int, ...]) -> ZeroStrideArray:
    """An array of this shape, full of zeros."""
    return ZeroStrideArray(shape, np.float32, buffer=np.zeros(1, np.float32), strides=(0,) * len(shape))


class ZeroStrideGenerator:
    """Stands in for a random generator: every draw is a `ZeroStrideArray`."""

    def uniform(self, low: float, high: float, shape: tuple[int, ...]) -> ZeroStrideArray:
        return zero_strides(shape)

    def normal(self, mean: float, sigma: float, shape: tuple[int, ...]) -> ZeroStrideArray:
        return zero_strides(shape)


def skeleton(config: Config) -> Pyramid:
    """The network of a configuration, built without memory for its parameters: they have shapes, and no values of their own.

    For counting, not for running. Raises ValueError as `Pyramid` does.
    """
    generator: Any = ZeroStrideGenerator()
    return Pyramid(config, generator)


def dense_skeleton(config: Config, head: str, classes: int, **options: Any) -> DenseModel:
    """The same of a detector or segmenter: arguments and errors as of `dense.create`."""
    return build(config, head, classes, options, ZeroStrideGenerator())
