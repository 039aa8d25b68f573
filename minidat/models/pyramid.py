"""The pyramid that all models share: patches, then stages of blocks, each stage on a map half the size."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from minidat import nn, ops
from minidat.autograd import Tensor
from minidat.models.blocks import Block, ConvBlock, down, stem
from minidat.models.config import Config
from minidat.models.mixers import mixer


class Stage(nn.Module):
    """Blocks on maps of one size."""

    def __init__(self, blocks: list[Block | ConvBlock]):
        self.blocks = blocks

    def __call__(self, x: Tensor, rng: np.random.Generator | None = None, record: dict | None = None) -> Tensor:
        for i, block in enumerate(self.blocks):
            entry: dict = {}
            x = block(x, rng, None if record is None else entry)
            if record is not None and entry:
                record[i] = entry
        return x


class Pyramid(nn.Module):
    """image → patches → stages → layer norm → mean over the map → logits. Source: DAT's Figure 3 and released model."""

    def __init__(self, config: Config, rng: np.random.Generator):
        self.config = config
        depth = sum(len(stage.mixers) for stage in config.stages)
        rates = iter(np.linspace(0.0, config.drop_path, depth).tolist())
        dims, sizes = [stage.dim for stage in config.stages], config.table_sizes()
        stem_dim = config.stem_dim or dims[0]
        self.stem = stem(config.stem, stem_dim, config.patch, rng)
        self.widen = nn.Linear(stem_dim, dims[0], rng=rng) if stem_dim != dims[0] else None
        self.positions = nn.table(rng, (sizes[0], sizes[0], dims[0]), 0.02) if config.absolute else None
        self.stages: list[Stage] = []
        for stage, size in zip(config.stages, sizes, strict=True):
            mixers = [mixer(letter, stage, (size, size), config.convention, rng) for letter in stage.mixers]
            kinds = [ConvBlock if letter == "X" else Block for letter in stage.mixers]
            blocks = [kind(m, stage, next(rates), rng) for kind, m in zip(kinds, mixers, strict=True)]
            self.stages.append(Stage(blocks))
        self.downs = [down(config.stem, a, b, rng) for a, b in pairwise(dims)]
        self.norm = nn.LayerNorm(dims[-1])
        self.head = nn.Linear(dims[-1], config.classes, rng=rng)

    def __call__(self, x: Tensor, rng: np.random.Generator | None = None, record: dict | None = None) -> Tensor:
        """x (B, H, W, 3) → logits (B, classes).

        `rng`: draw drop path from it (a training pass). `record`: a dict to receive, under (stage, block), what each
        deformable block did: points (B, G, N, 2) in pixels of its map, reference points, sizes.
        Raises ValueError for an image whose sides the patches do not tile, or of which a mixer cannot take the map.
        """
        self._check(x.shape)
        x = self.stem(x if isinstance(x, Tensor) else Tensor(x))
        if self.widen:
            x = self.widen(x)
        if self.positions is not None:
            x = x + self.positions
        for i, stage in enumerate(self.stages):
            if i:
                x = self.downs[i - 1](x)
            entries: dict = {}
            x = stage(x, rng, None if record is None else entries)
            if record is not None:
                record.update({(i, block): entry for block, entry in entries.items()})
        return self.head(ops.mean(self.norm(x), axis=(1, 2)))

    def _check(self, shape: tuple[int, ...]) -> None:
        side, multiple = self.config.image, self.config.multiple
        if len(shape) != 4 or shape[3] != 3:
            raise ValueError(f"model: images must be (B, {side}, {side}, 3), got {shape}")
        if shape[1] % multiple or shape[2] % multiple:
            fits = [max(round(n / multiple), 1) * multiple for n in shape[1:3]]
            raise ValueError(
                f"model: sides of images must be multiples of {multiple}, got {shape[1:3]}; {fits} would fit"
            )
        if self.config.absolute and shape[1:3] != (side, side):
            raise ValueError(f"model: it has a vector for each position of a {side}×{side} image, got {shape[1:3]}")
