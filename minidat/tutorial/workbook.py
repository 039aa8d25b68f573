"""A reader's own copy of the chapters: made once, brought up to date without touching what the reader wrote, and counted."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from minidat.files import atomic_write
from minidat.tutorial.places import CHECKOUT

RECORD = ".minidat.json"  # in the copy: file → digest of what it was copied from
VERDICT = re.compile(r"^(\d+\.\d+) (✓|✗|not attempted yet)", re.MULTILINE)
PATTERNS = ("[0-9][0-9]_*.ipynb", "solutions/[0-9][0-9]_*.ipynb", "README.md")


class WorkbookError(ValueError):
    """The chapters cannot be copied."""


@dataclass(frozen=True)
class Update:
    """What `update` did: files copied for the first time, brought up to date, and kept because the reader changed them."""

    new: list[str]
    refreshed: list[str]
    kept: list[str]


@dataclass(frozen=True)
class Progress:
    """A chapter in the reader's copy. solved, tried: exercises whose last check said ✓, or anything but "not attempted yet".
    changed: when the notebook was last written, in seconds since 1970, or 0 where it is as it was copied."""

    name: str
    title: str
    solved: int
    tried: int
    exercises: int
    changed: float


def update(folder: Path, chapters: Path = CHECKOUT / "chapters") -> Update:
    """Copy the notebooks and their solutions into `folder`. A file that the reader changed is kept; one that is as it was
    copied is replaced by a newer one. Raises WorkbookError where there are no chapters to copy."""
    sources = [path for pattern in PATTERNS for path in sorted(chapters.glob(pattern))]
    if not sources:
        raise WorkbookError(
            f"there are no chapters in {chapters}: they come with a checkout of minidat (pip install -e .), not with the package"
        )
    if folder.resolve() == chapters.resolve():
        raise WorkbookError(f"{folder} holds the chapters themselves; choose another folder for your copy")
    record, done = _record(folder), Update([], [], [])
    for source in sources:
        name = source.relative_to(chapters).as_posix()
        target, digest = folder / name, _digest(source)
        if not target.exists():
            done.new.append(name)
        elif record.get(name) == digest or _digest(target) == digest:
            record[name] = digest
            continue
        elif _digest(target) == record.get(name):
            done.refreshed.append(name)
        else:
            done.kept.append(name)
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(target) as file:
            file.write(source.read_bytes())
        record[name] = digest
    with atomic_write(folder / RECORD) as file:
        file.write(json.dumps(record, indent=1).encode())
    return done


def progress(folder: Path, chapters: Path = CHECKOUT / "chapters") -> list[Progress]:
    """Every chapter of the copy, in order, by what its saved cells show; files of other names are left out."""
    record = _record(folder)
    return [_progress(path, record) for path in sorted(folder.glob(PATTERNS[0])) if (chapters / path.name).exists()]


def place(chapters: list[Progress]) -> Progress:
    """Where to go on: the notebook that was written last, or the next one where all of it is solved."""
    last = max(range(len(chapters)), key=lambda i: chapters[i].changed)
    solved = chapters[last].changed and chapters[last].solved == chapters[last].exercises
    return chapters[min(last + 1, len(chapters) - 1)] if solved else chapters[last]


def _progress(path: Path, record: dict[str, str]) -> Progress:
    try:
        cells = json.loads(path.read_text("utf-8"))["cells"]
        outputs = "\n".join(_printed(cell) for cell in cells)
        sources = "\n".join("".join(cell["source"]) for cell in cells)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WorkbookError(f"{path} is not a notebook that can be read ({type(error).__name__}: {error})") from error
    verdicts = dict(VERDICT.findall(outputs))
    numbers = set(re.findall(r'^check\("([\d.]+)"', sources, re.MULTILINE))
    title = next(iter(re.findall(r"^# (.+)$", sources, re.MULTILINE)), path.stem)
    told = [verdicts.get(number, "not attempted yet") for number in numbers]
    changed = record.get(path.name) != _digest(path)
    return Progress(
        name=path.name,
        title=title,
        solved=told.count("✓"),
        tried=len(told) - told.count("not attempted yet"),
        exercises=len(numbers),
        changed=path.stat().st_mtime if changed else 0.0,
    )


def _printed(cell: dict) -> str:
    """What a cell printed."""
    streams = [output for output in cell.get("outputs", []) if output.get("output_type") == "stream"]
    return "".join("".join(output["text"]) for output in streams)


def _record(folder: Path) -> dict[str, str]:
    """File → digest of what it was copied from. Empty where the copy is new, or its record cannot be read."""
    try:
        record = json.loads((folder / RECORD).read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def _digest(path: Path) -> str:
    return sha256(path.read_bytes()).hexdigest()
