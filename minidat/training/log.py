"""The log of a run: one JSON object a line, each with the step after which it was written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from minidat.files import atomic_write, naming


def append(path: Path, record: dict[str, Any]) -> None:
    """Write one record to the end. Raises OSError, which names the file."""
    with naming(path), open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")


def truncate(path: Path, last: Mapping[str, int]) -> None:
    """Drop what a stopped run wrote after its last checkpoint: records of a kind that is in `last` and of a later step than
    it says, and a last line that is cut short. All other lines stay, also those that are no records."""
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    kept = [line for line in lines if _stays(line, last)]
    if kept and not kept[-1].endswith(b"\n"):
        kept[-1] += b"\n"
    if kept != lines:
        with atomic_write(path) as file:
            file.writelines(kept)


def _stays(line: bytes, last: Mapping[str, int]) -> bool:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return line.endswith(b"\n")  # else it is cut short
    kind, step = (record.get(key) for key in ("kind", "step")) if isinstance(record, dict) else (None, None)
    return not (isinstance(kind, str) and kind in last and isinstance(step, int) and step > last[kind])
