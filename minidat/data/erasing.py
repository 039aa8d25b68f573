"""Random erasing: a rectangle of some images is overwritten with noise.

Source: Zhong et al., "Random Erasing Data Augmentation", 2020, in the "pixel" mode of the paper's recipe: normal noise, drawn
anew for every value. The limits are those of timm's RandomErasing, which the released code uses.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minidat.autograd.backend import array_module

TRIES = 10  # rectangles that are drawn until one fits
AREA = (0.02, 1 / 3)  # range of a rectangle's share of the image
ASPECT = (0.3, 1 / 0.3)  # range of its height / width


def draw_erased(
    shape: tuple[int, ...],
    rng: np.random.Generator,
    probability: float,
    area: tuple[float, float] = AREA,
    aspect: tuple[float, float] = ASPECT,
    positions: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The pixels that are overwritten, (P,) in the flat batch (B, H, W, C), and what is written there, float32 (P, C).

    probability: that an image is touched. The rectangle's area is uniform in `area`, the logarithm of its aspect in that of
    `aspect`. Of ten rectangles the first that is smaller than the image is taken; where none is, the image stays. positions: of
    the images (b,), ascending, whose pixels are wanted, numbered as a batch of these images; None: all. What is written into an
    image comes from a generator of its own, so that it need not be drawn for others.
    """
    batch, height, width, channels = shape
    touched = rng.random(batch) < probability
    share = rng.uniform(*area, (batch, TRIES)) * (height * width)  # pixels
    ratio = np.exp(rng.uniform(math.log(aspect[0]), math.log(aspect[1]), (batch, TRIES)))
    corner = rng.random((2, batch))
    tall, wide = np.rint(np.sqrt(share * ratio)), np.rint(np.sqrt(share / ratio))  # (B, tries)
    fits = (tall < height) & (wide < width)
    first = np.arange(batch), fits.argmax(1)
    seeds = rng.integers(0, 1 << 63, batch)
    own = slice(None) if positions is None else positions
    tall, wide, touched, seeds = tall[first][own], wide[first][own], (touched & fits.any(1))[own], seeds[own]  # (b,)
    rows = _span(corner[0][own], tall, height) & touched[:, None]  # (b, H)
    cols = _span(corner[1][own], wide, width)  # (b, W)
    index = np.flatnonzero(rows[:, :, None] & cols[:, None, :])  # flat pixels
    sizes = rows.sum(1) * cols.sum(1)  # (b,)
    noise = [
        np.random.default_rng(seed).standard_normal((size, channels), np.float32)
        for seed, size in zip(seeds.tolist(), sizes.tolist())
        if size
    ]
    return index, np.concatenate([np.empty((0, channels), np.float32), *noise])


def _span(u: np.ndarray, length: np.ndarray, size: int) -> np.ndarray:
    """Which of `size` cells lie in a range of `length`, placed uniformly by u in [0, 1): bool (B, size)."""
    start = np.floor(u * (size - length + 1))[:, None]
    cells = np.arange(size)
    return (start <= cells) & (cells < start + length[:, None])


def erase(images: Any, index: Any, noise: Any) -> Any:
    """Normalised images (B, H, W, C) with `noise` at the pixels `index`, both of `draw_erased`."""
    xp = array_module(images)
    out = images.copy()
    out.reshape(-1, images.shape[-1])[xp.asarray(index)] = xp.asarray(noise)
    return out
