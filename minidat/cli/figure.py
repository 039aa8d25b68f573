"""`minidat figure`: pictures that compare the attentions, and of what a trained network read."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from minidat.cli import looking
from minidat.cli.flags import new_command
from minidat.cli.terminal import printable


def add(commands: Any) -> None:
    """A command for each picture."""
    command = new_command(
        commands,
        "figure",
        "draw a picture: what a network read in a photograph, or how the attentions compare",
        "Pictures of what a trained network read in a photograph, and pictures that compare the attentions.",
    )
    pictures = command.add_subparsers(title="pictures", metavar="PICTURE")
    for name, draw, summary in (
        ("cost", _cost, "multiply-adds and time against the size of the map, in about half a minute"),
        ("receptive-fields", _receptive_fields, "what one query sees under each attention, from gradients"),
    ):
        picture = new_command(pictures, name, summary, f"{summary[0].upper()}{summary[1:]}.")
        out = Path(f"{name}.png")
        picture.add_argument("--out", type=Path, default=out, metavar="FILE", help="the picture, a PNG, in this folder")
        picture.add_argument("--seed", type=int, default=0, help="of all random weights")
        picture.set_defaults(run=run, draw=draw)
    looking.add(pictures)


def run(arguments: argparse.Namespace) -> int:
    """Draw the picture and say where it is."""
    out: Path = arguments.out
    if out.suffix.lower() != ".png":
        raise ValueError(f"--out {out}: the picture is a PNG; give it a name that ends in .png")
    if not out.parent.is_dir():
        raise ValueError(f"--out {out}: the folder {out.parent} does not exist")
    if arguments.seed < 0:
        raise ValueError(f"--seed is {arguments.seed}; it must be at least 0")
    arguments.draw(out, arguments.seed)
    print(printable(str(out)))
    return 0


def _cost(out: Path, seed: int) -> None:
    from minidat.analysis.cost_figure import cost_figure  # matplotlib takes a moment to import

    cost_figure(out, seed=seed)


def _receptive_fields(out: Path, seed: int) -> None:
    from minidat.analysis.receptive_figure import receptive_fields_figure

    receptive_fields_figure(out, seed=seed)
