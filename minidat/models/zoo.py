"""Named configurations: the paper's models, DAT++, the models that they are compared with, and small ones for 32×32."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from minidat.models.changes import changed
from minidat.models.config import Config, StageConfig
from minidat.models.pyramid import Pyramid

Ints = tuple[int, ...]


def stages(dims: Ints, heads: Ints, letters: tuple[str, ...], **options: object) -> tuple[StageConfig, ...]:
    """A StageConfig for each of dims. letters: the mixers of each stage, "LDLDLD". options: of `StageConfig` and of its
    `Offsets`, each one value for all stages, or a tuple or list with a value for each."""
    made = []
    for i, dim in enumerate(dims):
        own = {name: value[i] if isinstance(value, tuple | list) else value for name, value in options.items()}
        made.append(StageConfig(dim, heads[i], tuple(letters[i])).changed(**own))
    return tuple(made)


def dat(
    dims: Ints, heads: Ints, groups: Ints, deep: int, *, image: int = 224, window: int = 7, drop_path: float
) -> Config:
    """DAT as released (v1): local and shifted windows in stages 1–2, local and deformable attention in stages 3–4.
    `deep`: blocks of stage 3. Source: the released configurations."""
    letters = ("LS", "LS", "LD" * (deep // 2), "LD")
    made = stages(dims, heads, letters, window=window, groups=groups, kernel=(9, 7, 5, 3))
    return Config(image, 4, 1000, made, drop_path=drop_path, convention="v1")


def dat_pp(dims: Ints, heads: Ints, groups: Ints, *, image: int = 224, drop_path: float) -> Config:
    """DAT++ as released (v2): neighbourhood and deformable attention in turn; convolutions in the stem, in the MLPs and before
    each block; points clamped to the map. Tables are made for images of 224 at every size. Source: the released
    configurations."""
    made = stages(
        dims,
        heads,
        ("ND", "NDND", "ND" * 9, "DD"),
        groups=groups,
        stride=(8, 4, 2, 1),
        kernel=(9, 7, 5, 3),
        limit="clamp",
        mlp="residual conv",
        lpu=True,
    )
    return Config(image, 4, 1000, made, drop_path=drop_path, convention="v2", stem="conv", tables=224)


_T = ((96, 192, 384, 768), (3, 6, 12, 24), (1, 1, 3, 6))
_B = ((128, 256, 512, 1024), (4, 8, 16, 32), (1, 1, 4, 8))
_B_PP = (*_B[:2], (2, 4, 8, 16))


def swin_tiny() -> Config:
    """Swin-T as in the paper's ablation: DAT-T with windows and shifted windows in all stages; the last map is one window."""
    made = stages(*_T[:2], ("LS", "LS", "LSLSLS", "LL"), shift=3)
    return Config(224, 4, 1000, made, drop_path=0.2)


