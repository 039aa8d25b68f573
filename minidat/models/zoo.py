"""Named configurations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from minidat.models.pyramid import Config, Pyramid, StageConfig


def dat(
    dims: tuple[int, ...],
    heads: tuple[int, ...],
    groups: tuple[int, int],
    deep: int,
    *,
    image: int = 224,
    window: int = 7,
    drop_path: float,
) -> Config:
    """DAT as released (v1): local and shifted windows in stages 1–2, local and deformable attention in stages 3–4.
    `deep`: blocks of stage 3; `groups`: of stages 3 and 4. Source: the released configurations."""
    mixers = (("L", "S"), ("L", "S"), ("L", "D") * (deep // 2), ("L", "D"))
    kernels = (9, 7, 5, 3)
    stages = tuple(
        StageConfig(d, m, letters, window=window, groups=g, kernel=k)
        for d, m, letters, g, k in zip(dims, heads, mixers, (1, 1, *groups), kernels, strict=True)
    )
    return Config(image, 4, 1000, stages, drop_path=drop_path, convention="v1")


_T = ((96, 192, 384, 768), (3, 6, 12, 24), (3, 6))
_B = ((128, 256, 512, 1024), (4, 8, 16, 32), (4, 8))

MODELS: dict[str, Callable[[], Config]] = {
    "dat_tiny": lambda: dat(*_T, 6, drop_path=0.2),
    "dat_small": lambda: dat(*_T, 18, drop_path=0.3),
    "dat_base": lambda: dat(*_B, 18, drop_path=0.5),
    "dat_base_384": lambda: dat(*_B, 18, image=384, window=12, drop_path=0.5),
    "dat_micro": lambda: Config(
        32,
        4,
        10,
        (
            StageConfig(48, 3, ("L", "D"), window=4, groups=1, kernel=3),
            StageConfig(96, 6, ("L", "D"), window=4, groups=2, kernel=3),
        ),
    ),
    "dat_cifar": lambda: Config(
        32,
        2,
        10,
        (
            StageConfig(48, 3, ("L", "S"), window=4),
            StageConfig(96, 6, ("L", "D"), window=4, groups=2, kernel=5),
            StageConfig(192, 12, ("L", "D"), window=4, groups=4, kernel=3),
        ),
    ),
}


def config(name: str, *, classes: int | None = None, drop_path: float | None = None) -> Config:
    """The configuration of a name of `MODELS`, with another number of classes or drop path rate where given.
    Raises ValueError for an unknown name."""
    if name not in MODELS:
        raise ValueError(f"model {name!r} is unknown; choose from {', '.join(MODELS)}")
    changes = {"classes": classes, "drop_path": drop_path}
    return replace(MODELS[name](), **{k: v for k, v in changes.items() if v is not None})


def create(name: str, *, classes: int | None = None, drop_path: float | None = None, seed: int = 0) -> Pyramid:
    """A model of that name, float32 on the CPU, its weights drawn from `seed`."""
    return Pyramid(config(name, classes=classes, drop_path=drop_path), np.random.default_rng(seed))
