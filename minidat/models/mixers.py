"""The letters of a stage: the attention, or convolution, by which a block mixes its tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from minidat import nn
from minidat.attention import (
    DeformableAttention,
    DeformableConv2d,
    DeformableSelfAttention,
    MultiHeadSelfAttention,
    NeighborhoodAttention,
    PooledAttention,
    SpatialReductionAttention,
    WindowAttention,
)
from minidat.models.config import StageConfig

Size = tuple[int, int]
Build = Callable[[StageConfig, Size, str, np.random.Generator], nn.Module]


class Mixer(NamedTuple):
    """What a letter stands for. `build(stage, (H, W), convention, rng)` makes the module."""

    name: str
    build: Build


def full(stage: StageConfig, size: Size, convention: str, rng: np.random.Generator) -> nn.Module:
    return MultiHeadSelfAttention(stage.dim, stage.heads, rng=rng)


def local_window(stage: StageConfig, size: Size, convention: str, rng: np.random.Generator) -> nn.Module:
    return _window(stage, size, rng, shift=0)


def shifted_window(stage: StageConfig, size: Size, convention: str, rng: np.random.Generator) -> nn.Module:
    shift = -(-stage.window // 2) if stage.shift is None else stage.shift
    return _window(stage, size, rng, shift)


def _window(stage: StageConfig, size: Size, rng: np.random.Generator, shift: int) -> nn.Module:
    options = {"window": stage.window, "shift": shift, "pad": stage.pad_windows}
    return WindowAttention(stage.dim, stage.heads, size=size, rng=rng, **options)


def neighborhood(stage: StageConfig, size: Size, convention: str, rng: np.random.Generator) -> nn.Module:
    return NeighborhoodAttention(stage.dim, stage.heads, kernel=stage.neighborhood, rng=rng)


def spatial_reduction(stage: StageConfig, size: Size, convention: str, rng: np.random.Generator) -> nn.Module:
    return SpatialReductionAttention(stage.dim, stage.heads, reduction=stage.reduction, rng=rng)


def deformable(stage: StageConfig, size: Size, convention: str, rng: np.random.Generator) -> nn.Module:
    pooled = convention == "v2" and not stage.offsets.learned  # as released
    options = {"groups": stage.groups, "position": stage.position, "convention": convention}
    kind = PooledAttention if pooled else DeformableAttention
    return kind(stage.dim, stage.heads, stage.offsets, size=size, rng=rng, **options)


def deformable_convolution(stage: StageConfig, size: Size, convention: str, rng: np.random.Generator) -> nn.Module:
    return DeformableConv2d(stage.dim, stage.dim, 3, groups=stage.groups, rng=rng)


def deformable_detr(stage: StageConfig, size: Size, convention: str, rng: np.random.Generator) -> nn.Module:
    return DeformableSelfAttention(stage.dim, stage.heads, points=stage.points, rng=rng)


def depthwise(stage: StageConfig, size: Size, convention: str, rng: np.random.Generator) -> nn.Module:
    if stage.window % 2 == 0:
        raise ValueError(
            f"mixer X: window {stage.window} is even, so its convolution has no centre: padded by {stage.window // 2}, as "
            f"released, its map is one pixel larger than the residual's; use {stage.window - 1} or {stage.window + 1}"
        )
    return nn.DepthwiseConv2d(stage.dim, stage.window, rng=rng)


MIXERS = {
    "A": Mixer("full (ViT)", full),
    "P": Mixer("spatial reduction (PVT)", spatial_reduction),
    "L": Mixer("local window (Swin)", local_window),
    "S": Mixer("shifted window (Swin)", shifted_window),
    "N": Mixer("neighbourhood (NAT)", neighborhood),
    "C": Mixer("deformable convolution (DCN)", deformable_convolution),
    "M": Mixer("multi-scale deformable (Deformable DETR)", deformable_detr),
    "D": Mixer("deformable (DAT)", deformable),
    "X": Mixer("depthwise convolution (ConvNeXt)", depthwise),
}
"""L, S, D, N, P and X are the released model's letters; A, C and M are added here."""


def mixer(letter: str, stage: StageConfig, size: Size, convention: str, rng: np.random.Generator) -> nn.Module:
    """The module that a letter of `MIXERS` stands for, on a map of (H, W). Raises ValueError for another letter."""
    if letter not in MIXERS:
        known = ", ".join(f"{k} ({v.name})" for k, v in MIXERS.items())
        raise ValueError(f"mixer {letter!r} is unknown; choose from {known}")
    return MIXERS[letter].build(stage, size, convention, rng)
