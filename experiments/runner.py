"""Takes the next run that is not done, trains it to its end or to the deadline, and keeps its record."""

from __future__ import annotations

import datetime
import platform
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from threadpoolctl import threadpool_limits

from experiments import points, records
from experiments.tables import Row, Table, key, settings
from minidat.analysis import cost, skeleton, totals
from minidat.cli.weights import load_run
from minidat.models import zoo
from minidat.training.errors import Interrupted, TrainingError
from minidat.training.folder import LAST, LOG
from minidat.training.loop import Reporter, Run
from minidat.training.settings import Settings

WORK = Path("runs") / "experiments"  # checkpoints of runs that are not done


class Deadline(Reporter):
    """Asks a run to stop, saved, once `seconds` have passed; tells `say` of each epoch."""

    def __init__(self, seconds: float, say: Callable[[str], Any]):
        self.end, self.say = time.monotonic() + seconds, say
        self.run: Run | None = None

    @property
    def passed(self) -> bool:
        return time.monotonic() >= self.end

    def train(self, record: dict[str, Any]) -> None:
        if self.run is not None and self.passed:
            self.run.stop.asked = True

    def test(self, record: dict[str, Any]) -> None:
        self.say(f"  epoch {record['epoch']:g}: {record['kind']} accuracy {record['accuracy']:.2%}")

    def note(self, text: str) -> None:
        self.say(f"  {text}")


def pending(tables: list[Table], folder: Path) -> Iterator[tuple[Table, Row, int]]:
    """The runs without a record, each once."""
    seen = set()
    for table in tables:
        for row, seed in table.runs():
            name = key(table, row, seed)
            if name not in seen and records.read(name, folder) is None:
                yield table, row, seed
            seen.add(name)


def work(
    tables: list[Table],
    *,
    data_dir: str | None,
    minutes: float,
    loops: str = "numpy",
    records_folder: Path = records.FOLDER,
    work: Path = WORK,
    say: Callable[[str], Any] = print,
) -> int:
    """Do runs until none is left or `minutes` have passed; returns how many were completed. A run that another process
    works on is left to it. Raises Interrupted, with the run at hand saved, for Ctrl-C or SIGTERM."""

    def jobs() -> Iterator[Job]:
        for table, row, seed in pending(tables, records_folder):
            name = key(table, row, seed)
            wanted = Settings(**settings(table, row, seed), data_dir=data_dir, loops=loops)
            yield Job(name, f"{table.question}: {row.name}, seed {seed} ({name})", wanted)

    done = 0
    for name, run in completed(jobs(), work, records_folder, Deadline(60 * minutes, say)):
        records.write(name, _record(run), records_folder)
        done += 1
    return done


class Job(NamedTuple):
    """A run that is not done: its name, what is said of it, and its settings."""

    name: str
    title: str
    settings: Settings


def completed(jobs: Iterable[Job], work: Path, records_folder: Path, deadline: Deadline) -> Iterator[tuple[str, Run]]:
    """(name, run) of each job, as soon as it is at its end, until the deadline. A run that another process works on, or has
    done meanwhile, is left to it. Raises Interrupted, with the run at hand saved, for Ctrl-C or SIGTERM."""
    for name, title, wanted in jobs:
        if deadline.passed:
            return
        if records.read(name, records_folder) is not None:  # another process was faster
            continue
        deadline.say(title)
        try:
            with threadpool_limits(1, "blas"):
                run = _train(wanted, work / name, deadline)
        except TrainingError as error:
            deadline.say(f"  left out: {error}")
            continue
        except Interrupted:
            if deadline.passed:
                return
            raise
        yield name, run


def _train(wanted: Settings, folder: Path, deadline: Deadline) -> Run:
    """The run, complete: from its start, or from where it was stopped. Raises Interrupted as `Run.train`."""
    if (folder / LAST).exists():
        run = Run.resume(folder, data_dir=wanted.data_dir, threads=1)
    else:
        folder.parent.mkdir(parents=True, exist_ok=True)
        run = Run.start(wanted, folder, threads=1)
    deadline.run = run
    run.train(deadline)
    return run


def _record(run: Run) -> records.Record:
    """What is kept of a complete run."""
    s = run.settings
    counted = totals(cost(skeleton(zoo.config(s.model, classes=len(run.testing.classes), changes=s.changes))))
    kept = {name: value for name, value in s.to_json().items() if name not in ("data_dir", "loops")}
    return {
        "settings": kept,
        "parameters": counted.parameters,
        "multiply_adds": counted.multiply_adds,
        **records.summary(run.folder / LOG),
        "points": points.measure(load_run(run.folder).model, run.testing),
        "environment": run.environment | {"Python": platform.python_version(), "processor": processor()},
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }


def processor() -> str:
    """The processor's name, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
