"""The heads by name, and a model of a backbone and a head."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, get_type_hints

import numpy as np

from minidat.dense.detector import DenseModel
from minidat.dense.mask_rcnn import CascadeMaskRCNN, MaskRCNN
from minidat.dense.retinanet import RetinaNet
from minidat.dense.semantic_fpn import SemanticFPN
from minidat.dense.upernet import UperNet
from minidat.models import zoo
from minidat.models.config import Config


class Head(NamedTuple):
    """What a name stands for. `preset`: options that differ from the class's own. `needs`: stages of the backbone, at least."""

    build: type[DenseModel]
    summary: str
    preset: Mapping[str, Any] = {}
    needs: int = 1

    @property
    def kind(self) -> str:
        """ "detection" or "segmentation"."""
        return self.build.kind


HEADS: dict[str, Head] = {
    "retinanet": Head(RetinaNet, "a class and a box for every anchor", needs=4),
    "retina_mask": Head(RetinaNet, "the same, with the mask head of Mask R-CNN", {"masks": True}, needs=4),
    "mask_rcnn": Head(MaskRCNN, "proposals, then a class, a box and a mask for each", needs=4),
    "cascade_mask_rcnn": Head(CascadeMaskRCNN, "Mask R-CNN in three stages", needs=4),
    "semantic_fpn": Head(SemanticFPN, "a class for every pixel, from the sum of all levels"),
    "upernet": Head(UperNet, "a class for every pixel, from all levels and pooled views", needs=2),
}

_FEW = {
    "channels": 64,
    "convs": 2,
    "levels": [0, 1, 2],
    "outputs": 2,
    "extra": 0,
    "anchor_scale": 3.0,
    "octave": 2,
}
SMALL: dict[str, dict[str, Any]] = {
    "retinanet": _FEW,
    "retina_mask": _FEW | {"mask_convs": 2, "mask_side": 8},
    "semantic_fpn": {"channels": 64, "scale_channels": 64, "norm": "none", "average": "valid", "dropout": 0.0},
    "upernet": {"channels": 64, "auxiliary_channels": 32, "norm": "group", "average": "valid"},
}
"""Options for images of 64×64 and backbones of three stages with patches of 4, such as `dat_scenes`."""


def head_options(name: str) -> dict[str, Any]:
    """The options of a head with their defaults, all of them numbers, strings, lists or None. Raises ValueError for an unknown
    head."""
    options = {p.name: p.default for p in _parameters(name)} | dict(_head(name).preset)
    return {name: list(value) if isinstance(value, tuple) else value for name, value in options.items()}


def option_types(name: str) -> dict[str, Any]:
    """The types of a head's options. Raises ValueError for an unknown head."""
    hints = {k: hint for maker in _makers(name) for k, hint in get_type_hints(maker).items()}
    return {p.name: hints[p.name] for p in _parameters(name)}


def _makers(name: str) -> list[Callable[..., None]]:
    """The `__init__` of a head's class and of those that it stands on, which come first."""
    return [vars(c)["__init__"] for c in reversed(_head(name).build.__mro__[:-1]) if "__init__" in vars(c)]


def _parameters(name: str) -> list[inspect.Parameter]:
    found = [p for maker in _makers(name) for p in inspect.signature(maker).parameters.values()]
    return [p for p in found if p.kind is p.KEYWORD_ONLY and p.name != "rng"]


def create(backbone: str | Config, head: str, *, classes: int, seed: int = 0, **options: Any) -> DenseModel:
    """A head of `HEADS` on a backbone, float32 on the CPU, its weights drawn from `seed`.

    backbone: a name of `MODELS`, or a configuration. classes: 80 for COCO, 150 for ADE20K. options: see `head_options`. Raises
    ValueError for an unknown name or option, and for a backbone with too few stages.
    """
    return build(
        zoo.config(backbone) if isinstance(backbone, str) else backbone,
        head,
        classes,
        options,
        np.random.default_rng(seed),
    )


def build(config: Config, head: str, classes: int, options: Mapping[str, Any], rng: Any) -> DenseModel:
    """`create`, with any generator: see `analysis.skeleton`."""
    known = head_options(head)
    for name in options:
        if name not in known:
            raise ValueError(f"head {head} has no option {name!r}; it has {', '.join(known)}")
    chosen = {**_head(head).preset, **options}
    _check_stages(config, head, chosen)
    return HEADS[head].build(config, classes, rng=rng, **chosen)  # ty: ignore[too-many-positional-arguments, unknown-argument]


def _check_stages(config: Config, head: str, options: Mapping[str, Any]) -> None:
    levels = options.get("levels")
    needs, has = max(levels) + 1 if levels else HEADS[head].needs, len(config.stages)
    if has < needs:
        raise ValueError(f"head {head} needs a backbone of {needs} stages, this one has {has}")


def _head(name: str) -> Head:
    if name not in HEADS:
        raise ValueError(f"head {name!r} is unknown; choose from {', '.join(HEADS)}")
    return HEADS[name]
