"""The command `minidat`: train, eval, predict, export, info, figure, bench, chapters.

One file a command: its flags, and what it does.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence

from minidat import __version__
from minidat.autograd.backend import DeviceError
from minidat.cli import bench, chapters, eval, export, figure, info, predict, train
from minidat.cli.flags import Parser
from minidat.cli.terminal import discard, open_streams, printable
from minidat.data import DataError
from minidat.fast.numba import CompiledError
from minidat.training.checkpoint import CheckpointError
from minidat.training.loop import Interrupted, TrainingError

# Exit codes; those of Ctrl-C and of a closed pipe as shells have them. Wrong usage is argparse's 2.
FAILED, STOPPED, PIPE_CLOSED = 1, 130, 141


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code. Errors that a user can cause are one line on stderr, never a traceback."""
    open_streams()
    try:
        arguments = parser().parse_args(argv)
        code = arguments.run(arguments)
        return _flushed() or code
    except SystemExit as ended:  # argparse, after --help or wrong usage
        raise SystemExit(_flushed() or ended.code) from None
    except Interrupted:
        return STOPPED
    except KeyboardInterrupt:
        return _failed("stopped", STOPPED)
    except BrokenPipeError:  # `minidat info MODEL | head`: the reader has seen enough
        discard(sys.stdout)
        return PIPE_CLOSED
    except (CheckpointError, CompiledError, DataError, DeviceError, TrainingError, ValueError) as error:
        return _failed(str(error), FAILED)
    except OSError as error:
        return _flushed() or _failed(_reason(error), FAILED)


def _failed(message: str, code: int) -> int:
    """Print an error, and return the exit code."""
    with contextlib.suppress(OSError):
        lines = "\n".join(map(printable, message.split("\n")))
        print(f"minidat: {lines}", file=sys.stderr, flush=True)
    return code


def _flushed() -> int:
    """Write out what was printed. Returns 0, or the exit code where the output is closed or full; the rest is discarded then,
    since Python would try to write it again at exit."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        discard(sys.stdout)
        return PIPE_CLOSED
    except OSError as error:
        discard(sys.stdout)
        return _failed(f"standard output: {error.strerror}", FAILED)
    return 0


def _reason(error: OSError) -> str:
    """What the system said, with the file's name where it is known."""
    return f"{error.filename or 'standard output, or a file'}: {error.strerror or error}"


def parser() -> Parser:
    """All commands and flags, each with its help."""
    top = Parser(prog="minidat", description="The Deformable Attention Transformer, from scratch on NumPy and CuPy.")
    top.add_argument("--version", action="version", version=f"minidat {__version__}")
    commands = top.add_subparsers(title="commands", metavar="COMMAND")
    for command in (train, eval, predict, export, info, figure, bench, chapters):
        command.add(commands)
    return top
