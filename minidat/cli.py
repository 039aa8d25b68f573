"""The command `minidat`: train, eval, info, bench."""

from __future__ import annotations

import argparse
import dataclasses
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from minidat import __version__
from minidat.autograd.backend import DEVICES, DeviceError
from minidat.models import MODELS, create
from minidat.training import checkpoint
from minidat.training.augment import RECIPES
from minidat.training.checkpoint import CheckpointError
from minidat.training.data import DATASETS, DataError, load
from minidat.training.loop import BEST, LAST, Interrupted, Run, TrainingError, evaluate
from minidat.training.parallel import Workers, available_cores
from minidat.training.settings import DEFAULTS, Settings

RUNS = Path("runs")
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
    except (CheckpointError, DataError, DeviceError, TrainingError, ValueError, OSError) as error:
        print(f"minidat: {error}", file=sys.stderr)
        return FAILED


def parser() -> argparse.ArgumentParser:
    """All commands and flags, each with its help."""
    top = argparse.ArgumentParser(
        prog="minidat", description="The Deformable Attention Transformer, from scratch on NumPy and CuPy."
    )
    top.add_argument("--version", action="version", version=f"minidat {__version__}")
    commands = top.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_train(commands.add_parser("train", help="train a network", formatter_class=_Help))
    _add_eval(commands.add_parser("eval", help="test a trained network", formatter_class=_Help))
    _add_info(
        commands.add_parser("info", help="shapes, parameters and multiply-adds of a network", formatter_class=_Help)
    )
    _add_bench(commands.add_parser("bench", help="compare with PyTorch, side by side", formatter_class=_Help))
    return top


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Shows defaults, except where there is none to show."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default in (None, False) else super()._get_help_string(action)


def _add_device(command: argparse.ArgumentParser) -> None:
    command.add_argument("--device", choices=DEVICES, default="cpu", help="where to compute; gpu needs CuPy")
    command.add_argument("--threads", type=int, help="CPU threads (default: all cores)")


def _add_train(command: argparse.ArgumentParser) -> None:
    command.description = (
        "Train a network. Without arguments: a small DAT on the built-in data set, in about a minute and a half. Ctrl-C saves a "
        "checkpoint, and --resume continues from it."
    )
    default = Settings()
    add = command.add_argument
    names = ", ".join(MODELS)
    add(
        "model",
        nargs="?",
        metavar="MODEL",
        choices=MODELS,
        help=f"{names} (default: {default.model}; dat_cifar for CIFAR)",
    )
    add(
        "--data", choices=DATASETS, default=default.data, help="data set; shapes is drawn on the fly and needs no files"
    )
    add("--data-dir", help="folder with the CIFAR archive or its unpacked folder (default: data)")
    add("--download", action="store_true", help="fetch the archive into --data-dir where it is not there")
    add("--out", type=Path, help="folder for log, curves and checkpoints (default: a new one under runs/)")
    add("--resume", type=Path, metavar="RUN", help="continue the run in this folder, with its own settings")
    per_data = "; ".join(f"{d}: {v['epochs']}" for d, v in DEFAULTS.items() if "epochs" in v)
    add("--epochs", type=int, help=f"passes over the data (default: {default.epochs}; {per_data})")
    add("--batch", type=int, help=f"images a step (default: {default.batch})")
    add("--lr", type=float, help=f"highest learning rate (default: {default.lr}; 0.001 for CIFAR)")
    add("--minimum-lr", type=float, help=f"learning rate at the end of the cosine (default: {default.minimum_lr})")
    add("--warmup", type=float, help=f"epochs of linear warm-up (default: {default.warmup})")
    add("--weight-decay", type=float, help=f"AdamW's weight decay (default: {default.weight_decay})")
    add("--clip", type=float, help=f"largest norm of the gradient (default: {default.clip})")
    add("--smoothing", type=float, help=f"label smoothing (default: {default.smoothing})")
    add("--drop-path", type=float, help="drop path rate of the last block (default: the network's own)")
    add("--recipe", choices=RECIPES, help=f"augmentation (default: {default.recipe}; light for CIFAR)")
    add("--seed", type=int, help=f"of weights, data order and noise (default: {default.seed})")
    add("--train-size", type=int, help="train on so many images (default: all)")
    add("--test-size", type=int, help="test on so many images (default: all)")
    add("--micro", type=int, help=f"images a thread takes at a time (default: {default.micro})")
    _add_device(command)
    command.set_defaults(run=_train)


