"""Runs on disk by what a user names: a run's folder, one of its checkpoints, or a folder of runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from minidat.cli.terminal import duration, plural, printable
from minidat.training import checkpoint
from minidat.training.checkpoint import CheckpointError
from minidat.training.errors import TrainingError
from minidat.training.folder import BEST, LAST, LOG, to_resume
from minidat.training.settings import Settings, defaults
from minidat.training.state import RunState
from minidat.training.tasks import task_of

LISTED = 10  # runs that an error names, the latest first


def run_folder(named: Path) -> Path:
    """The folder of the run to continue. named: it, or its last checkpoint. Raises CheckpointError for another file, and
    TrainingError as `checkpoint_in`."""
    if not named.exists():
        raise TrainingError(f"--resume {named}: there is no such folder or file")
    to_resume(named)  # refuses another file
    return checkpoint_in(named, LAST, BEST).parent


def checkpoint_in(named: Path, *names: str) -> Path:
    """The first of the checkpoints `names` that the folder `named` has; `named` itself where it is no folder. Raises
    TrainingError for a folder without one; the message lists the runs in the folders inside."""
    if not named.is_dir():
        return named
    for name in names:
        if (named / name).exists():
            return named / name
    raise TrainingError(_listing(named))


def _listing(folder: Path) -> str:
    """That a folder is no run, and which runs are inside."""
    found = runs_in(folder)
    if not found:
        return f"{folder} holds no run: there is no {LAST} in it, nor in a folder inside"
    lines = [f"{folder} holds {plural(len(found), 'run')}; name one of them, the latest first:"]
    lines += [f"  {run}  {summary(run)}" for run in found[:LISTED]]
    lines += [f"  and {len(found) - LISTED} older"] if len(found) > LISTED else []
    return "\n".join(lines)


def runs_in(folder: Path) -> list[Path]:
    """The folders inside `folder` that hold a run, the one that was saved last first."""
    found = [path.parent for path in folder.glob(f"*/{LAST}")]
    return sorted(found, key=lambda run: (run / LAST).stat().st_mtime, reverse=True)


def state_of(path: Path) -> RunState:
    """Where the run was when it wrote the checkpoint at `path`. Raises CheckpointError where that is missing or damaged."""
    _, meta = checkpoint.load(path)
    return RunState.from_meta(path, meta)


def summary(folder: Path) -> str:
    """Where a run stands, in a few words; what is wrong with its checkpoint, where it cannot be read."""
    try:
        state = state_of(folder / LAST)
    except CheckpointError as error:
        return str(error)
    task, head = task_of(state.settings), state.settings.head
    name = "" if head is None else f"{task.measures[task.score]} "
    best = f", best {name}{task.shown(state.best)}" if state.best >= 0 else ""
    model = state.settings.model if head is None else f"{state.settings.model} with {head}"
    return f"{model} on {state.settings.data}, {_place(folder, state)}{best}"


def describe(named: Path) -> str:
    """What `minidat info RUN` prints: where the run stands, and all its settings."""
    path = checkpoint_in(named, LAST, BEST)
    state = state_of(path)
    settings = state.settings.to_json()
    default = Settings().to_json() | defaults(_chosen_by(settings))
    task = task_of(state.settings)
    rows = [
        ("checkpoint", f"{path}, {_place(path.parent, state)}"),
        (
            f"best {task.measures[task.score]}",
            f"{task.shown(state.best)}, {_chosen(state.settings)}" if state.best >= 0 else "not tested yet",
        ),
        ("time spent", duration(state.seconds)),
        ("trained on", state.data),
        *((name.replace("_", "-"), shown(value)) for name, value in settings.items()),
    ]
    if state.test_accuracy is not None:
        name = f"test {task.measures[task.score]}"
        rows.insert(2, (name, f"{task.shown(state.test_accuracy)}, of the best epoch"))
    settings.pop("loops")  # numba's where it was installed: nobody chose them
    changed = {name.replace("_", "-") for name, value in settings.items() if value != default[name]}
    width = max(len(name) for name, _ in rows)
    lines = [f"{name:{width}}  {printable(text)}{' *' * (name in changed)}" for name, text in rows]
    return "\n".join([*lines, "", f"* differs from the default for {state.settings.data}"] if changed else lines)


def _chosen_by(settings: dict[str, Any]) -> dict[str, Any]:
    """Of a run's settings those that the defaults of the others depend on."""
    return {name: settings[name] for name in ("model", "data", "head", "recipe", "batch", "epochs")}


def shown(value: Any) -> str:
    """A setting's value, as a user reads and writes it."""
    if value is None or value in ((), {}):
        return "not set"
    if isinstance(value, dict):
        return " ".join(f"{name}={one}" for name, one in value.items())
    return " ".join(value) if isinstance(value, tuple) else str(value)


def _chosen(settings: Settings) -> str:
    """On which images the best epoch was chosen."""
    return "on images held out from training" if settings.validation else "on the test images"


def _place(folder: Path, state: RunState) -> str:
    """ "step 1,560, epoch 5.00 of 10"; the epoch is the log's, where it has one for this step."""
    epoch = None
    try:
        for line in (folder / LOG).read_text("utf-8", "replace").splitlines():
            record = json.loads(line)
            epoch = record["epoch"] if record["step"] <= state.step else epoch
    except (OSError, ValueError, KeyError, TypeError):
        pass  # a log that is damaged or missing: the step alone is told
    return f"step {state.step:,}" + (
        f", epoch {epoch:.2f} of {state.settings.epochs}" if type(epoch) in (int, float) else ""
    )
