"""What a user sees of several ranks: each message once, and the name of a rank that fails alone."""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from collections.abc import Generator

from minidat.cli.terminal import printable
from minidat.training.distributed import EXPECTED, Ranks, join, launched
from minidat.training.errors import Interrupted

FAILED = 1


@contextlib.contextmanager
def joined(device: str) -> Generator[Ranks]:
    """This process's ranks. What the block raises on all of them is told by the first one; the others leave with exit code 1.
    What it raises on one ends all at once, after a line that names it."""
    ranks = None
    try:
        ranks = join(device)
        yield ranks
    except BaseException as error:
        if ranks is None or ranks.count == 1 or isinstance(error, Interrupted) or getattr(error, "everywhere", False):
            if launched()[0] == 0:
                raise
            silence()
            raise SystemExit(FAILED) from None
        _tell(ranks, error)
        ranks.abort(FAILED)


def _tell(ranks: Ranks, error: BaseException) -> None:
    if not isinstance(error, (*EXPECTED, KeyboardInterrupt)):
        traceback.print_exception(error)
    reason = printable(str(error) or type(error).__name__)
    print(f"minidat: {ranks}: {reason}\nminidat: all ranks end; the last checkpoint stays", file=sys.stderr, flush=True)


def silence() -> None:
    """Print nothing any more: the first rank speaks for all."""
    nowhere = open(os.devnull, "w")  # noqa: SIM115 (to the end of the process)
    sys.stdout = sys.stderr = nowhere
