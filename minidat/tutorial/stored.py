"""Results that are kept with the repository, wherever a chapter runs."""

from __future__ import annotations

from pathlib import Path


def stored(name: str) -> Path:
    """The file `name` under chapters/results or results, looked for from this folder upwards, then in the package's own
    checkout. Raises FileNotFoundError where there is none: a notebook that was copied away from its repository."""
    here = Path.cwd()
    roots = (here, *here.parents, Path(__file__).resolve().parents[2])
    for root in roots:
        for folder in ("results", "chapters/results"):
            if (root / folder / name).is_file():
                return root / folder / name
    raise FileNotFoundError(
        f"stored result {name!r} is neither in chapters/results nor in results of this folder or one above it; "
        "run the chapter from a checkout of minidat"
    )
