"""The four-stage pyramid that all models share: patches, then stages of blocks, each stage on a map half the size."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from minidat import nn, ops
from minidat.attention import DeformableAttention, MultiHeadSelfAttention, WindowAttention
from minidat.autograd import Tensor

MIXERS = {"A": "full", "L": "local window", "S": "shifted window", "D": "deformable"}


@dataclass(frozen=True)
class StageConfig:
    """One stage: its width, its heads and a letter of `MIXERS` for each block; the rest is for the letters that use it."""

    dim: int
    heads: int
    mixers: tuple[str, ...]
    window: int = 7
    groups: int = 1
    stride: int = 1
    kernel: int = 5
    range_factor: float = 2.0
    limit: str = "tanh"
    position: str = "relative"
    offsets: bool = True


@dataclass(frozen=True)
class Config:
    """A network. `patch`: side of the first patches. `drop_path`: rate of the last block, growing linearly from 0.
    `convention`: see `minidat.attention.CONVENTIONS`."""

    image: int
    patch: int
    classes: int
    stages: tuple[StageConfig, ...]
    expansion: int = 4
    drop_path: float = 0.0
    convention: str = "paper"

    def __post_init__(self):
        side, letters = self.image, {m for stage in self.stages for m in stage.mixers}
        if letters - MIXERS.keys():
            known = ", ".join(f"{k} ({v})" for k, v in MIXERS.items())
            raise ValueError(f"mixer {sorted(letters - MIXERS.keys())[0]!r} is unknown; choose from {known}")
        for divisor in [self.patch] + [2] * (len(self.stages) - 1):
            if side % divisor:
                total = self.patch * 2 ** (len(self.stages) - 1)
                raise ValueError(f"image size {self.image} must be a multiple of {total} = patch × 2^(stages − 1)")
            side //= divisor

    def map_sizes(self) -> list[int]:
        """Height (= width) of each stage's map."""
        return [self.image // self.patch // 2**i for i in range(len(self.stages))]


def mixer(letter: str, stage: StageConfig, size: int, convention: str, rng: np.random.Generator) -> nn.Module:
    """The attention that a letter of `MIXERS` stands for."""
    square = (size, size)
    if letter == "A":
        return MultiHeadSelfAttention(stage.dim, stage.heads, rng=rng)
    if letter in "LS":
        shift = -(-stage.window // 2) if letter == "S" else 0  # ⌈w/2⌉, as released
        return WindowAttention(stage.dim, stage.heads, window=stage.window, size=square, shift=shift, rng=rng)
    return DeformableAttention(
        stage.dim,
        stage.heads,
        size=square,
        rng=rng,
        groups=stage.groups,
        stride=stage.stride,
        kernel=stage.kernel,
        range_factor=stage.range_factor,
        limit=stage.limit,
        position=stage.position,
        offsets=stage.offsets,
        convention=convention,
    )


class Block(nn.Module):
    """z′ = MHSA(LN(z)) + z;  z = MLP(LN(z′)) + z′                                                  DAT eq. (4), (5)"""

    def __init__(self, mixer: nn.Module, dim: int, expansion: int, drop_path: float, rng: np.random.Generator):
        self.norm1 = nn.LayerNorm(dim)
        self.mixer = mixer
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = nn.MLP(dim, rng=rng, expansion=expansion)
        self.drop = nn.DropPath(drop_path)

    def __call__(self, z: Tensor, rng: np.random.Generator | None = None, record: dict | None = None) -> Tensor:
        z = self.drop(self.mixer(self.norm1(z), record), rng) + z
        return self.drop(self.mlp(self.norm2(z)), rng) + z


class PatchMerge(nn.Module):
    """A k×k convolution with stride k, then layer norm: patch embedding, and the step between stages."""

    def __init__(self, c_in: int, c_out: int, k: int, *, rng: np.random.Generator, bias: bool):
        self.conv = nn.Conv2d(c_in, c_out, k, rng=rng, stride=k, bias=bias)
        self.norm = nn.LayerNorm(c_out)

    def __call__(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))


class Stage(nn.Module):
    """Blocks on maps of one size."""

    def __init__(self, blocks: list[Block]):
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
        self.stem = PatchMerge(3, config.stages[0].dim, config.patch, rng=rng, bias=True)
        self.stages: list[Stage] = []
        for stage, size in zip(config.stages, config.map_sizes(), strict=True):
            mixers = [mixer(letter, stage, size, config.convention, rng) for letter in stage.mixers]
            self.stages.append(Stage([Block(m, stage.dim, config.expansion, next(rates), rng) for m in mixers]))
        dims = [stage.dim for stage in config.stages]
        self.downs = [PatchMerge(a, b, 2, rng=rng, bias=False) for a, b in pairwise(dims)]
        self.norm = nn.LayerNorm(dims[-1])
        self.head = nn.Linear(dims[-1], config.classes, rng=rng)

    def __call__(self, x: Tensor, rng: np.random.Generator | None = None, record: dict | None = None) -> Tensor:
        """x (B, H, W, 3) of the configuration's image size → logits (B, classes).

        `rng`: draw drop path from it (a training pass). `record`: a dict to receive, under (stage, block), what each
        deformable block did: points (B, G, N, 2) in pixels of its map, reference points, sizes.
        Raises ValueError for an image of another size.
        """
        side = self.config.image
        if x.shape[1:] != (side, side, 3):
            raise ValueError(f"model: images must be (B, {side}, {side}, 3), got {x.shape}")
        x = self.stem(x if isinstance(x, Tensor) else Tensor(x))
        for i, stage in enumerate(self.stages):
            if i:
                x = self.downs[i - 1](x)
            entries: dict = {}
            x = stage(x, rng, None if record is None else entries)
            if record is not None:
                record.update({(i, block): entry for block, entry in entries.items()})
        return self.head(ops.mean(self.norm(x), axis=(1, 2)))
