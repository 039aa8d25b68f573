"""What several commands share: how help looks, and flags of the same meaning."""

from __future__ import annotations

import argparse
import difflib
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NoReturn

from minidat.autograd.backend import DEVICES
from minidat.cli.terminal import printable
from minidat.data.images import PROTOCOLS
from minidat.fast import loops
from minidat.fast import numba as compiled
from minidat.models import MODELS
from minidat.released.state_dict import KEYS
from minidat.training.distributed import launched

WRONG_USAGE = 2  # argparse's exit code
CHOICES = re.compile(r"invalid choice: (['\"])(?P<given>.*)\1 \(choose from (?P<known>.*)\)", re.DOTALL)


class Help(argparse.ArgumentDefaultsHelpFormatter):
    """Shows defaults, except where there is none to show."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        nothing = action.default is False or action.default in (None, [])  # 0 is a default
        return action.help if nothing else super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """argparse's parser, which prints its help where no command follows, and suggests what a mistyped word may have meant."""

    def __init__(self, **options: Any):
        super().__init__(formatter_class=Help, **options)
        self.set_defaults(run=self._help)

    def _help(self, _: argparse.Namespace) -> int:
        self.print_help()
        return 0

    def error(self, message: str) -> NoReturn:
        if launched()[0] > 0:  # the first of several ranks says it
            raise SystemExit(WRONG_USAGE)
        found = CHOICES.search(message)
        close = meant(found["given"], re.findall(r"[\w-]+", found["known"])) if found else ""
        if found and close:
            message = f"{message[: found.start()]}{found['given']!r} is unknown; {close}"
        super().error(printable(message))


def meant(word: str, known: Iterable[str]) -> str:
    """ "did you mean dat_tiny?", or "" where no known word is like it."""
    close = difflib.get_close_matches(word.lower(), list(known), n=3, cutoff=0.7)
    return f"did you mean {' or '.join(close)}?" if close else ""


def new_command(commands: Any, name: str, summary: str, description: str) -> Parser:
    """A command without flags so far. commands: what `add_subparsers` gave."""
    return commands.add_parser(name, help=summary, description=description)


def count_or_all(text: str) -> int | str:
    """A number of images, or "all". Raises ArgumentTypeError for what is neither."""
    try:
        return text if text == "all" else int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} must be a whole number, or all") from None


def add_changes(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--set",
        dest="changes",
        action="extend",
        nargs="+",
        metavar="NAME=VALUE",
        help="change the network: stages.2.range_factor=4 in the third stage, stages.heads=2 in all, stages.dim=24,48,96 in "
        "each, stages=2 to keep two, patch=4; see docs/models.md",
    )


def add_device(command: argparse.ArgumentParser) -> None:
    command.add_argument("--device", choices=DEVICES, default="cpu", help="where to compute; gpu needs CuPy")


def add_threads(command: argparse.ArgumentParser) -> None:
    command.add_argument("--threads", type=int, help="CPU threads (default: all cores)")


def add_loops(command: argparse.ArgumentParser, default: str) -> None:
    command.add_argument(
        "--loops",
        choices=(loops.AUTO, *loops.LOOPS),
        help=f"on the CPU: compiled by numba, or NumPy's; auto is numba where it is installed (default: {default})",
    )


def use_loops(arguments: argparse.Namespace, default: str, report: Callable[[str], Any]) -> str:
    """Work with the loops of --loops, or of `default`; returns those that are used. Raises ValueError where --loops numba goes
    with a GPU, CompiledError where it is asked for and cannot be had."""
    if arguments.loops == "numba" and arguments.device != "cpu":
        raise ValueError(f"--loops numba is for the CPU, and --device is {arguments.device}: leave one of them out")
    if arguments.device != "cpu":
        return loops.use("numpy", report)
    if arguments.loops == "numba":
        compiled.install(report)
    return loops.use(arguments.loops or default, report)


def add_model(command: argparse.ArgumentParser) -> None:
    names = ", ".join(MODELS)
    command.add_argument(
        "--model", metavar="NAME", choices=MODELS, help=f"{names} (default: recognised from the weights)"
    )


def add_key(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--key",
        metavar="NAME",
        help=f"where in a PyTorch file the weights are, such as model_ema (default: the first of {', '.join(KEYS)})",
    )


def add_head_rows(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--head-rows",
        type=Path,
        metavar="FILE",
        help="for weights with more classes than are wanted: the row of each wanted class in their head, one number a line, "
        "such as the 1,000 of ImageNet-22k's",
    )


def head_rows(file: Path | None) -> list[int] | None:
    """The numbers in the file of --head-rows. Raises ValueError for a line that is none."""
    if file is None:
        return None
    try:
        return [int(line) for line in file.read_text("utf-8-sig").split()]
    except ValueError as error:  # UnicodeDecodeError is one too
        raise ValueError(f"--head-rows {file}: must hold whole numbers, one a line ({error})") from error


def add_protocol(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--protocol",
        choices=PROTOCOLS,
        help="how images become squares: released resizes both sides and crops, as DAT's code does; short-side keeps the "
        "aspect ratio and crops; whole resizes both sides (default: released)",
    )
