"""Trained networks by what a user names: a run of `minidat train`, or a file of released weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from minidat.cli.runs import checkpoint_in
from minidat.data import OF_FILES
from minidat.data.cifar import CIFAR
from minidat.data.pictures import Pictures
from minidat.data.sample_sets import SAMPLES
from minidat.data.shapes import Shapes
from minidat.models import Pyramid
from minidat.training import checkpoint
from minidat.training.folder import BEST, LAST
from minidat.training.included import located
from minidat.training.network import network
from minidat.training.state import RunState, tested


@dataclass(frozen=True)
class TrainedRun:
    """A run's network, with the checkpoint it is from, and where the run was then."""

    path: Path
    state: RunState
    model: Pyramid

    @property
    def colours(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """The mean and the standard deviation by which the run's data set is normalised."""
        settings = self.state.settings
        if settings.head is not None:
            data = SAMPLES[settings.data].kind
        else:
            data = Pictures if settings.data in OF_FILES else CIFAR.get(settings.data, Shapes)
        return data.mean, data.std


def is_run(path: Path) -> bool:
    """Whether this is a run's folder, or one of its checkpoints; included weights are one too."""
    return path.is_dir() or checkpoint.is_ours(located(path))


def load_run(named: Path) -> TrainedRun:
    """The best checkpoint of a run's folder, its last where it has no best yet, or the checkpoint that is named; or included
    weights. Raises CheckpointError for one that is missing, damaged, or of no run, TrainingError for a folder without one."""
    path = checkpoint_in(located(named), BEST, LAST)
    arrays, meta = checkpoint.load(path)
    state = RunState.from_meta(path, meta)
    model = network(state.settings, len(state.classes))
    weights = tested(arrays)
    expected = {name: t.shape for name, t in (model.parameters() | model.running()).items()}
    checkpoint.check_names(expected, {name: array.shape for name, array in weights.items()}, path)
    model.load(weights)
    return TrainedRun(path, state, model)
