"""Trained networks by what a user names: a run of `minidat train`, or a file of released weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors

from minidat.data.cifar import CIFAR
from minidat.data.shapes import Shapes
from minidat.models import Pyramid, create
from minidat.training import checkpoint
from minidat.training.checkpoint import CheckpointError
from minidat.training.loop import BEST, LAST
from minidat.training.settings import Settings


@dataclass(frozen=True)
class TrainedRun:
    """A run's network, with the checkpoint it is from and what that says."""

    path: Path
    settings: Settings
    meta: dict[str, Any]
    model: Pyramid

    @property
    def colours(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """The mean and the standard deviation by which the run's data set is normalised."""
        data = CIFAR.get(self.settings.data, Shapes)
        return data.mean, data.std


def is_run(path: Path) -> bool:
    """Whether this is a run's folder, or one of its checkpoints."""
    if path.is_dir():
        return True
    if not path.is_file():  # opening a pipe would wait for somebody who writes to it
        return False
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            return checkpoint.KEY in (file.metadata() or {})
    except (OSError, safetensors.SafetensorError):
        return False


def load_run(path: Path) -> TrainedRun:
    """The best checkpoint of a run's folder, its last where it has no best yet, or the checkpoint at `path` itself.
    Raises CheckpointError for one that is missing, damaged, or does not say which network it is."""
    if path.is_dir():
        path = path / BEST if (path / BEST).exists() else path / LAST
    arrays, meta = checkpoint.load(path)
    if "settings" not in meta:
        raise CheckpointError(path, "it holds no settings, so there is no telling which model it is")
    settings = Settings.from_json(meta["settings"])
    model = create(settings.model, classes=len(meta["classes"]))
    prefix = "parameters/"
    weights = {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
    expected = {name: t.shape for name, t in model.parameters().items()}
    checkpoint.check_names(expected, {name: array.shape for name, array in weights.items()}, path)
    model.load(weights)
    return TrainedRun(path, settings, meta, model)
