"""`minidat chapters`: the notebooks in a copy of the reader's own, with what is solved, opened where the reader left off."""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

from minidat.cli.flags import new_command

FOLDER = Path("my-chapters")


def add(commands: Any) -> None:
    """The command's flags."""
    command = new_command(
        commands,
        "chapters",
        "work through the chapters",
        "Copy the chapters into a folder of your own, where a copy that you changed is never written over, show which exercises "
        "are solved in the notebooks as they were last saved, and open JupyterLab where you left off.",
    )
    flag = command.add_argument
    flag("chapter", nargs="?", metavar="NN", help="open this one, by its number (default: where you left off)")
    flag("--folder", type=Path, default=FOLDER, help="where your copy is, or is made")
    flag("--list", action="store_true", help="only show what is solved")
    flag("--no-browser", action="store_true", help="start JupyterLab without opening a browser")
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Bring the copy up to date, show the table, and open a notebook."""
    from minidat.tutorial import workbook

    folder: Path = arguments.folder
    folder.mkdir(parents=True, exist_ok=True)
    done = workbook.update(folder)
    for name in done.kept:
        if name.endswith(".ipynb"):
            print(f"{name} is newer here, and you changed your copy: yours is kept; rename it to get the new one")
    chapters = workbook.progress(folder)
    chosen = _chosen(arguments.chapter, chapters) or workbook.place(chapters)
    print(_table(chapters, chosen))
    if arguments.list:
        return 0
    if importlib.util.find_spec("jupyterlab") is None:
        raise ValueError("JupyterLab is not installed: pip install -e '.[chapters]', or make chapters")
    return _open(folder, chosen.name, browser=not arguments.no_browser)


def _chosen(number: str | None, chapters: list[Any]) -> Any:
    """The chapter that a number names; None for no number."""
    if number is None:
        return None
    found = [chapter for chapter in chapters if chapter.name.startswith(f"{number.zfill(2)}_")]
    if not found:
        raise ValueError(
            f"there is no chapter {number}; chapters are {chapters[0].name[:2]} to {chapters[-1].name[:2]}"
        )
    return found[0]


def _table(chapters: list[Any], chosen: Any) -> str:
    """One line a chapter: solved of all exercises, and where to go on."""
    width = max(len(chapter.title) for chapter in chapters)
    lines = [
        f"{'→' if chapter is chosen else ' '} {chapter.title:{width}}  {_solved(chapter)}".rstrip()
        for chapter in chapters
    ]
    solved, count = sum(c.solved for c in chapters), sum(c.exercises for c in chapters)
    return "\n".join([*lines, f"  {solved} of {count} exercises solved, in the notebooks as they were last saved"])


def _solved(chapter: Any) -> str:
    wrong = chapter.tried - chapter.solved
    return f"{chapter.solved:2d} of {chapter.exercises:2d}" + (f", {wrong} not right yet" if wrong else "")


def _open(folder: Path, name: str, *, browser: bool) -> int:
    """Run JupyterLab on a notebook until it is closed."""
    import subprocess

    notebooks = [str(path) for path in sorted(folder.glob("[0-9]*.ipynb"))]
    jupyter = [sys.executable, "-m", "jupyter"]
    # or interactive figures stay empty
    subprocess.run([*jupyter, "trust", *notebooks], check=False, stdout=subprocess.DEVNULL)
    flags = ["--allow-root"] if getattr(os, "geteuid", lambda: 1)() == 0 else []  # as in a container
    flags += [] if browser else ["--no-browser"]
    with subprocess.Popen([*jupyter, "lab", *flags, str(folder / name)]) as lab:
        try:
            return lab.wait()
        except KeyboardInterrupt:  # it got Ctrl-C too, and asks whether to stop
            return lab.wait()
