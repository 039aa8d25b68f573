"""What a run's checkpoint holds: arrays, and where in the run it was written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from types import GenericAlias
from typing import Any, get_type_hints

import numpy as np

from minidat.autograd import Tensor
from minidat.autograd.backend import asnumpy, to_device
from minidat.training import schema
from minidat.training.arena import Arena
from minidat.training.average import Average
from minidat.training.checkpoint import CheckpointError, check_names
from minidat.training.optim import AdamW
from minidat.training.settings import Settings
from minidat.training.tasks import task_of

PARAMETERS, M, V = "parameters", "adamw.m", "adamw.v"  # prefixes of an array's name; the parameter's name follows
RUNNING = "running"  # the prefix of running statistics, which batch norms have
AVERAGE = "average"  # the prefix of the moving average of parameters and running statistics, in runs that have one

Running = Mapping[str, Tensor]
"""A model's running statistics by name: `nn.Module.running`."""


@dataclass(frozen=True)
class RunState:
    """Where a run is, as JSON: beside its arrays everything that it goes on from.

    data: the training set's fingerprint. step: steps taken. adamw_t: of which AdamW counted so many. tested: the steps after
    which images were last tested (None: written by a version that tested before it saved). best: score (accuracy) of the best
    epoch, −1 before the first. test_accuracy: of the best epoch on the test set, where it was chosen on validation images and
    the run is complete. meter: the task's sums since the last line of the log, of classification the loss, right answers and
    images. seconds: of all sittings.
    """

    settings: Settings
    data: str
    classes: tuple[str, ...]
    step: int
    adamw_t: int
    best: float
    seconds: float
    meter: tuple[Any, ...]
    tested: int | None = None
    test_accuracy: float | None = None
    environment: dict[str, str] | None = None

    def __post_init__(self) -> None:
        for name in ("step", "adamw_t", "seconds", "tested"):
            if (getattr(self, name) or 0) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must not be negative")
        if self.tested is not None and self.tested > self.step:
            raise ValueError(f"tested is {self.tested}; it must not be above step, {self.step}")
        counts = [count for count in astuple(self.sums) if isinstance(count, int)]
        if min(counts) < 0:
            raise ValueError(f"meter counts {counts}; they must not be negative")
        if not self.classes:
            raise ValueError("classes are none; a network has at least one")

    @property
    def sums(self) -> Any:
        """`meter` as the task's sums. Raises ValueError where it is not of this task."""
        kind = type(task_of(self.settings).nothing)
        fields = GenericAlias(tuple, tuple(get_type_hints(kind).values()))  # such as tuple[float, int, int]
        return kind(*schema.convert(fields, self.meter, "run.meter"))

    def to_meta(self) -> dict[str, Any]:
        """What `checkpoint.save` takes."""
        return {"kind": "run", **asdict(self)}

    @classmethod
    def from_meta(cls, path: Path, meta: Mapping[str, Any]) -> RunState:
        """Of what `checkpoint.load` found in the file at `path`. Raises CheckpointError where it is of no run, or not as a run
        writes it."""
        if meta.get("kind") != "run":
            raise CheckpointError(path, "it holds weights only, no run of `minidat train`")
        try:
            return schema.build(cls, {**meta, "settings": Settings.from_json(meta.get("settings"))}, "run")
        except ValueError as error:
            raise CheckpointError(path, f"it describes no run: {error}") from error


def arrays_of(optimiser: AdamW, running: Running, average: Average | None = None) -> dict[str, np.ndarray]:
    """{"parameters/NAME", "adamw.m/NAME", "adamw.v/NAME", "running/NAME": array}, and "average/NAME" of parameters and running
    statistics where there is one, on the host."""
    flats = {PARAMETERS: optimiser.arena.data, M: optimiser.m, V: optimiser.v}
    flats |= {} if average is None else {AVERAGE: average.flat}
    trained = {
        f"{prefix}/{name}": array
        for prefix, flat in flats.items()
        for name, array in optimiser.arena.views(asnumpy(flat)).items()
    }
    statistics = {RUNNING: {name: t.data for name, t in running.items()}}
    statistics |= {} if average is None else {AVERAGE: average.statistics}
    return trained | {f"{p}/{name}": asnumpy(array) for p, own in statistics.items() for name, array in own.items()}


def restore(
    optimiser: AdamW,
    running: Running,
    average: Average | None,
    arrays: Mapping[str, np.ndarray],
    steps: int,
    path: Path,
    device: str,
) -> None:
    """Put the arrays of the checkpoint at `path` into the parameters, their average, the running statistics and the optimiser,
    which has taken `steps` steps. Raises CheckpointError, and changes nothing, where they are not of this model."""
    flats = _flat(optimiser.arena, running, arrays, path, averaged=average is not None)
    if average is not None:
        average.flat[...] = to_device(flats[AVERAGE], device)
        for name, mean in average.statistics.items():
            mean[...] = to_device(arrays[f"{AVERAGE}/{name}"], device)
    optimiser.arena.data[...] = to_device(flats[PARAMETERS], device)
    _restore_running(running, arrays, device, RUNNING)
    optimiser.load_state({"m": flats[M], "v": flats[V], "t": np.array(steps)})


def restore_weights(
    arena: Arena, running: Running, arrays: Mapping[str, np.ndarray], path: Path, device: str, averaged: bool
) -> None:
    """Put the parameters of the checkpoint at `path` into the arena and the running statistics into the model, or where it is
    `averaged` the averages of both. Errors as in `restore`."""
    flats = _flat(arena, running, arrays, path, averaged)
    arena.data[...] = to_device(flats[AVERAGE if averaged else PARAMETERS], device)
    _restore_running(running, arrays, device, AVERAGE if averaged else RUNNING)


def _restore_running(running: Running, arrays: Mapping[str, np.ndarray], device: str, prefix: str) -> None:
    for name, t in running.items():
        t.data[...] = to_device(arrays[f"{prefix}/{name}"], device)


def tested(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The parameters and running statistics that a checkpoint's network is tested with, name → array: the averages where there
    are any."""
    averaged = any(name.startswith(f"{AVERAGE}/") for name in arrays)
    prefixes = (f"{AVERAGE}/",) if averaged else (f"{PARAMETERS}/", f"{RUNNING}/")
    return {name.partition("/")[2]: array for name, array in arrays.items() if name.startswith(prefixes)}


def _flat(
    arena: Arena, running: Running, arrays: Mapping[str, np.ndarray], path: Path, averaged: bool
) -> dict[str, np.ndarray]:
    """{prefix: flat float32 array like the arena's}. Raises CheckpointError where names, shapes or dtypes differ."""
    shapes = dict(zip(arena.names, arena.shapes, strict=True))
    prefixes = (PARAMETERS, M, V, AVERAGE) if averaged else (PARAMETERS, M, V)
    expected = {f"{prefix}/{name}": shape for prefix in prefixes for name, shape in shapes.items()}
    statistics = (RUNNING, AVERAGE) if averaged else (RUNNING,)
    expected |= {f"{prefix}/{name}": t.shape for prefix in statistics for name, t in running.items()}
    check_names(expected, {name: array.shape for name, array in arrays.items()}, path)
    flats = {}
    for prefix in prefixes:
        found = [arrays[f"{prefix}/{name}"] for name in arena.names]
        others = [str(array.dtype) for array in found if array.dtype != np.float32]
        if others:
            raise CheckpointError(path, f"its arrays {prefix}/… are {others[0]}; they must be float32")
        flats[prefix] = np.empty(arena.data.shape, np.float32)
        arena.flatten(found, flats[prefix])
    return flats
