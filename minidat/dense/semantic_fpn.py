"""Semantic FPN: the levels of an FPN, all brought to the finest one's size and added up."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from minidat import nn, ops
from minidat.autograd import Tensor
from minidat.dense.fpn import FPN
from minidat.dense.layers import ConvUnit
from minidat.dense.segmenter import Rng, Segmenter, check_options, classifier
from minidat.models.backbone import Backbone
from minidat.models.config import Config


class ScaleHead(nn.Module):
    """(conv₃ₓ₃ → norm → ReLU → up ×2)ᵏ for a level k steps coarser than the finest; for the finest itself one conv, no up."""

    def __init__(self, steps: int, c_in: int, channels: int, norm: str, rng: np.random.Generator):
        widths = [c_in, *[channels] * max(steps, 1)]
        self.steps = steps
        self.convs = [ConvUnit(a, channels, 3, norm=norm, rng=rng) for a in widths[:-1]]

    def __call__(self, x: Tensor, rng: Rng = None) -> Tensor:
        for conv in self.convs:
            x = conv(x, rng)
            if self.steps:
                h, w = x.shape[1:3]
                x = ops.resize(x, size=(2 * h, 2 * w))
        return x


class SumOfScales(nn.Module):
    """Σ_i ScaleHead_i(P_i), at the size of P_0. Source: mmsegmentation 0.29, `fpn_head.py`."""

    def __init__(self, levels: int, c_in: int, channels: int, norm: str, rng: np.random.Generator):
        self.scales = [ScaleHead(i, c_in, channels, norm, rng) for i in range(levels)]

    def __call__(self, maps: Sequence[Tensor], rng: Rng = None) -> Tensor:
        total = self.scales[0](maps[0], rng)
        h, w = total.shape[1:3]
        for scale, x in zip(self.scales[1:], maps[1:], strict=True):
            y = scale(x, rng)
            total = total + (y if y.shape[1:3] == (h, w) else ops.resize(y, size=(h, w)))
        return total


class SemanticFPN(Segmenter):
    """backbone → FPN → `SumOfScales` → conv₁ₓ₁                                                         Kirillov et al. 2019

    `channels`: of the FPN; `scale_channels`: of the sum; `norm`: of `layers.NORMS`; `levels`: stages that the FPN takes, from 0,
    None: all; `average`, `dropout`: see `Segmenter`.
    """

    def __init__(
        self,
        config: Config,
        classes: int,
        *,
        rng: np.random.Generator,
        channels: int = 256,
        scale_channels: int = 128,
        norm: str = "batch",
        levels: Sequence[int] | None = None,
        average: str = "all",
        dropout: float = 0.1,
    ):
        check_options("SemanticFPN", classes, average, dropout)
        self.classes, self.average, self.dropout = classes, average, dropout
        self.backbone = Backbone(config, rng, levels)
        self.neck = FPN(self.backbone.dims, channels, rng=rng)
        self.head = SumOfScales(len(self.backbone.dims), channels, scale_channels, norm, rng)
        self.out = classifier(scale_channels, classes, rng)

    def _features(self, maps: list[Tensor], rng: Rng) -> Tensor:
        return self.head(self.neck(maps), rng)
