"""What a network is made of, as data: one `Config` with a `StageConfig` for each stage."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from math import isfinite, isqrt
from typing import Any

from minidat.attention import CONVENTIONS, Offsets
from minidat.ops.checks import check_whole

STEMS = ("patch", "overlap", "conv", "merge")
MLPS = ("plain", "conv", "residual conv")


@dataclass(frozen=True)
class StageConfig:
    """One stage: its width, its heads and a letter of `mixers.MIXERS` for each block. Other options are read by some letters.

    L, S, X: `window`; S: `shift` (None: ⌈w/2⌉, as released); L, S: `pad_windows`, whether maps that windows do not tile are
    padded, as in detection and segmentation. N: `neighborhood`, the kernel. P: `reduction`. D: `groups`,
    `offsets`, `position` (see `DeformableAttention`). C: `groups`. M: `points`. Every block: `expansion` and `mlp` (see
    `nn.MLP`, `nn.ConvMLP`); `lpu`, whether a depthwise 3×3 comes before it; `layer_scale`, if positive, the first value of a
    scale for each channel of its branches. Raises ValueError for a number below 1, TypeError for offsets of another type.
    """

    dim: int
    heads: int
    mixers: tuple[str, ...]
    window: int = 7
    shift: int | None = None
    neighborhood: int = 7
    reduction: int = 1
    points: int = 4
    groups: int = 1
    offsets: Offsets = field(default_factory=Offsets)
    position: str = "relative"
    expansion: int = 4
    mlp: str = "plain"
    lpu: bool = False
    layer_scale: float = 0.0
    pad_windows: bool = False

    def __post_init__(self):
        whole = ("dim", "heads", "window", "neighborhood", "reduction", "points", "groups", "expansion")
        check_whole("StageConfig", **{name: getattr(self, name) for name in whole})
        if self.shift is not None:
            check_whole("StageConfig", 0, shift=self.shift)
        if not self.mixers:
            raise ValueError("StageConfig: mixers is empty; it needs a letter for each block")
        if not isfinite(self.layer_scale):
            raise ValueError(f"StageConfig: layer_scale is {self.layer_scale}; it must be finite")
        if not isinstance(self.offsets, Offsets):
            raise TypeError(f"StageConfig: offsets must be an Offsets(…), got {self.offsets!r}")

    def changed(self, **options: Any) -> StageConfig:
        """A copy with other options. Options of `Offsets`, as `stride=2`, are changed in `offsets`."""
        names = {each.name for each in fields(Offsets)} & options.keys()
        if names:
            before = options.get("offsets", self.offsets)
            options["offsets"] = replace(before, **{name: options.pop(name) for name in names})
        return replace(self, **options)


@dataclass(frozen=True)
class Config:
    """A network. `image`: the side of its images; others fit too where every mixer takes their maps. `tables`: the side
    that position tables are made for, where it is not `image`.

    `patch`: pixels of the image along one pixel of the first map. `stem`, the convolutions before the first stage and between
    stages: "patch" k×k with stride k, then 2×2 with stride 2; "overlap" (an option of released v1) 7×7, then 3×3; "conv"
    (DAT++) 3×3 twice, then 3×3; "merge" (Swin) as "patch", but the layer norm between stages comes before the 2×2.
    `stem_dim`: the stem's width, where it is not the first stage's. `absolute`: add a learned vector to each position of
    the first map, as ViT does. `drop_path`: the last block's rate, in [0, 1); it grows linearly from 0 in the first.
    `convention`: see `minidat.attention.CONVENTIONS`. Raises ValueError for a number below 1, an unknown stem and an image
    that patches do not tile.
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
        tables = self.image if self.tables is None else self.tables
        check_whole("Config", image=self.image, patch=self.patch, classes=self.classes, tables=tables)
        check_whole("Config", stem_dim=1 if self.stem_dim is None else self.stem_dim)
        if not self.stages:
            raise ValueError("Config: stages is empty; it needs at least one StageConfig")
        if self.convention not in CONVENTIONS:
            raise ValueError(f"convention {self.convention!r} is unknown; choose from {', '.join(CONVENTIONS)}")
        if self.absolute and tables != self.image:
            raise ValueError(f"Config: absolute needs tables of the image's size {self.image}, got {tables}")
        if self.absolute and self.image % self.patch:
            raise ValueError(
                f"Config: absolute needs an image that patches tile; {self.image} is no multiple of {self.patch}"
            )
        if not 0 <= self.drop_path < 1:
            raise ValueError(f"Config: drop_path is {self.drop_path}; it must be in [0, 1)")
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
        """What the sides of an image must be multiples of: patches must tile it, overlapping convolutions take any size."""
        return self.patch * 2 ** (len(self.stages) - 1) if self.stem in ("patch", "merge") else 1

    def map_sizes(self, side: int | None = None) -> list[int]:
        """Each stage's map along an axis of an image with `side` pixels, by default the configuration's own."""
        return [-(-(side or self.image) // (self.patch * 2**i)) for i in range(len(self.stages))]

    def table_sizes(self) -> list[int]:
        """Height (= width) of the map that each stage's tables are made for: of the whole patches in the image."""
        return [(self.tables or self.image) // (self.patch * 2**i) for i in range(len(self.stages))]
