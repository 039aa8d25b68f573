"""What several commands share: how help looks, and flags of the same meaning."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from minidat.autograd.backend import DEVICES
from minidat.data.images import PROTOCOLS
from minidat.models import MODELS


class Help(argparse.ArgumentDefaultsHelpFormatter):
    """Shows defaults, except where there is none to show."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default in (None, False) else super()._get_help_string(action)


def new_command(commands: Any, name: str, summary: str, description: str) -> argparse.ArgumentParser:
    """A command without flags so far. commands: what `add_subparsers` gave."""
    return commands.add_parser(name, help=summary, description=description, formatter_class=Help)


def add_device(command: argparse.ArgumentParser) -> None:
    command.add_argument("--device", choices=DEVICES, default="cpu", help="where to compute; gpu needs CuPy")


def add_threads(command: argparse.ArgumentParser) -> None:
    command.add_argument("--threads", type=int, help="CPU threads (default: all cores)")


def add_compiled(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--compiled", action="store_true", help="on the CPU: loops compiled by numba (pip install 'minidat[compiled]')"
    )


def check_compiled(arguments: argparse.Namespace) -> None:
    """Raises ValueError where --compiled goes with another device than the CPU."""
    if arguments.compiled and arguments.device != "cpu":
        raise ValueError(f"--compiled is for the CPU, and --device is {arguments.device}: leave one of them out")


def add_model(command: argparse.ArgumentParser) -> None:
    names = ", ".join(MODELS)
    command.add_argument(
        "--model", metavar="NAME", choices=MODELS, help=f"{names} (default: found out from the weights)"
    )


def add_head_rows(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--head-rows",
        type=Path,
        metavar="FILE",
        help="take a head with more classes: the row of each class in it, one number a line, such as the 1,000 of ImageNet-22k's",
    )


def head_rows(file: Path | None) -> list[int] | None:
    """The numbers in the file of --head-rows. Raises ValueError for a line that is none."""
    if file is None:
        return None
    try:
        return [int(line) for line in file.read_text("utf-8").split()]
    except ValueError as error:  # UnicodeDecodeError is one too
        raise ValueError(f"--head-rows {file}: must hold whole numbers, one a line ({error})") from error


def add_protocol(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--protocol",
        choices=PROTOCOLS,
        help="how images become squares: released resizes both sides and crops, as DAT's code does; short-side keeps the "
        "aspect ratio and crops; whole resizes only (default: released; whole for a run)",
    )
