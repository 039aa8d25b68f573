"""The folder of a run: which files it has, and how a new run gets one."""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Generator
from pathlib import Path

from minidat.files import atomic_write
from minidat.training.checkpoint import CheckpointError
from minidat.training.errors import TrainingError
from minidat.training.lock import LOCK, Lock
from minidat.training.settings import Settings

LAST, BEST = "last.safetensors", "best.safetensors"  # checkpoints: where the run is; where it was best
LOG, SETTINGS = "log.jsonl", "settings.json"
RANKS = "ranks.txt"  # which process is which rank, where there are several


def check_free(folder: Path) -> None:
    """Raise TrainingError where the folder holds a checkpoint, or a file of another program that a run would write over."""
    if (folder / LAST).exists() or (folder / BEST).exists():
        raise TrainingError(
            f"{folder} holds a run already: continue it with --resume {folder}, or choose another --out"
        )
    if (folder / SETTINGS).exists() and not _is_of_a_run(folder / SETTINGS):
        raise TrainingError(f"{folder} holds a {SETTINGS} that is no run's; choose another --out")


def _is_of_a_run(path: Path) -> bool:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(found, dict) and {"model", "data", "epochs"} <= found.keys()


@contextlib.contextmanager
def claimed(folder: Path, *, numbered: bool) -> Generator[tuple[Path, Lock]]:
    """A free folder for a new run, and its lock, held. Two processes never get the same one.

    numbered: take the first of FOLDER, FOLDER-2, FOLDER-3, … that does not exist. Where the block raises, the files
    of a run are removed again, and the folder where it was made for them; the lock is released. Raises TrainingError where
    the folder holds a run, or is in use.
    """
    folder, made = _numbered(folder) if numbered else _made(folder)
    with contextlib.ExitStack() as undo:
        lock = undo.enter_context(Lock(folder))
        check_free(folder)
        undo.callback(_remove, folder, made)  # while the lock is held
        yield folder, lock
        undo.pop_all()


def write_settings(folder: Path, settings: Settings) -> None:
    """Keep the settings beside the checkpoints, for people to read. Runs read them from their checkpoint."""
    with atomic_write(folder / SETTINGS) as file:
        file.write((json.dumps(settings.to_json(), indent=2) + "\n").encode())


def write_ranks(folder: Path, names: list[str]) -> None:
    """Keep the hosts and processes of several ranks, so that what mpiexec says of a process that was killed names its rank."""
    with contextlib.suppress(OSError):
        (folder / RANKS).write_text("".join(f"{name}\n" for name in names))


def to_resume(path: Path) -> Path:
    """The checkpoint with which a run goes on, of a run's folder or of its last checkpoint: the last one; the best one where
    the disk was full before the last one was written. Raises CheckpointError for another file."""
    if path.is_file():
        if path.name != LAST:
            raise CheckpointError(path, f"a run goes on from its {LAST}; name that, or the folder")
        return path
    last, best = path / LAST, path / BEST
    return best if best.exists() and not last.exists() else last


def _made(folder: Path) -> tuple[Path, bool]:
    """(folder, whether it had to be made)"""
    there = folder.is_dir()
    folder.mkdir(parents=True, exist_ok=True)
    return folder, not there


def _numbered(base: Path) -> tuple[Path, bool]:
    base.parent.mkdir(parents=True, exist_ok=True)
    for folder in itertools.chain([base], (base.with_name(f"{base.name}-{i}") for i in itertools.count(2))):
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        return folder, True
    raise AssertionError  # count() has no end


def _remove(folder: Path, made: bool) -> None:
    """Remove the first files of a run that could not start, and its folder where it was made for them."""
    with contextlib.suppress(OSError):
        for name in (LAST, LOG, SETTINGS, LOCK):
            (folder / name).unlink(missing_ok=True)
        if made:
            folder.rmdir()