def _train(arguments: argparse.Namespace) -> int:
    """`minidat train`"""
    from minidat import report  # draws with matplotlib, which takes a moment to import

    given = {f.name: getattr(arguments, f.name) for f in dataclasses.fields(Settings)}
    given = {name: value for name, value in given.items() if value is not None}
    place = {"device": arguments.device, "threads": arguments.threads}
    if arguments.resume:
        for name in ("data", "data_dir"):
            given.pop(name, None)
        if given or arguments.out:
            named = ", ".join(f"--{name.replace('_', '-')}" for name in given) or "--out"
            raise TrainingError(f"--resume continues a run with its own settings; leave out {named}")
        run = Run.resume(arguments.resume, data_dir=arguments.data_dir, **place)
    else:
        settings = Settings(**DEFAULTS[arguments.data] | given)
        if arguments.download:
            load(settings.data, "train", data_dir=settings.data_dir, download=True)
        run = Run.start(settings, arguments.out or _new_folder(settings), **place)
    console = report.Console(run)
    console.begin()
    try:
        run.train(console)
    except Interrupted:
        console.interrupted()
        raise
    console.end()
    return 0


def _new_folder(settings: Settings) -> Path:
    """runs/MODEL-DATA, or the first of runs/MODEL-DATA-2, -3, … that is not there."""
    base = RUNS / f"{settings.model}-{settings.data}"
    candidates = [base, *(base.with_name(f"{base.name}-{i}") for i in range(2, 1000))]
    return next(folder for folder in candidates if not folder.exists())


def _add_eval(command: argparse.ArgumentParser) -> None:
    command.description = "Test a network on the test images of the data set it was trained on."
    command.add_argument("run_folder", type=Path, metavar="RUN", help="folder of a run, or one of its checkpoints")
    command.add_argument("--data-dir", help="folder with the data (default: the run's)")
    command.add_argument("--test-size", type=int, help="test on so many images (default: all)")
    _add_device(command)
    command.set_defaults(run=_eval)


def _eval(arguments: argparse.Namespace) -> int:
    """`minidat eval`"""
    path = arguments.run_folder
    if path.is_dir():
        path = path / BEST if (path / BEST).exists() else path / LAST
    arrays, meta = checkpoint.load(path)
    if "settings" not in meta:
        raise CheckpointError(path, "it holds no settings, so there is no telling which model it is")
    settings = Settings.from_json(meta["settings"])
    dataset = load(
        settings.data,
        "test",
        data_dir=arguments.data_dir or settings.data_dir,
        seed=settings.seed,
        size=arguments.test_size,
    )
    model = create(settings.model, classes=len(dataset.classes))
    prefix = "parameters/"
    weights = {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
    expected = {name: t.shape for name, t in model.parameters().items()}
    checkpoint.check_names(expected, {name: array.shape for name, array in weights.items()}, path)
    model.load(weights)
    model.to(device=arguments.device)
    threads = 1 if arguments.device == "gpu" else arguments.threads or available_cores()
    with Workers(threads, settings.micro) as workers:
        result = evaluate(model, dataset, workers, arguments.device)
    print(
        f"{path}: {settings.model} on {settings.data}, step {meta['step']}\n"
        f"test accuracy {100 * result.correct / result.count:.2f} % ({result.correct:,} of {result.count:,}), "
        f"loss {result.loss / result.count:.4f}"
    )
    return 0


def _add_info(command: argparse.ArgumentParser) -> None:
    command.description = "A network stage by stage: shapes, parameters and multiply-adds for one image."
    command.add_argument("model", metavar="MODEL", choices=MODELS, help=", ".join(MODELS))
    command.add_argument("--classes", type=int, help="number of classes (default: the network's own)")
    command.add_argument(
        "--convention",
        choices=("macs", "paper"),
        default="macs",
        help="what counts: multiply-adds alone, or as the paper's FLOPs (also 5 a layer norm element, 4 a sampled one)",
    )
    command.set_defaults(run=_info)


def _info(arguments: argparse.Namespace) -> int:
    """`minidat info`"""
    from minidat.analysis.cost import table

    print(table(create(arguments.model, classes=arguments.classes), convention=arguments.convention))
    return 0


def _add_bench(command: argparse.ArgumentParser) -> None:
    command.description = (
        "Time and memory beside PyTorch, both in one run: the same network, the same weights, gradients compared first. "
        "Needs a checkout of minidat and torch (pip install torch)."
    )
    command.add_argument("--rounds", type=int, default=7, help="interleaved pairs of measurements; the median counts")
    command.add_argument("--threads", type=int, default=available_cores(), help="CPU threads of both")
    command.add_argument("--case", action="append", help="only the cases whose name contains this (may be repeated)")
    command.set_defaults(run=_bench)


def _bench(arguments: argparse.Namespace) -> int:
    """`minidat bench`: the script is no part of the package, since it needs PyTorch."""
    script = Path(__file__).resolve().parent.parent / "benchmarks" / "compare.py"
    if not script.exists():
        raise TrainingError(f"bench: {script} is not there; run it from a checkout of minidat (git clone, make test)")
    options: list[Any] = ["--rounds", arguments.rounds, "--threads", arguments.threads]
    for case in arguments.case or []:
        options += ["--case", case]
    return subprocess.run([sys.executable, str(script), *map(str, options)], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
