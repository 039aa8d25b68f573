"""The pyramid as the backbone of detection and segmentation: the maps of its stages, for images of any size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from minidat import nn
from minidat.autograd import Tensor
from minidat.models.config import Config
from minidat.models.pyramid import Pyramid, Trunk


class Backbone(Trunk):
    """image → patches → stages; the map of each stage in `levels` → a layer norm of its own.

    The next stage goes on from the map before its norm. Windows that do not tile a map are padded (`StageConfig.pad_windows`);
    position tables are those of images of `config.image`, read on other maps at the same fraction of the map. `levels`: stages
    from 0 whose maps are given; None: all. Source: DAT-Detection and DAT-Segmentation, `backbones/dat.py`.
    Raises ValueError for levels that are no stages in rising order.
    """

    def __init__(self, config: Config, rng: np.random.Generator, levels: Sequence[int] | None = None):
        count = len(config.stages)
        self.levels = tuple(range(count) if levels is None else levels)
        if (
            not self.levels
            or sorted({*self.levels}) != [*self.levels]
            or not 0 <= self.levels[0] <= self.levels[-1] < count
        ):
            raise ValueError(
                f"Backbone: levels are {self.levels}; they must be stages, 0 to {count - 1}, in rising order"
            )
        stages = tuple(replace(stage, pad_windows=True) for stage in config.stages)
        super().__init__(replace(config, stages=stages), rng)
        self.norms = [nn.LayerNorm(dim) for dim in self.dims]

    @property
    def dims(self) -> list[int]:
        """Channels of the map of each level."""
        return [self.config.stages[i].dim for i in self.levels]

    @property
    def strides(self) -> list[int]:
        """Pixels of the image along one pixel of each level's map."""
        return [self.config.patch * 2**i for i in self.levels]

    def maps(self, x: Tensor, rng: np.random.Generator | None = None, record: dict | None = None) -> list[Tensor]:
        """x (B, H, W, 3) → the maps of the levels, (B, H/stride, W/stride, C) each, stride rounding up.

        Arguments and errors: see `Pyramid.__call__`.
        """
        found = dict(enumerate(self.stage_maps(x, rng, record)))
        return [norm(found[i]) for i, norm in zip(self.levels, self.norms, strict=True)]

    def take_over(self, classifier: Pyramid) -> None:
        """Copy the weights of a classifier with the same stages; its last layer norm and its head are left out. Raises ValueError
        for one of other shapes."""
        given = {name: t for name, t in classifier.parameters().items() if not name.startswith(("norm.", "head."))}
        own = {name: t for name, t in self.parameters().items() if not name.startswith("norms.")}
        if {name: t.shape for name, t in given.items()} != {name: t.shape for name, t in own.items()}:
            raise ValueError("backbone: the classifier has other stages than this backbone")
        for name, t in own.items():
            t.data[...] = given[name].data
