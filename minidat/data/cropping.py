"""Random crops and random flips of a batch of images, on NumPy or CuPy arrays."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidat.autograd.backend import array_module


def draw_crops(shape: tuple[int, ...], rng: np.random.Generator, padding: int) -> np.ndarray:
    """Random windows of padded images (B, H, W, C): where each of their rows begins in the flat padded batch, (B, H)."""
    batch, height, width, channels = shape
    top, left = rng.integers(0, 2 * padding + 1, (2, batch))  # the window's corner in the padded image
    rows = np.arange(batch)[:, None] * (height + 2 * padding) + top[:, None] + np.arange(height)  # (B, H)
    return (rows * (width + 2 * padding) + left[:, None]) * channels


def crop(images: Any, starts: Any, padding: int) -> Any:
    """Each image shifted by up to `padding` pixels each way, zeros coming in: (B, H, W, C), same dtype.

    starts: of `draw_crops`. Source: He et al., "Deep Residual Learning", 2016, section 4.2.
    """
    xp = array_module(images)
    batch, height, width, channels = images.shape
    padded = xp.zeros((batch, height + 2 * padding, width + 2 * padding, channels), images.dtype)
    padded[:, padding : padding + height, padding : padding + width] = images
    index = xp.asarray(starts)[:, :, None] + xp.arange(width * channels)  # (B, H, W C)
    return xp.take(padded.reshape(-1), index).reshape(images.shape)


def crops_of(starts: np.ndarray, positions: np.ndarray, shape: tuple[int, ...], padding: int) -> np.ndarray:
    """The windows of the images at `positions` (b,), as `draw_crops` would number them in a batch of these images (b, H, W, C)
    alone: (b, H)."""
    _, height, width, channels = shape
    image = (height + 2 * padding) * (width + 2 * padding) * channels  # elements of a padded one
    return starts[positions] + (np.arange(len(positions)) - positions)[:, None] * image


def draw_flips(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """The images of a batch that are mirrored, each with probability ½: their indices."""
    return np.flatnonzero(rng.random(shape[0]) < 0.5)


def flips_of(chosen: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Which of the images at `positions` (b,) are mirrored: indices in 0 … b − 1."""
    return np.flatnonzero(np.isin(positions, chosen))


def flip(images: Any, chosen: Any) -> Any:
    """The chosen images mirrored left to right: (B, H, W, C), same dtype."""
    chosen = array_module(images).asarray(chosen)
    out = images.copy()
    out[chosen] = images[chosen][:, :, ::-1]
    return out
