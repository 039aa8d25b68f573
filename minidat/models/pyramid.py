"""The pyramid that all models share: patches, then stages of blocks, the map of each stage half as high and wide."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np

from minidat import nn, ops
from minidat.attention.entry import entered
from minidat.autograd import Tensor
from minidat.models.blocks import Block, ConvBlock, down, stem
from minidat.models.config import Config
from minidat.models.mixers import mixer


class Stage(nn.Module):
    """A sequence of blocks on maps of one size."""

    def __init__(self, blocks: list[Block | ConvBlock]):
        self.blocks = blocks

    def __call__(self, x: Tensor, rng: np.random.Generator | None = None, record: dict | None = None) -> Tensor:
        for i, block in enumerate(self.blocks):
            entry: dict = {}
            x = block(x, rng, None if record is None else entry)
            if record is not None and entry:
                record[i] = entry
        return x


class Trunk(nn.Module):
    """image → patches → stages: all of a network but what is done with its maps."""

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

    def stage_maps(self, x: Tensor, rng: np.random.Generator | None, record: dict | None) -> Iterator[Tensor]:
        """The map (B, H_i, W_i, C_i) of each stage in turn. Arguments and errors: see `Pyramid.__call__`."""
        x = entered("model", x, "B H W C", 3)
        _, h, w, _ = x.shape
        self.check_image((h, w))
        x = self.stem(x)
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
            yield x

    def check_image(self, size: tuple[int, int]) -> None:
        """Raises ValueError for images of (H, W) that this model does not take. The message names sizes that it takes."""
        reason = self._misfit(size)
        if reason:
            nearest = [self._nearest(side) for side in size]
            hint = f"; {nearest[0]}×{nearest[1]} would fit" if all(nearest) else ""
            raise ValueError(f"model: an image of {size[0]}×{size[1]} does not fit: {reason}{hint}")

    def _misfit(self, size: tuple[int, int]) -> str | None:
        """Why an image of (H, W) does not fit; None where it does."""
        multiple, side = self.config.multiple, self.config.image
        if min(size) < 1 or size[0] % multiple or size[1] % multiple:
            return f"its sides must be positive multiples of {multiple}"
        if self.config.absolute and tuple(size) != (side, side):
            return f"the model has a vector for each position of a {side}×{side} image"
        maps = zip(*(self.config.map_sizes(n) for n in size), strict=True)
        for i, (stage, of_stage) in enumerate(zip(self.stages, maps, strict=True), 1):
            checks = [getattr(block.mixer, "check_size", None) for block in stage.blocks]
            try:
                for check in filter(None, checks):
                    check(of_stage)
            except ValueError as error:
                return f"stage {i}: {error}"
        return None

    def _nearest(self, side: int) -> int | None:
        """The side nearest to `side` of a square image that fits, the larger one of two; None if there is none up to twice
        as large as the model's or as `side`."""
        multiple, most = self.config.multiple, 2 * max(side, self.config.image)
        sides = sorted(range(multiple, most + 1, multiple), key=lambda n: (abs(n - side), -n))
        return next((n for n in sides if self._misfit((n, n)) is None), None)


class Pyramid(Trunk):
    """image → patches → stages → layer norm → mean over the map → logits. Source: DAT's Figure 3 and released model."""

    def __init__(self, config: Config, rng: np.random.Generator):
        super().__init__(config, rng)
        dim = config.stages[-1].dim
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, config.classes, rng=rng)

    def __call__(self, x: Tensor, rng: np.random.Generator | None = None, record: dict | None = None) -> Tensor:
        """x (B, H, W, 3) → logits (B, classes).

        `rng`: drop path is drawn from it (a training pass). `record`: a dict that receives, under (stage, block), what each
        deformable block did: points (B, G, N, 2) in pixels of its map, reference points, sizes.
        Raises ValueError for images whose sides patches do not tile or whose maps a mixer does not take, TypeError for
        images that are no floating array.
        """
        for last in self.stage_maps(x, rng, record):
            x = last  # only the last stage's map is kept
        return self.head(ops.mean(self.norm(x), axis=(1, 2)))
