"""Mixup and cutmix: a batch is mixed with itself in reverse order, images and targets alike.

Sources: Zhang et al., "mixup: Beyond Empirical Risk Minimization", 2018; Yun et al., "CutMix", 2019.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np


class Mix(NamedTuple):
    """How a batch is mixed. share: of the images' own targets. box: (top, bottom, left, right) of the pixels that are the
    partner's in cutmix; None for mixup, where pixels are mixed by the same share."""

    share: float
    box: tuple[int, int, int, int] | None


def draw_mixup(rng: np.random.Generator, alpha: float) -> Mix:
    """One λ ~ Beta(α, α) a batch."""
    return Mix(rng.beta(alpha, alpha), None)


def draw_cutmix(shape: tuple[int, ...], rng: np.random.Generator, alpha: float) -> Mix:
    """One box a batch of images (B, H, W, C): sides √(1 − λ) of the image's, λ ~ Beta(α, α), and a centre anywhere, so that
    the border may cut it. The share is that of the pixels that are not replaced."""
    side = math.sqrt(1 - rng.beta(alpha, alpha))
    sizes = shape[1:3]
    centres = [int(rng.integers(size)) for size in sizes]
    (top, bottom), (left, right) = (_span(c, int(side * n), n) for c, n in zip(centres, sizes, strict=True))
    replaced = (bottom - top) * (right - left) / (sizes[0] * sizes[1])
    return Mix(1 - replaced, (top, bottom, left, right))


def _span(centre: int, length: int, size: int) -> tuple[int, int]:
    half = length // 2
    return max(centre - half, 0), min(centre + half, size)


def mix(images: Any, targets: Any, how: Mix) -> tuple[Any, Any]:
    """x̃ = λ x + (1 − λ) x', ỹ = λ y + (1 − λ) y' (mixup); in cutmix x̃ is x' in the box, x elsewhere, and λ the share of x.

    images: floats (B, H, W, C). targets: (B, K). The partner x' is the batch in reverse order, so the
    middle image of an odd batch meets itself. Returns both mixed, same dtypes.
    """
    if how.box is None:
        return _blend(images, how.share), _blend(targets, how.share)
    top, bottom, left, right = how.box
    out = images.copy()
    out[:, top:bottom, left:right] = images[::-1, top:bottom, left:right]
    return out, _blend(targets, how.share)


def _blend(x: Any, share: float) -> Any:
    return share * x + (1 - share) * x[::-1]
