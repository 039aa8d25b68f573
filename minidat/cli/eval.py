"""`minidat eval`: a run on its own test images, or released weights on ImageNet."""

from __future__ import annotations

import argparse
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

from minidat.cli.flags import add_device, add_head_rows, add_model, add_protocol, add_threads, head_rows, new_command
from minidat.cli.weights import is_run, load_run
from minidat.data import imagenet, load
from minidat.data.imagenet import ImageFolder
from minidat.fast.cuda import cublas
from minidat.metrics import top_k
from minidat.metrics.top_k import Accuracy
from minidat.released import official
from minidat.training.evaluation import evaluate
from minidat.training.parallel import Workers, available_cores

BATCH = 64  # images of 224 pixels that are decoded and tested at a time
MICRO = 4  # of these, what a CPU thread takes at a time
LINE_SECONDS = 10.0  # between lines where the output is no terminal
OF_WEIGHTS = ("model", "head_rows", "data", "protocol", "batch")  # flags that only weights without a run need


def add(commands: Any) -> None:
    """The command's flags."""
    command = new_command(
        commands,
        "eval",
        "test a trained network",
        "Test a network: a run on the test images of the data set it was trained on, or, with --weights, released weights on "
        "ImageNet's validation images.",
    )
    flag = command.add_argument
    flag("run_folder", nargs="?", type=Path, metavar="RUN", help="folder of a run, or one of its checkpoints")
    flag("--weights", type=Path, metavar="FILE", help="released weights to test instead: a .pth or .safetensors file")
    add_model(command)
    add_head_rows(command)
    flag("--data", choices=("imagenet",), help="what to test --weights on (default: imagenet)")
    flag("--data-dir", help="folder with the data (default: the run's); of ImageNet the one that holds val/")
    add_protocol(command)
    flag("--batch", type=int, help=f"images that --weights are tested on at a time (default: {BATCH})")
    flag("--test-size", type=int, help="test on so many images (default: all)")
    add_device(command)
    add_threads(command)
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Test what was named."""
    if (arguments.run_folder is None) == (arguments.weights is None):
        raise ValueError("eval: name either a RUN, or --weights FILE and --data-dir DIR")
    return _run(arguments) if arguments.weights is None else _weights(arguments)


def _run(arguments: argparse.Namespace) -> int:
    surplus = [f"--{name.replace('_', '-')}" for name in OF_WEIGHTS if getattr(arguments, name) is not None]
    if surplus:
        raise ValueError(f"eval RUN knows its model and its data; leave out {', '.join(surplus)}")
    trained = load_run(arguments.run_folder)
    settings = trained.settings
    dataset = load(
        settings.data,
        "test",
        data_dir=arguments.data_dir or settings.data_dir,
        seed=settings.seed,
        size=arguments.test_size,
    )
    trained.model.to(device=arguments.device)
    with (
        Workers.on(arguments.device, arguments.threads, settings.micro) as workers,
        cublas.precision(settings.precision),
    ):
        result = evaluate(trained.model, dataset, workers, arguments.device)
    print(
        f"{trained.path}: {settings.model} on {settings.data}, step {trained.meta['step']}\n"
        f"test accuracy {100 * result.correct / result.count:.2f} % ({result.correct:,} of {result.count:,}), "
        f"loss {result.loss / result.count:.4f}"
    )
    return 0


def _weights(arguments: argparse.Namespace) -> int:
    path, device, batch = arguments.weights, arguments.device, BATCH if arguments.batch is None else arguments.batch
    if is_run(path):
        raise ValueError(f"--weights {path} is a run of `minidat train`; test it with `minidat eval {path}`")
    if arguments.data_dir is None:
        raise ValueError("--weights needs --data-dir: the ImageNet folder that holds val/nXXXXXXXX/*.JPEG")
    if batch < 1:
        raise ValueError(f"batch is {batch}; it must be at least 1")
    model = official.from_file(path, arguments.model, rows=head_rows(arguments.head_rows))
    transform = imagenet.transform_for(model.config, arguments.protocol or "released")
    folder = ImageFolder(arguments.data_dir, transform=transform, size=arguments.test_size)
    model.to(device=device)
    cores = arguments.threads or available_cores()
    progress = _Progress(len(folder))
    with Workers(1, batch) if device == "gpu" else Workers(cores, MICRO) as workers:
        for so_far in top_k.evaluate(model, folder, workers, device, batch=batch, threads=cores):
            progress(so_far)
    progress.clear()
    print(
        f"{path} on {folder.folder}, {model.config.image} pixels, protocol {transform.protocol}\n"
        f"top-1 {_share(so_far.top1, so_far.count)}, top-5 {_share(so_far.top5, so_far.count)}"
    )
    return 0


def _share(correct: int, count: int) -> str:
    return f"{100 * correct / count:.2f} % ({correct:,} of {count:,})"


class _Progress:
    """How far the test is: on a terminal one line that is written over, else a line now and then."""

    def __init__(self, total: int):
        self.total, self.live = total, sys.stdout.isatty()
        self.begun = self.printed = time.perf_counter()

    def __call__(self, so_far: Accuracy) -> None:
        now = time.perf_counter()
        if not self.live and now - self.printed < LINE_SECONDS:
            return
        self.printed = now
        pace = (now - self.begun) / so_far.count
        text = (
            f"{so_far.count:,}/{self.total:,} images  top-1 {100 * so_far.top1 / so_far.count:.2f} %  "
            f"{1 / pace:,.1f} images/s  {timedelta(seconds=round(pace * (self.total - so_far.count)))} left"
        )
        print(f"\r\x1b[K{text}" if self.live else text, end="" if self.live else "\n", flush=True)

    def clear(self) -> None:
        if self.live:
            print("\r\x1b[K", end="")
