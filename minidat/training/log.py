"""The log of a run: one JSON object a line, each with the step after which it was written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def append(path: Path, record: dict[str, Any]) -> None:
    """Write one record to the end."""
    with open(path, "a") as file:
        file.write(json.dumps(record) + "\n")


def truncate(path: Path, step: int) -> None:
    """Drop the records of later steps, which a stopped run wrote after its last checkpoint, and a line cut short."""
    kept = []
    for line in path.read_text().splitlines(keepends=True) if path.exists() else []:
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            break
        if record["step"] > step:
            break
        kept.append(line)
    temporary = path.with_suffix(".tmp")
    temporary.write_text("".join(kept))
    temporary.replace(path)
