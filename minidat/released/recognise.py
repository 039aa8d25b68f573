"""Which model a released state dict belongs to, from its names and a few shapes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from minidat.models import zoo
from minidat.models.config import Config

Fingerprint = tuple[tuple[tuple[str, ...], ...], tuple[int | None, ...], int | None]
"""The letters of each stage, the widths, and the side of the first window."""


def recognise(state: Mapping[str, np.ndarray]) -> str:
    """The name of `zoo.MODELS` that a released state dict belongs to: widths, letters and window sizes must agree.
    Raises ValueError where none does."""
    found = of_state(state)
    for name, make in zoo.MODELS.items():
        config = make()
        if config.convention in ("v1", "v2") and found == of_config(config):
            return name
    letters, dims, _ = found
    stages = "; ".join(f"{dim or '?'} {' '.join(stage)}" for dim, stage in zip(dims, letters, strict=True))
    raise ValueError(f"these weights belong to no model here; their stages: {stages or 'none'}. Name one with --model")


def of_config(config: Config) -> Fingerprint:
    """A configuration's."""
    windows = [stage.window for stage in config.stages if {"L", "S"} & set(stage.mixers)]
    letters = tuple(stage.mixers for stage in config.stages)
    return letters, tuple(stage.dim for stage in config.stages), windows[0] if windows else None


MARKS = {
    "conv_offset.0.weight": "D",
    "attn_mask": "S",
    "relative_position_bias_table": "L",
    "rpb": "N",
    "kv.weight": "P",
    "weight": "X",
}
"""The first of these that a mixer of a released state dict has tells its letter."""


def of_state(state: Mapping[str, np.ndarray]) -> Fingerprint:
    """A released state dict's; "?" for a mixer that none of `MARKS` tells, None for a width that no name tells."""
    letters, dims = [], []
    while any(name.startswith(f"stages.{len(letters)}.") for name in state):
        i, blocks = len(letters), []
        while any(name.startswith(f"stages.{i}.attns.{len(blocks)}.") for name in state):
            prefix = f"stages.{i}.attns.{len(blocks)}."
            blocks.append(next((letter for mark, letter in MARKS.items() if prefix + mark in state), "?"))
        norm = state.get(f"stages.{i}.layer_norms.0.norm.weight")
        letters.append(tuple(blocks))
        dims.append(None if norm is None else len(norm))
    tables = (len(a) for name, a in state.items() if name.endswith("relative_position_bias_table"))
    side = next(tables, None)
    return tuple(letters), tuple(dims), None if side is None else (int(side**0.5) + 1) // 2
