"""`minidat bench`"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

from minidat.cli.flags import new_command
from minidat.training.loop import TrainingError
from minidat.training.parallel import available_cores


def add(commands: Any) -> None:
    """The command's flags."""
    command = new_command(
        commands,
        "bench",
        "compare with PyTorch, side by side",
        "Time and memory beside PyTorch, both in one run: the same network, the same weights, gradients compared first. "
        "Needs a checkout of minidat and torch (pip install torch).",
    )
    command.add_argument("--rounds", type=int, default=7, help="interleaved pairs of measurements; the median counts")
    command.add_argument("--threads", type=int, default=available_cores(), help="CPU threads of both")
    command.add_argument("--case", action="append", help="only the cases whose name contains this (may be repeated)")
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the script, which is no part of the package, since it needs PyTorch."""
    script = Path(__file__).resolve().parents[2] / "benchmarks" / "compare.py"
    if not script.exists():
        raise TrainingError(f"bench: {script} is not there; run it from a checkout of minidat (git clone, make test)")
    options: list[Any] = ["--rounds", arguments.rounds, "--threads", arguments.threads]
    for case in arguments.case or []:
        options += ["--case", case]
    return subprocess.run([sys.executable, str(script), *map(str, options)], check=False).returncode
