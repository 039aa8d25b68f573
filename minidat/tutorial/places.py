"""Where the chapters' files are: results that the repository keeps, and the exercises."""

from __future__ import annotations

from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]


def stored(name: str) -> Path:
    """The file `name` under chapters/results, results or experiments, looked for from this folder upwards, then in the package's
    own checkout. Raises FileNotFoundError where there is none: a notebook that was copied away from its repository."""
    found = locate(name, ("results", "chapters/results", "experiments"))
    if found is None:
        raise FileNotFoundError(
            f"stored result {name!r} is not in chapters/results, results or experiments of this folder or one above it; "
            "run the chapter from a checkout of minidat"
        )
    return found


def exercise_file(chapter: int) -> Path | None:
    """The file with a chapter's exercises, chapters/exercises/chNN.py; None where there is none."""
    return locate(f"ch{chapter:02d}.py", ("exercises", "chapters/exercises"))


def locate(name: str, folders: tuple[str, ...]) -> Path | None:
    """The first file `name` in one of `folders`, of this folder, of one above it, or of the package's checkout."""
    here = Path.cwd()
    for root in (here, *here.parents, CHECKOUT):
        for folder in folders:
            if (root / folder / name).is_file():
                return root / folder / name
    return None
