"""The command `minidat`: train, eval, predict, info, figure, bench, chapters. One file a command: its flags, and what it does."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from minidat import __version__
from minidat.autograd.backend import DeviceError
from minidat.cli import bench, chapters, eval, figure, info, predict, train
from minidat.data import DataError
from minidat.fast.numba import CompiledError
from minidat.training.checkpoint import CheckpointError
from minidat.training.loop import Interrupted, TrainingError

FAILED, STOPPED = 1, 130  # exit codes; wrong usage is argparse's 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code. Errors that a user can cause are one line on stderr, never a traceback."""
    arguments = parser().parse_args(argv)
    try:
        return arguments.run(arguments)
    except Interrupted:
        return STOPPED
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        return STOPPED
    except (CheckpointError, CompiledError, DataError, DeviceError, TrainingError, ValueError, OSError) as error:
        print(f"minidat: {error}", file=sys.stderr)
        return FAILED


def parser() -> argparse.ArgumentParser:
    """All commands and flags, each with its help."""
    top = argparse.ArgumentParser(
        prog="minidat", description="The Deformable Attention Transformer, from scratch on NumPy and CuPy."
    )
    top.add_argument("--version", action="version", version=f"minidat {__version__}")
    commands = top.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for command in (train, eval, predict, info, figure, bench, chapters):
        command.add(commands)
    return top