def swin(dims: Ints, heads: Ints, deep: int, drop_path: float) -> Config:
    """Swin as published, the backbone of the paper's tables of detection and segmentation. `deep`: blocks of stage 3."""
    made = stages(dims, heads, ("LS", "LS", "LS" * (deep // 2), "LS"), shift=3, pad_windows=True)
    return Config(224, 4, 1000, made, drop_path=drop_path, stem="merge")


def pvt_small() -> Config:
    """PVT-S's widths, depths and reductions, in this pyramid: no class token, no vector for each position."""
    made = stages(
        (64, 128, 320, 512),
        (1, 2, 5, 8),
        ("PPP", "PPPP", "PPPPPP", "PPP"),
        reduction=(8, 4, 2, 1),
        expansion=(8, 8, 4, 4),
    )
    return Config(224, 4, 1000, made, drop_path=0.1)


def nat_tiny() -> Config:
    """NAT-T's widths, depths and kernel, in this pyramid."""
    made = stages((64, 128, 256, 512), (2, 4, 8, 16), ("NNN", "NNNN", "N" * 18, "N" * 5), expansion=3)
    return Config(224, 4, 1000, made, drop_path=0.2, stem="conv")


def vit_small() -> Config:
    """ViT-S/16, as DeiT-S: one stage, a vector for each position; a mean in place of the class token."""
    return Config(224, 16, 1000, stages((384,), (6,), ("A" * 12,)), drop_path=0.1, absolute=True)


def convnext_tiny() -> Config:
    """ConvNeXt-T's widths, depths and blocks, in this pyramid."""
    made = stages((96, 192, 384, 768), (1, 1, 1, 1), ("XXX", "XXX", "X" * 9, "XXX"), layer_scale=1e-6)
    return Config(224, 4, 1000, made, drop_path=0.1)


def small(*letters: str, **options: object) -> Config:
    """Widths, heads and stages of `dat_cifar`, with other mixers: maps of 16×16, 8×8 and 4×4 for images of 32×32."""
    window = options.pop("window", 4)
    return Config(32, 2, 10, stages((48, 96, 192), (3, 6, 12), letters, window=window, **options))


def scenes(*letters: str, **options: object) -> Config:
    """A backbone for scenes of 64×64: widths 24, 48 and 96, maps of 16×16, 8×8 and 4×4."""
    return Config(64, 4, 10, stages((24, 48, 96), (2, 4, 8), letters, window=4, **options))


MODELS: dict[str, Callable[[], Config]] = {
    "dat_tiny": lambda: dat(*_T, 6, drop_path=0.2),
    "dat_small": lambda: dat(*_T, 18, drop_path=0.3),
    "dat_base": lambda: dat(*_B, 18, drop_path=0.5),
    "dat_base_384": lambda: dat(*_B, 18, image=384, window=12, drop_path=0.5),
    "dat_pp_tiny": lambda: dat_pp((64, 128, 256, 512), (2, 4, 8, 16), (1, 2, 4, 8), drop_path=0.2),
    "dat_pp_small": lambda: dat_pp(*_T[:2], (1, 2, 3, 6), drop_path=0.4),
    "dat_pp_base": lambda: dat_pp(*_B_PP, drop_path=0.7),
    "dat_pp_base_384": lambda: dat_pp(*_B_PP, image=384, drop_path=0.6),
    "swin_tiny": swin_tiny,
    "swin_t": lambda: swin(*_T[:2], 6, 0.2),
    "swin_s": lambda: swin(*_T[:2], 18, 0.3),
    "swin_b": lambda: swin(*_B[:2], 18, 0.5),
    "pvt_small": pvt_small,
    "nat_tiny": nat_tiny,
    "vit_small": vit_small,
    "convnext_tiny": convnext_tiny,
    "dat_micro": lambda: Config(32, 4, 10, stages((48, 96), (3, 6), ("LD", "LD"), window=4, groups=(1, 2), kernel=3)),
    "dat_cifar": lambda: small("LS", "LD", "LD", groups=(1, 2, 4), kernel=(5, 5, 3)),
    "swin_cifar": lambda: small("LS", "LS", "LL"),
    "pvt_cifar": lambda: small("PP", "PP", "PP", reduction=(4, 2, 1), expansion=(2, 2, 4)),
    "nat_cifar": lambda: small("NN", "NN", "NN", neighborhood=(5, 5, 3)),
    "vit_cifar": lambda: Config(32, 4, 10, stages((132,), (6,), ("A" * 6,)), absolute=True),
    "convnext_cifar": lambda: small("XXX", "XXX", "XXX", window=(7, 5, 3)),
    "dcn_cifar": lambda: small("CC", "CC", "CC", expansion=1),
    "detr_cifar": lambda: small("MM", "MM", "MM", points=8),
    "dat_pp_cifar": lambda: replace(
        small(
            "ND",
            "ND",
            "DD",
            groups=(1, 2, 4),
            stride=(4, 2, 1),
            kernel=(7, 5, 3),
            limit="clamp",
            neighborhood=(5, 5, 3),
            expansion=(4, 4, 3),
            mlp="residual conv",
            lpu=True,
        ),
        convention="v2",
        stem="conv",
    ),
    "dat_scenes": lambda: scenes("LS", "LD", "LD", groups=(1, 2, 4), kernel=(5, 5, 3)),
    "still_scenes": lambda: scenes("LS", "LD", "LD", groups=(1, 2, 4), kernel=(5, 5, 3), learned=False),
    "swin_scenes": lambda: scenes("LS", "LS", "LL"),
}
"""Models named …_scenes are for images of 64×64 with several objects; the points of `still_scenes` stay at their references.
Models named …_cifar have as many parameters as `dat_cifar`, to within 5 %; their multiply-adds differ more."""


def config(
    name: str, *, classes: int | None = None, drop_path: float | None = None, changes: Sequence[str] = ()
) -> Config:
    """The configuration of a name of `MODELS`, with another number of classes or drop path rate where given, and with
    `changes`, see `changed`. Raises ValueError for an unknown name or change."""
    if name not in MODELS:
        raise ValueError(f"model {name!r} is unknown; choose from {', '.join(MODELS)}")
    given = {"classes": classes, "drop_path": drop_path}
    return replace(changed(MODELS[name](), changes), **{k: v for k, v in given.items() if v is not None})


def create(
    name: str,
    *,
    classes: int | None = None,
    drop_path: float | None = None,
    changes: Sequence[str] = (),
    seed: int = 0,
) -> Pyramid:
    """The model of `config(name, …)`, float32 on the CPU, its weights drawn from `seed`."""
    return Pyramid(config(name, classes=classes, drop_path=drop_path, changes=changes), np.random.default_rng(seed))
