"""What the chapters call: exercises are checked, hints given, the package's source and pictures shown."""

from minidat import analysis  # noqa: F401 (it removes a matplotlib backend that is not installed)
from minidat.tutorial.places import stored
from minidat.tutorial.report import check, hint, passed, same
from minidat.tutorial.show import COLOURS, figure, interactive, pixels, show, show_source

__all__ = [
    "COLOURS",
    "check",
    "figure",
    "hint",
    "interactive",
    "passed",
    "pixels",
    "same",
    "show",
    "show_source",
    "stored",
]
