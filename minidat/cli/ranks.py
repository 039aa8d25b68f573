"""What a user sees of several ranks: each message once, and the name of a rank that fails alone."""

from __future__ import annotations

import contextlib
import sys
import traceback
from collections.abc import Generator

from minidat.cli.terminal import printable
from minidat.training.distributed import join, launched
from minidat.training.errors import Interrupted
from minidat.training.ranks import EXPECTED, Ranks

FAILED, STOPPED = 1, 130


@contextlib.contextmanager
def joined(device: str) -> Generator[Ranks]:
    """This process's ranks. What the block raises on all of them is told by the first one; the others leave with the same exit
    code. What it raises on one ends all at once, after a line that names it."""
    ranks = None
    try:
        ranks = join(device)
        yield ranks
    except BaseException as error:
        on_all = isinstance(error, Interrupted) or getattr(error, "everywhere", False)
        if ranks is not None and ranks.count > 1 and not on_all:
            _tell(ranks, error)
            ranks.abort(FAILED)
        if launched()[0] == 0:
            raise
        raise SystemExit(STOPPED if isinstance(error, Interrupted) else FAILED) from None


def _tell(ranks: Ranks, error: BaseException) -> None:
    """Print why this rank ends all."""
    if not isinstance(error, (*EXPECTED, KeyboardInterrupt)):
        traceback.print_exception(error)
    reason = "stopped" if isinstance(error, KeyboardInterrupt) else printable(str(error) or type(error).__name__)
    print(f"minidat: {ranks}: {reason}", file=sys.stderr)
    print("minidat: so all ranks end; --resume goes on from the last checkpoint", file=sys.stderr, flush=True)
