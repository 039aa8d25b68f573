"""Images and labels as a network takes them: normalised colours, one-hot rows. On NumPy or CuPy arrays."""

from __future__ import annotations

from functools import lru_cache
from types import ModuleType
from typing import Any

import numpy as np

from minidat.autograd.backend import array_module


def normalise(images: Any, mean: tuple[float, ...], std: tuple[float, ...]) -> Any:
    """(x / 255 − mean) / std per channel: uint8 (B, H, W, C) to float32; mean and std are for values scaled to 0..1."""
    xp = array_module(images)
    batch, height, width, channels = images.shape
    scale, shift = _row_constants(xp, tuple(mean), tuple(std), width)
    rows = images.reshape(batch, height, width * channels)
    rows = xp.multiply(rows, scale, dtype=np.float32)
    rows -= shift
    return rows.reshape(images.shape)


@lru_cache(maxsize=16)
def _row_constants(xp: ModuleType, mean: tuple[float, ...], std: tuple[float, ...], width: int) -> tuple[Any, Any]:
    """Scale and shift of a whole row of an image, (W C): a long inner loop."""
    scale = np.tile([1 / (255 * s) for s in std], width)
    shift = np.tile([m / s for m, s in zip(mean, std, strict=True)], width)
    return xp.asarray(scale, np.float32), xp.asarray(shift, np.float32)


def one_hot(labels: Any, classes: int, dtype: Any = np.float32) -> Any:
    """Integers (B,) to rows with a one at the label, (B, classes). Raises ValueError for a label out of range. On a GPU, where
    checking would force a synchronisation, its row is all zero (`dataset.OnDevice` checks the whole data set once)."""
    xp = array_module(labels)
    if xp is np and ((labels < 0) | (labels >= classes)).any():
        raise ValueError(f"labels run {labels.min()}..{labels.max()}, expected within 0..{classes - 1}")
    return (labels[:, None] == xp.arange(classes)).astype(dtype)
