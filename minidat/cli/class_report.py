"""What `minidat eval` says of the classes: a table, and two pictures in a folder."""

from __future__ import annotations

import contextlib
from pathlib import Path

from minidat.cli.class_table import class_table
from minidat.cli.terminal import printable
from minidat.metrics.by_class import ByClass

CONFUSION, MISTAKES = "confusion.png", "mistakes.png"


def check_folder(out: Path | None) -> None:
    """Raise ValueError where --out is no folder."""
    if out is not None and not out.is_dir():
        raise ValueError(f"--out {out}: it must be a folder that exists; {CONFUSION} and {MISTAKES} go into it")


def print_report(report: ByClass, folder: Path | None) -> None:
    """Print accuracy by class, and draw the confusion matrix and the mistakes into `folder`, where there is one. A picture that
    cannot be written is a line of text."""
    print(class_table(report))
    if folder is None:
        return
    for name, title, draw in ((CONFUSION, "confusion matrix", _confusion), (MISTAKES, "mistakes", _mistakes)):
        if draw is _mistakes and not report.mistakes:
            with contextlib.suppress(OSError):
                (folder / name).unlink(missing_ok=True)  # of an earlier test
            continue
        try:
            draw(report, folder / name)
        except OSError as error:
            print(f"no {name}: {printable(error.strerror or str(error))}")
            continue
        print(f"{title:18} {printable(str(folder / name))}")


def _confusion(report: ByClass, out: Path) -> None:
    from minidat.analysis.confusion_figure import confusion_figure  # matplotlib takes a moment to import

    confusion_figure(report.confusion, [printable(name) for name in report.classes], out)


def _mistakes(report: ByClass, out: Path) -> None:
    from minidat.analysis.mistakes_figure import mistakes_figure

    names, wrong = [printable(name) for name in report.classes], report.mistakes
    mistakes_figure(
        [mistake.image for mistake in wrong],
        [names[mistake.predicted] for mistake in wrong],
        [names[mistake.label] for mistake in wrong],
        [mistake.confidence for mistake in wrong],
        out,
    )
