"""What a network is made of, as data: one `Config` with a `StageConfig` for each stage."""

from __future__ import annotations

from dataclasses import dataclass
from math import isqrt

STEMS = ("patch", "overlap", "conv")
MLPS = ("plain", "conv", "residual conv")


@dataclass(frozen=True)
class StageConfig:
    """One stage: its width, its heads and a letter of `mixers.MIXERS` for each block; the rest is for the letters that use it.

    L, S, X: `window`; S: `shift` (None: ⌈w/2⌉, as released). N: `neighborhood`, the kernel. P: `reduction`. D: `groups`,
    `stride`, `kernel`, `padding`, `range_factor`, `limit`, `position`, `offsets` (see `DeformableAttention`). C: `groups`.
    M: `points`. Every block: `expansion` and `mlp` (see `nn.MLP`, `nn.ConvMLP`), `lpu`, a depthwise 3×3 before it, and
    `layer_scale`, where positive, the start of a scale for each channel of its branches.
    """

    dim: int
    heads: int
    mixers: tuple[str, ...]
    window: int = 7
    shift: int | None = None
    neighborhood: int = 7
    reduction: int = 1
    groups: int = 1
    stride: int = 1
    kernel: int = 5
    padding: int | None = None
    range_factor: float = 2.0
    limit: str = "tanh"
    position: str = "relative"
    offsets: bool = True
    points: int = 4
    expansion: int = 4
    mlp: str = "plain"
    lpu: bool = False
    layer_scale: float = 0.0


@dataclass(frozen=True)
class Config:
    """A network. `image`: the side of its images; others fit too where every mixer takes their maps. `tables`: the side
    that position tables are made for, where it is not `image`.

    `patch`: pixels that one step of the first map spans. `stem`: "patch" cuts the image into patches and each map into
    2×2, "overlap" (released v1's option) uses a 7×7 and 3×3 convolutions instead, "conv" (DAT++) two 3×3 and 3×3.
    `stem_dim`: the stem's width, where it is not the first stage's. `absolute`: add a learned vector to each position of
    the first map, as ViT does. `drop_path`: rate of the last block, growing linearly from 0. `convention`: see
    `minidat.attention.CONVENTIONS`. Raises ValueError for an unknown stem and for an image that patches do not tile.
    """

    image: int
    patch: int
    classes: int
    stages: tuple[StageConfig, ...]
    drop_path: float = 0.0
    convention: str = "paper"
    stem: str = "patch"
    stem_dim: int | None = None
    absolute: bool = False
    tables: int | None = None

    def __post_init__(self):
        if self.stem not in STEMS:
            raise ValueError(f"stem {self.stem!r} is unknown; choose from {', '.join(STEMS)}")
        if self.stem == "conv" and self.patch % 2 and isqrt(self.patch) ** 2 != self.patch:
            raise ValueError(
                f"stem 'conv' has two strides that make the patch, so patch {self.patch} must be even or a square"
            )
        if self.image % self.multiple:
            raise ValueError(f"image size {self.image} must be a multiple of {self.multiple} = patch × 2^(stages − 1)")

    @property
    def multiple(self) -> int:
        """What the sides of an image must be multiples of: patches do not overlap, convolutions take any size."""
        return self.patch * 2 ** (len(self.stages) - 1) if self.stem == "patch" else 1

    def map_sizes(self) -> list[int]:
        """Height (= width) of each stage's map."""
        return [-(-self.image // (self.patch * 2**i)) for i in range(len(self.stages))]

    def table_sizes(self) -> list[int]:
        """Height (= width) of the map that each stage's tables are made for: whole patches, where the image has a rest."""
        return [(self.tables or self.image) // (self.patch * 2**i) for i in range(len(self.stages))]
