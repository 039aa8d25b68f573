"""The arrays of a run's checkpoint: the parameters and AdamW's moments, each under its parameter's name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from minidat.autograd.backend import asnumpy, to_device
from minidat.training.checkpoint import check_names
from minidat.training.optim import AdamW

PARAMETERS, M, V = "parameters", "adamw.m", "adamw.v"


def arrays_of(optimiser: AdamW) -> dict[str, np.ndarray]:
    """{"parameters/NAME", "adamw.m/NAME", "adamw.v/NAME": array}, on the host."""
    flats = {PARAMETERS: optimiser.arena.data, M: optimiser.m, V: optimiser.v}
    return {
        f"{prefix}/{name}": array
        for prefix, flat in flats.items()
        for name, array in optimiser.arena.views(asnumpy(flat)).items()
    }


def restore(optimiser: AdamW, arrays: Mapping[str, np.ndarray], steps: int, path: Path, device: str) -> None:
    """Put the arrays of the checkpoint at `path` into the parameters and the optimiser, which has taken `steps` steps.
    Raises CheckpointError, and changes nothing, where they are not of this model."""
    arena = optimiser.arena
    shapes = dict(zip(arena.names, arena.shapes, strict=True))
    expected = {f"{prefix}/{name}": shape for prefix in (PARAMETERS, M, V) for name, shape in shapes.items()}
    check_names(expected, {name: array.shape for name, array in arrays.items()}, path)
    flats = {}
    for prefix in (PARAMETERS, M, V):
        flats[prefix] = np.empty(arena.data.shape, np.float32)
        arena.flatten([arrays[f"{prefix}/{name}"] for name in arena.names], flats[prefix])
    arena.data[...] = to_device(flats[PARAMETERS], device)
    optimiser.load_state({"m": flats[M], "v": flats[V], "t": np.array(steps)})
