"""`minidat train`: a new run, or one that goes on."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from minidat.cli.console import Console
from minidat.cli.flags import new_command, use_loops
from minidat.cli.ranks import joined
from minidat.cli.runs import checkpoint_in, run_folder, shown, state_of
from minidat.cli.train_flags import add_flags, flag_of, place_of, settings_given
from minidat.data import DATASETS, OF_FILES, load
from minidat.fast import loops
from minidat.training.folder import BEST, LAST
from minidat.training.included import located
from minidat.training.loop import Interrupted, Run, TrainingError
from minidat.training.ranks import Ranks
from minidat.training.reporter import Silent
from minidat.training.settings import Settings, defaults
from minidat.training.weights import Weights, read_weights

RUNS = Path("runs")


def add(commands: Any) -> None:
    """The command."""
    command = new_command(
        commands,
        "train",
        "train a network",
        "Train a network. Without arguments: a small DAT on the built-in data set, about a minute and a half on two cores. "
        "Ctrl-C saves a checkpoint, and --resume continues from it.",
    )
    add_flags(command)
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Train, or continue to train, and report."""
    with joined(arguments.device) as ranks:
        return _run(arguments, ranks)


def _run(arguments: argparse.Namespace, ranks: Ranks) -> int:
    """What this rank does."""
    ranks.together(lambda: _check_key(arguments))
    training = _resume(arguments, ranks) if arguments.resume else _start(arguments, ranks)
    if not ranks.first:
        training.train(Silent())
        return 0
    console = Console(training)
    console.begin()
    try:
        training.train(console)
    except Interrupted:
        console.interrupted()
        raise
    except BaseException:
        console.leave()
        raise
    try:
        console.end()
    except KeyboardInterrupt:
        console.note("stopped while drawing; the run is complete and saved")
        raise Interrupted from None
    return 0


def _check_key(arguments: argparse.Namespace) -> None:
    if arguments.key is not None and arguments.weights is None:
        raise TrainingError("--key says where in the file of --weights the weights are, and no --weights are given")


def _start(arguments: argparse.Namespace, ranks: Ranks) -> Run:
    """A new run."""
    settings, weights = ranks.from_first(lambda: _settings(arguments))  # leaves compiled loops on disk for the others
    name = settings.model if settings.head is None else f"{settings.model}-{settings.head}"
    folder, numbered = arguments.out or RUNS / f"{name}-{settings.data}", arguments.out is None
    return Run.start(settings, folder, numbered=numbered, ranks=ranks, weights=weights, **place_of(arguments))


def _settings(arguments: argparse.Namespace) -> tuple[Settings, Weights | None]:
    """Those of a new run, whose data is downloaded where it is asked for, and the weights that it starts from."""
    chosen = {name: getattr(arguments, name) for name in ("data", "head") if getattr(arguments, name) is not None}
    data = chosen.get("data", Settings.data)
    if "head" not in chosen and data not in DATASETS:
        raise ValueError(f"--data {data} is for detection and segmentation: name a --head")
    given, weights = settings_given(arguments, defaults(chosen).get("head_options", {})), None
    if arguments.weights is not None:
        checkpoint_in(located(arguments.weights), BEST, LAST)  # of a folder of runs, it lists them
        weights = read_weights(arguments.weights, arguments.key)
        given |= _theirs(weights, given)
    settings = Settings(**defaults(given) | given)
    settings = replace(settings, loops=use_loops(arguments, loops.DEFAULT, print))
    if arguments.download:
        _download(settings)
    return settings, weights


def _theirs(weights: Weights, given: dict[str, Any]) -> dict[str, Any]:
    """The network that the weights belong to, changed as the user says; nothing where the user named another."""
    if weights.model is None or given.get("model", weights.model) != weights.model:
        return {}
    changes = given.get("changes", ())
    own = {change.partition("=")[0] for change in changes}
    kept = (change for change in weights.changes if change.partition("=")[0] not in own)
    return {"model": weights.model, "changes": (*kept, *changes)}


def _resume(arguments: argparse.Namespace, ranks: Ranks) -> Run:
    """The run that --resume names."""
    folder, changed = ranks.from_first(lambda: _to_resume(arguments))
    return Run.resume(folder, ranks=ranks, **changed, **place_of(arguments))


def _to_resume(arguments: argparse.Namespace) -> tuple[Path, dict[str, Any]]:
    """The folder of the run that --resume names, and what of `Run.resume` the user changes. Raises TrainingError for a flag that
    asks for what the run does not have."""
    folder = run_folder(arguments.resume)
    settings = state_of(checkpoint_in(folder, LAST, BEST)).settings
    use_loops(arguments, settings.loops, print)  # says that loops are compiled before that takes its time
    if arguments.out is not None:
        raise TrainingError(f"--resume continues a run in its folder, {folder}; leave out --out")
    given = settings_given(arguments, settings.head_options)
    epochs = given.pop("epochs", None)
    data_dir = given.pop("data_dir", None)  # the data may have moved
    skip = given.pop("skip_damaged", False)  # an image file may have been found damaged
    for name, value in given.items():
        if value != getattr(settings, name):
            raise TrainingError(
                f"--resume {folder}: the run has {name.replace('_', '-')} {shown(getattr(settings, name))} and keeps it; "
                f"leave out {flag_of(name)} {shown(value)}, or start a new run"
            )
    if arguments.download:
        _download(settings if data_dir is None else replace(settings, data_dir=data_dir))
    changed = {"data_dir": data_dir, "epochs": None if epochs == settings.epochs else epochs, "skip_damaged": skip}
    return folder, changed


def _download(settings: Settings) -> None:
    """Fetch the archive that is missing. Raises ValueError for data that must be fetched by hand."""
    if settings.data in OF_FILES or (settings.head is not None and settings.data != "shapes"):
        raise ValueError(f"--download fetches CIFAR; for --data {settings.data} point --data-dir at the images")
    load(settings.data, "train", data_dir=settings.data_dir, download=True)
