"""`minidat info`"""

from __future__ import annotations

import argparse
from typing import Any

from minidat.cli.flags import new_command
from minidat.models import MODELS, zoo


def add(commands: Any) -> None:
    """The command's flags."""
    command = new_command(
        commands,
        "info",
        "shapes, parameters and multiply-adds of a network, beside others if asked",
        "A network stage by stage: shapes, parameters and multiply-adds for one image.",
    )
    flag = command.add_argument
    flag("model", metavar="MODEL", choices=MODELS, help=", ".join(MODELS))
    flag(
        "--against",
        nargs="+",
        default=[],
        metavar="OTHER",
        choices=MODELS,
        help="networks to put beside it, stage by stage",
    )
    flag("--image", type=int, metavar="SIDE", help="count for square images of this side (default: the network's own)")
    flag("--classes", type=int, help="number of classes (default: the network's own)")
    flag("--detail", action="store_true", help="also what the multiply-adds of each kind of block are spent on")
    flag(
        "--convention",
        choices=("macs", "paper"),
        default="macs",
        help="what counts: multiply-adds alone, or as the paper's FLOPs (also 5 a layer norm element, 4 a sampled one)",
    )
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the table."""
    from minidat.analysis.skeleton import skeleton
    from minidat.analysis.tables import compare, table

    if arguments.detail and arguments.against:
        raise ValueError("--detail is of one network; leave out --against, or --detail")
    if arguments.classes is not None and arguments.classes < 1:
        raise ValueError(f"--classes is {arguments.classes}; it must be at least 1")
    names = dict.fromkeys([arguments.model, *arguments.against])  # each once, in this order
    models = {name: skeleton(zoo.config(name, classes=arguments.classes)) for name in names}
    if arguments.against:
        print(compare(models, arguments.convention, image=arguments.image))
    else:
        print(table(models[arguments.model], arguments.convention, image=arguments.image, detail=arguments.detail))
    return 0
