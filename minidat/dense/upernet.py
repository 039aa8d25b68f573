"""UperNet: pooled views of the coarsest map, and a pyramid whose levels are all brought together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from minidat import nn, ops
from minidat.autograd import Tensor
from minidat.dense.detector import Losses
from minidat.dense.layers import ConvUnit
from minidat.dense.segmenter import Rng, Segmenter, check_options, classifier, dropped
from minidat.models.backbone import Backbone
from minidat.models.config import Config


class UperHead(nn.Module):
    """Pyramid pooling on C_n, laterals and top-down sums, all levels resized to the finest and mixed by a conv₃ₓ₃         UperNet

    | part | attribute |
    |---|---|
    | mean of each of s×s cells → conv₁ₓ₁ → up, s in `bins` | `pooled` |
    | C_n beside these → conv₃ₓ₃ | `bottleneck` |
    | conv₁ₓ₁ of the finer maps; conv₃ₓ₃ of their sums | `lateral` `output` |
    | all levels side by side → conv₃ₓ₃ | `mix` |

    Every convolution has a norm and a ReLU. up: bilinear. Source: mmsegmentation 0.29, `uper_head.py`, `psp_head.py`.
    """

    bins = (1, 2, 3, 6)

    def __init__(self, dims: Sequence[int], channels: int, norm: str, rng: np.random.Generator):
        def unit(c_in: int, kernel: int) -> ConvUnit:
            return ConvUnit(c_in, channels, kernel, norm=norm, rng=rng)

        self.pooled = [unit(dims[-1], 1) for _ in self.bins]
        self.bottleneck = unit(dims[-1] + len(self.bins) * channels, 3)
        self.lateral = [unit(dim, 1) for dim in dims[:-1]]
        self.output = [unit(channels, 3) for _ in dims[:-1]]
        self.mix = unit(len(dims) * channels, 3)

    def __call__(self, maps: Sequence[Tensor], rng: Rng = None) -> Tensor:
        merged = [unit(x, rng) for unit, x in zip(self.lateral, maps[:-1], strict=True)]
        merged.append(self._coarsest(maps[-1], rng))
        for i in range(len(merged) - 1, 0, -1):
            merged[i - 1] = merged[i - 1] + _up(merged[i], merged[i - 1])
        outs = [unit(x, rng) for unit, x in zip(self.output, merged[:-1], strict=True)]
        outs.append(merged[-1])
        return self.mix(ops.concatenate(outs[0], *(_up(x, outs[0]) for x in outs[1:]), axis=-1), rng)

    def _coarsest(self, x: Tensor, rng: Rng) -> Tensor:
        views = [
            unit(ops.adaptive_average_pool(x, size=(n, n)), rng) for n, unit in zip(self.bins, self.pooled, strict=True)
        ]
        return self.bottleneck(ops.concatenate(x, *(_up(view, x) for view in views), axis=-1), rng)


def _up(x: Tensor, like: Tensor) -> Tensor:
    """x bilinearly at the size of `like`."""
    return ops.resize(x, size=like.shape[1:3])


class AuxiliaryHead(nn.Module):
    """conv₃ₓ₃ → norm → ReLU → conv₁ₓ₁ on one map: a second loss, nearer to the backbone; not used in tests. Source:
    mmsegmentation 0.29, `fcn_head.py`."""

    def __init__(self, dim: int, channels: int, classes: int, norm: str, rng: np.random.Generator):
        self.conv = ConvUnit(dim, channels, 3, norm=norm, rng=rng)
        self.out = classifier(channels, classes, rng)

    def __call__(self, x: Tensor, rng: Rng = None, dropout: float = 0.0) -> Tensor:
        return self.out(dropped(self.conv(x, rng), dropout, rng))


class UperNet(Segmenter):
    """backbone → `UperHead` → conv₁ₓ₁; in training also `AuxiliaryHead` on the last map but one.

    `channels`: of the head; `norm`: of `layers.NORMS`; `auxiliary`: weight of the second loss, 0: there is no such head;
    `auxiliary_channels`: of its convolution; `average`, `dropout`: see `Segmenter`. With batch norm a training pass needs two
    images: the 1×1 view of one has one value a channel.
    """

    def __init__(
        self,
        config: Config,
        classes: int,
        *,
        rng: np.random.Generator,
        channels: int = 512,
        norm: str = "batch",
        auxiliary: float = 0.4,
        auxiliary_channels: int = 256,
        average: str = "all",
        dropout: float = 0.1,
    ):
        check_options("UperNet", classes, average, dropout)
        if not auxiliary >= 0:
            raise ValueError(f"UperNet: auxiliary is {auxiliary}; it must be at least 0")
        self.classes, self.average, self.dropout, self.weight = classes, average, dropout, auxiliary
        self.backbone = Backbone(config, rng)
        dims = self.backbone.dims
        self.head = UperHead(dims, channels, norm, rng)
        self.out = classifier(channels, classes, rng)
        self.auxiliary = AuxiliaryHead(dims[-2], auxiliary_channels, classes, norm, rng) if auxiliary else None

    def _features(self, maps: list[Tensor], rng: Rng) -> Tensor:
        return self.head(maps, rng)

    def _losses(self, maps: list[Tensor], targets: Any, rng: np.random.Generator) -> Losses:
        losses = super()._losses(maps, targets, rng)
        if self.auxiliary:
            logits = self.auxiliary(maps[-2], rng, self.dropout)
            losses["auxiliary"] = self.pixel_loss(logits, targets) * self.weight
        return losses
