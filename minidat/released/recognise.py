"""Which model a released state dict belongs to, from its names and a few shapes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import isqrt

import numpy as np

from minidat.models import zoo
from minidat.models.config import Config

SHOWN = 24  # stages, and blocks of a stage, in a message

Fingerprint = tuple[tuple[tuple[str, ...], ...], tuple[int | None, ...], int | None]
"""The letters of each stage, the widths, and the side of the first window."""


def recognise(state: Mapping[str, np.ndarray]) -> str:
    """The name of `zoo.MODELS` that a released state dict belongs to: widths, letters and window sizes must agree.
    Raises ValueError where none does."""
    letters, dims, window = of_state(state)
    # a shifted window is told from another by its mask, a buffer, which may be left out
    masked = any("S" in stage for stage in letters)
    for name, make in zoo.MODELS.items():
        config = make()
        own, *rest = of_config(config)
        own = own if masked else tuple(tuple("L" if letter == "S" else letter for letter in stage) for stage in own)
        if config.convention in ("v1", "v2") and (letters, dims, window) == (own, *rest):
            return name
    stages = "; ".join(f"{dim or '?'} {' '.join(stage[:SHOWN])}" for dim, stage in zip(dims[:SHOWN], letters))
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


MIXER = re.compile(r"stages\.(\d{1,4})\.attns\.(\d{1,4})\.(.*)", re.DOTALL)
"""The name of a mixer's array: stage, block, and its name in the mixer."""


def of_state(state: Mapping[str, np.ndarray]) -> Fingerprint:
    """A released state dict's; "?" for a mixer that none of `MARKS` tells, None for a width that no name tells."""
    parts: dict[tuple[int, int], set[str]] = {}  # of each block's mixer, the names of its arrays
    for name in state:
        if found := MIXER.fullmatch(name):
            parts.setdefault((int(found[1]), int(found[2])), set()).add(found[3])
    letters, dims = [], []
    while (len(letters), 0) in parts:
        i, blocks = len(letters), []
        while (i, len(blocks)) in parts:
            names = parts[i, len(blocks)]
            blocks.append(next((letter for mark, letter in MARKS.items() if mark in names), "?"))
        norm = state.get(f"stages.{i}.layer_norms.0.norm.weight")
        letters.append(tuple(blocks))
        dims.append(len(norm) if norm is not None and norm.ndim else None)
    tables = (state.get(f"stages.{i}.attns.{j}.relative_position_bias_table") for i, j in sorted(parts))
    first = next((table for table in tables if table is not None and table.ndim), None)
    return tuple(letters), tuple(dims), None if first is None else (isqrt(len(first)) + 1) // 2
