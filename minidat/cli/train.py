"""`minidat train`"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

from minidat.cli.flags import add_compiled, add_device, add_threads, check_compiled, new_command
from minidat.data import DATASETS, load
from minidat.data.augment import RECIPES
from minidat.fast import numba as compiled
from minidat.fast.cuda.cublas import PRECISIONS
from minidat.models import MODELS
from minidat.training.loop import Interrupted, Run, TrainingError
from minidat.training.settings import DEFAULTS, Settings

RUNS = Path("runs")


def add(commands: Any) -> None:
    """The command's flags."""
    command = new_command(
        commands,
        "train",
        "train a network",
        "Train a network. Without arguments: a small DAT on the built-in data set, in about a minute and a half. Ctrl-C saves a "
        "checkpoint, and --resume continues from it.",
    )
    default = Settings()
    flag = command.add_argument
    names = ", ".join(MODELS)
    flag(
        "model",
        nargs="?",
        metavar="MODEL",
        choices=MODELS,
        help=f"{names} (default: {default.model}; dat_cifar for CIFAR)",
    )
    flag(
        "--data", choices=DATASETS, default=default.data, help="data set; shapes is drawn on the fly and needs no files"
    )
    flag("--data-dir", help="folder with the CIFAR archive or its unpacked folder (default: data)")
    flag("--download", action="store_true", help="fetch the archive into --data-dir where it is not there")
    flag("--out", type=Path, help="folder for log, curves and checkpoints (default: a new one under runs/)")
    flag("--resume", type=Path, metavar="RUN", help="continue the run in this folder, with its own settings")
    per_data = "; ".join(f"{d}: {v['epochs']}" for d, v in DEFAULTS.items() if "epochs" in v)
    flag("--epochs", type=int, help=f"passes over the data (default: {default.epochs}; {per_data})")
    flag("--batch", type=int, help=f"images a step (default: {default.batch})")
    flag("--lr", type=float, help=f"highest learning rate (default: {default.lr}; 0.001 for CIFAR)")
    flag("--minimum-lr", type=float, help=f"learning rate at the end of the cosine (default: {default.minimum_lr})")
    flag("--warmup", type=float, help=f"epochs of linear warm-up (default: {default.warmup})")
    flag("--weight-decay", type=float, help=f"AdamW's weight decay (default: {default.weight_decay})")
    flag("--clip", type=float, help=f"largest norm of the gradient, 0 for no clipping (default: {default.clip})")
    flag("--smoothing", type=float, help=f"label smoothing (default: {default.smoothing})")
    flag("--drop-path", type=float, help="drop path rate of the last block (default: the network's own)")
    flag("--recipe", choices=RECIPES, help=f"augmentation (default: {default.recipe}; light for CIFAR)")
    flag("--seed", type=int, help=f"of weights, data order and noise (default: {default.seed})")
    flag("--train-size", type=int, help="train on so many images (default: all)")
    flag("--test-size", type=int, help="test on so many images (default: all)")
    flag(
        "--validation",
        type=float,
        metavar="SHARE",
        help="share of the training images held out, to choose the best epoch (default: 0, which chooses it on the test images; "
        "0.1 for CIFAR)",
    )
    flag("--micro", type=int, help=f"images a thread takes at a time (default: {default.micro})")
    flag(
        "--precision",
        choices=PRECISIONS,
        help=f"what a GPU rounds the factors of products to; weights and sums stay fp32 (default: {default.precision})",
    )
    add_device(command)
    flag(
        "--no-graph",
        action="store_true",
        help="on a GPU: launch every kernel by itself; the results are the same, later",
    )
    add_threads(command)
    add_compiled(command)
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Train, or continue to train, and report."""
    from minidat.cli import console as report  # draws with matplotlib, which takes a moment to import

    check_compiled(arguments)
    if arguments.compiled:
        compiled.install(print)
    given = {f.name: getattr(arguments, f.name) for f in dataclasses.fields(Settings)}
    given = {name: value for name, value in given.items() if value is not None}
    place = {"device": arguments.device, "threads": arguments.threads, "graph": not arguments.no_graph}
    if arguments.resume:
        for name in ("data", "data_dir"):
            given.pop(name, None)
        if given or arguments.out:
            named = ", ".join(f"--{name.replace('_', '-')}" for name in given) or "--out"
            raise TrainingError(f"--resume continues a run with its own settings; leave out {named}")
        training = Run.resume(arguments.resume, data_dir=arguments.data_dir, **place)
    else:
        settings = Settings(**DEFAULTS[arguments.data] | given)
        if arguments.download:
            load(settings.data, "train", data_dir=settings.data_dir, download=True)
        folder = arguments.out or RUNS / f"{settings.model}-{settings.data}"
        training = Run.start(settings, folder, numbered=arguments.out is None, **place)
    console = report.Console(training)
    console.begin()
    try:
        training.train(console)
    except Interrupted:
        console.interrupted()
        raise
    console.end()
    return 0
