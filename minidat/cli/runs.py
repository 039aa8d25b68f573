"""Runs on disk by what a user names: a run's folder, one of its checkpoints, or a folder of runs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from minidat.cli.terminal import duration, plural, printable
from minidat.training import checkpoint
from minidat.training.checkpoint import CheckpointError
from minidat.training.loop import BEST, LAST, LOG, TrainingError
from minidat.training.settings import Settings

LISTED = 10  # runs that an error names, the latest first


def run_folder(named: Path) -> Path:
    """The folder of the run to continue. named: it, or its last checkpoint. Raises TrainingError for another file, and for a
    folder that holds no run itself; the message then lists the runs inside."""
    if named.is_file():
        if named.name != LAST:
            raise TrainingError(
                f"--resume {named}: a run continues from {LAST}; name its folder, --resume {named.parent}"
            )
        return named.parent
    if not named.is_dir():
        raise TrainingError(f"--resume {named}: there is no such folder")
    if (named / LAST).exists():
        return named
    found = runs_in(named)
    if not found:
        raise TrainingError(f"--resume {named}: holds no run: no {LAST} in it, nor in a folder inside")
    lines = [f"--resume {named}: holds {plural(len(found), 'run')}; name one of them, the latest first:"]
    lines += [f"  {folder}  {summary(folder)}" for folder in found[:LISTED]]
    lines += [f"  and {len(found) - LISTED} older"] if len(found) > LISTED else []
    raise TrainingError("\n".join(lines))


def runs_in(folder: Path) -> list[Path]:
    """The folders inside `folder` that hold a run, the one that was saved last first."""
    found = [path.parent for path in folder.glob(f"*/{LAST}")]
    return sorted(found, key=lambda run: (run / LAST).stat().st_mtime, reverse=True)


def checkpoint_of(named: Path) -> Path:
    """The best checkpoint of a run's folder, its last where there is no best yet, or the checkpoint itself."""
    if named.is_dir():
        return named / BEST if (named / BEST).exists() else named / LAST
    return named


def settings_of(path: Path, meta: Mapping[str, Any]) -> Settings:
    """The settings that a checkpoint says. Raises CheckpointError where it says none, or unknown ones."""
    if not isinstance(meta.get("settings"), dict):
        raise CheckpointError(path, "it holds no settings, so there is no telling which model it is")
    try:
        return Settings.from_json(meta["settings"])
    except (TypeError, ValueError) as error:
        raise CheckpointError(path, f"its settings cannot be used: {error}") from error


def summary(folder: Path) -> str:
    """Where a run stands, in a few words; what is wrong with its checkpoint, where it cannot be read."""
    try:
        _, meta = checkpoint.load(folder / LAST)
        settings = settings_of(folder / LAST, meta)
    except CheckpointError as error:
        return str(error)
    best = f", best {100 * meta['best']:.2f} %" if meta["best"] >= 0 else ""
    return f"{settings.model} on {settings.data}, {_place(folder, settings, meta)}{best}"


def describe(named: Path) -> str:
    """What `minidat info RUN` prints: where the run stands, and all its settings."""
    path = checkpoint_of(named)
    _, meta = checkpoint.load(path)
    settings = settings_of(path, meta)
    default = Settings()
    rows = [
        ("checkpoint", f"{path}, {_place(path.parent, settings, meta)}"),
        ("best accuracy", f"{100 * meta['best']:.2f} %" if meta["best"] >= 0 else "not tested yet"),
        ("time spent", duration(meta["seconds"])),
        ("data", meta["data"]),
        *((name.replace("_", "-"), _value(value)) for name, value in settings.to_json().items() if name != "data"),
    ]
    changed = {name.replace("_", "-") for name, value in settings.to_json().items() if value != getattr(default, name)}
    width = max(len(name) for name, _ in rows)
    lines = [f"{name:{width}}  {printable(str(text))}{' *' * (name in changed)}" for name, text in rows]
    return "\n".join([*lines, "", "* differs from the default for the shapes data set"])


def _value(value: object) -> str:
    return "not set" if value is None else str(value)


def _place(folder: Path, settings: Settings, meta: Mapping[str, Any]) -> str:
    """ "step 1,560, epoch 5.00 of 10"; the epoch is the log's, where it has one for this step."""
    step, epoch = meta["step"], None
    try:
        for line in (folder / LOG).read_text("utf-8", "replace").splitlines():
            record = json.loads(line)
            epoch = record["epoch"] if record["step"] <= step else epoch
    except (OSError, ValueError, KeyError, TypeError):
        pass  # a log that is damaged or missing: the step alone is told
    return f"step {step:,}" + ("" if epoch is None else f", epoch {epoch:.2f} of {settings.epochs}")
