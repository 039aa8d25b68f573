"""Text for a person, wherever standard output leads: a terminal, a file, a closed pipe, or nowhere.

No escape code is ever written: the progress line is overwritten by a carriage return and spaces. So TERM=dumb, NO_COLOR and
old consoles need no special form.
"""

from __future__ import annotations

import codecs
import contextlib
import io
import math
import os
import sys
import time
import unicodedata
from collections.abc import Sequence
from typing import Any, TextIO

LINE_SECONDS = 10.0  # between progress lines where the output is not a terminal
COLUMNS = 80  # where the terminal does not say how wide it is
PLAIN = {
    "─": "-",
    "→": ">",
    "−": "-",
    "–": "-",
    "×": "x",
    "·": ".",
    "…": ".",
    "’": "'",
}  # one column each: tables stay aligned
UNPRINTABLE = ("Cc", "Cs", "Zl", "Zp")  # Unicode categories: control characters, lone surrogates, line separators


def open_streams() -> None:
    """Make `sys.stdout` and `sys.stderr` safe to write to: a stream that the shell closed (`>&-`) becomes the null device, and
    a character that the encoding lacks is replaced by a plain one."""
    codecs.register_error("minidat.plain", _plain)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 (it stays open)
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="minidat.plain")


def _plain(error: UnicodeError) -> tuple[str, int]:
    """A handler of `codecs`: what replaces characters that cannot be encoded, and where to go on."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(PLAIN.get(character, "?") for character in error.object[error.start : error.end]), error.end


def discard(stream: Any) -> None:
    """Send the rest of a stream to the null device, so that Python's own flush at exit finds nothing wrong."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)


def printable(name: str) -> str:
    r"""A name from outside (a file's, a class's) with its control characters written out, such as `\x1b`: a terminal would obey
    them."""
    return "".join(c.encode("unicode_escape").decode() if unicodedata.category(c) in UNPRINTABLE else c for c in name)


def plural(count: int, noun: str) -> str:
    """1, "epoch" → "1 epoch"; 2000, "image" → "2,000 images"."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def say(text: str) -> None:
    """Print a line beside the results, on standard error."""
    print(f"minidat: {printable(text)}", file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """63 → "1:03", 3700 → "1:01:40"."""
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    return f"{hours}:{m:02d}:{s:02d}" if hours else f"{m}:{s:02d}"


def fit(parts: Sequence[tuple[int, str]], columns: int) -> str:
    """The parts of a line, each (rank, text), in their order. As long as they do not fit into `columns`, the part with the
    highest rank is left out; the last one left is cut off."""
    kept = list(parts)
    while len(kept) > 1 and len(_joined(kept)) > columns:
        kept.remove(max(kept, key=lambda part: part[0]))
    return _joined(kept)[:columns]


def _joined(parts: Sequence[tuple[int, str]]) -> str:
    return "  ".join(text for _, text in parts)


class Terminal:
    """Lines of text, and one progress line: overwritten on a terminal, elsewhere printed every ten seconds.

    Raises OSError where the output is closed or full.
    """

    def __init__(self, out: TextIO | None = None):
        self.out = sys.stdout if out is None else out
        self.live = self.out.isatty() and os.environ.get("TERM") != "dumb"
        self.columns = 0  # of the progress line on the screen
        self.printed = -math.inf  # when the last progress line was, where the output is not a terminal

    def line(self, text: str) -> None:
        """Print text in lines of its own, in place of the progress line."""
        self._write(self._blank() + text + "\n")
        self.columns = 0

    def progress(self, parts: Sequence[tuple[int, str]]) -> None:
        """Show how far the work is; parts as for `fit`."""
        if not self.live:
            now = time.perf_counter()
            if now - self.printed >= LINE_SECONDS:
                self.printed = now
                self._write(_joined(parts) + "\n")
            return
        text = fit(parts, self._width() - 1)
        self._write("\r" + text + " " * max(min(self.columns, self._width() - 1) - len(text), 0))
        self.columns = len(text)

    def keep(self) -> None:
        """Leave the progress line on the screen and go on below it."""
        if self.columns:
            self._write("\n")
        self.columns = 0

    def clear(self) -> None:
        """Remove the progress line."""
        if self.columns:
            self._write(self._blank())
        self.columns = 0

    def _blank(self) -> str:
        return "\r" + " " * min(self.columns, self._width() - 1) + "\r" if self.columns else ""

    def _width(self) -> int:
        """Columns of the terminal as it is now; it may have been resized."""
        try:
            return os.get_terminal_size(self.out.fileno()).columns or COLUMNS
        except (OSError, ValueError):
            return COLUMNS

    def _write(self, text: str) -> None:
        self.out.write(text)
        self.out.flush()
