"""What is kept of a run: one small JSON file each, in `experiments/records`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from minidat.files import atomic_write

FOLDER = Path(__file__).with_name("records")
Record = dict[str, Any]


def path(key: str, folder: Path = FOLDER) -> Path:
    return folder / f"{key}.json"


def read(key: str, folder: Path = FOLDER) -> Record | None:
    """The record of a run, or None where it is not done. Raises ValueError, naming the file, for one that is damaged."""
    try:
        return json.loads(path(key, folder).read_text("utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise ValueError(f"{path(key, folder)} is no JSON: {error}; delete it, and the run is done again") from None


def write(key: str, record: Record, folder: Path = FOLDER) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(path(key, folder)) as file:
        file.write((json.dumps(record, indent=1) + "\n").encode())


def summary(log: Path) -> Record:
    """Of a complete run's log: a list for each epoch's training and validation, and the test of the best epoch."""
    lines = [json.loads(line) for line in log.read_text("utf-8").splitlines()]
    validated = [line for line in lines if line["kind"] == "validation"]
    test = next(line for line in lines if line["kind"] == "test")
    return {
        "epochs": [line["epoch"] for line in validated],
        "train_loss": [_last_loss(lines, line["step"]) for line in validated],
        "validation_loss": [round(line["loss"], 4) for line in validated],
        "validation_accuracy": [round(line["accuracy"], 4) for line in validated],
        "best_epoch": test["best_epoch"],
        "test_loss": round(test["loss"], 4),
        "test_accuracy": round(test["accuracy"], 4),
        "seconds": round(test["seconds"]),
    }


def _last_loss(lines: list[Record], step: int) -> float:
    """The mean training loss of the last steps before `step`."""
    return round([line["loss"] for line in lines if line["kind"] == "train" and line["step"] <= step][-1], 4)
