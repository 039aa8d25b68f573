"""`minidat bench`: the same work in minidat, PyTorch and JAX."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

from minidat.cli.flags import add_device, add_loops, new_command
from minidat.training.loop import TrainingError
from minidat.training.parallel import available_cores


def add(commands: Any) -> None:
    """The command's flags."""
    command = new_command(
        commands,
        "bench",
        "compare with PyTorch and JAX, side by side",
        "Time and memory beside eager PyTorch, torch.compile and JAX, all in one run: the same network, the same weights, "
        "gradients compared first. Needs a checkout of minidat and pip install -e '.[benchmarks]'; a rival that is not "
        "there is left out. Compiling the rivals takes minutes. JAX runs on the CPU alone.",
    )
    add_device(command)
    add_loops(command, "auto")
    command.add_argument("--rounds", type=int, default=7, help="turns of each side; the median counts")
    command.add_argument("--threads", type=int, default=available_cores(), help="CPU threads of all")
    command.add_argument(
        "--precision", choices=("fp32", "tf32"), default="fp32", help="of products on a GPU, on all sides"
    )
    command.add_argument("--case", action="append", help="only the cases whose name contains this (may be repeated)")
    command.add_argument("--rival", action="append", help="only beside this: torch, compiled, jax (may be repeated)")
    command.add_argument("--page", help="also write the table into this page, between its marks")
    command.add_argument(
        "--cifar", metavar="DIR", help="instead, train on the CIFAR-10 in DIR until the accuracy is reached"
    )
    command.add_argument("--accuracy", type=float, default=80.0, help="with --cifar: test accuracy in per cent")
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run a script of benchmarks/, which needs other frameworks and so is not in the package."""
    name = "compare.py" if arguments.cifar is None else "cifar.py"
    script = Path(__file__).resolve().parents[2] / "benchmarks" / name
    if not script.exists():
        raise TrainingError(f"bench: {script} does not exist; run it from a checkout of minidat")
    options: list[Any] = ["--device", arguments.device]
    if arguments.cifar is None:
        options += ["--rounds", arguments.rounds, "--threads", arguments.threads]
        options += ["--loops", arguments.loops] if arguments.loops else []
        options += ["--precision", arguments.precision] if arguments.precision != "fp32" else []
        options += ["--page", arguments.page] if arguments.page else []
        for name in ("case", "rival"):
            for value in getattr(arguments, name) or []:
                options += [f"--{name}", value]
    else:
        options += ["--data-dir", arguments.cifar, "--accuracy", arguments.accuracy]
    return subprocess.run([sys.executable, str(script), *map(str, options)], check=False).returncode
