"""`minidat export`: a trained network as a file with the released names, for PyTorch and the released code."""

from __future__ import annotations

import argparse
import textwrap
from pathlib import Path
from typing import Any

from minidat.cli.flags import new_command
from minidat.cli.terminal import plural, printable
from minidat.cli.weights import load_run
from minidat.models import zoo
from minidat.released import official
from minidat.released.recognise import recognise
from minidat.training import checkpoint

SUFFIXES = (".pth", ".safetensors")


def add(commands: Any) -> None:
    """The command's flags."""
    command = new_command(
        commands,
        "export",
        "write a trained network with the released names",
        "Write a run's network as a .pth that PyTorch and the released code load, or as a .safetensors. The best weights, or "
        "those of the checkpoint that is named.",
    )
    command.add_argument("run_folder", type=Path, metavar="RUN", help="folder of a run, or one of its checkpoints")
    command.add_argument("out", type=Path, metavar="OUT", help=f"the file: its name ends in {' or '.join(SUFFIXES)}")
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Write the file, and say how to read it."""
    out: Path = arguments.out
    if out.suffix.lower() not in SUFFIXES:
        raise ValueError(f"export {out}: the name must end in {' or '.join(SUFFIXES)}")
    if checkpoint.is_ours(out) or out.resolve() in _checkpoints(arguments.run_folder):  # damaged ones too
        raise ValueError(f"export {out}: that is a checkpoint of a run; give the file another name")
    trained = load_run(arguments.run_folder)
    model, settings = trained.model, trained.state.settings
    if settings.head is not None:
        raise ValueError(
            f"export {arguments.run_folder}: it has the head {settings.head}; only classifiers are written here"
        )
    try:
        official.save(model, out)
    except ValueError as error:
        raise ValueError(f"export {arguments.run_folder}: {settings.model}: {error}") from error
    count = sum(t.data.size for t in model.parameters().values())
    print(f"{printable(str(out))}: {settings.model}, {plural(count, 'parameter')}, in the released layout")
    names = f"classes, which the file does not name: {', '.join(map(printable, trained.state.classes))}"
    print(textwrap.shorten(names, 79, placeholder=" …"))
    if model.config.convention == "paper":
        print(
            "The released code places points otherwise than this network, which follows\n"
            "the paper's text: its outputs there will differ."
        )
    if settings.changes:
        print(f"The network was changed: {' '.join(settings.changes)}; what reads the file must know.")
    elif _needs_name(model, settings.model):
        print(f"It is not recognised by its names: read it with --model {settings.model}")
    return 0


def _checkpoints(run_folder: Path) -> list[Path]:
    return [path.resolve() for path in run_folder.glob("*.safetensors")] if run_folder.is_dir() else []


def _needs_name(model: Any, name: str) -> bool:
    try:
        return zoo.config(recognise(official.to_official(model))) != zoo.config(name)
    except ValueError:
        return True
