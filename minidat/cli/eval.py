"""`minidat eval`: a run on its own test images, or released weights on ImageNet."""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from minidat.cli import dense
from minidat.cli.class_report import check_folder, print_report
from minidat.cli.flags import (
    add_device,
    add_head_rows,
    add_key,
    add_loops,
    add_model,
    add_protocol,
    add_threads,
    count_or_all,
    head_rows,
    new_command,
    use_loops,
)
from minidat.cli.terminal import Terminal, duration, plural, printable, say
from minidat.cli.weights import is_run, load_run
from minidat.data import imagenet
from minidat.data.decoders import Decoders
from minidat.data.imagenet import ImageFolder
from minidat.fast import loops
from minidat.fast.cuda import cublas
from minidat.metrics.by_class import ByClass
from minidat.released import official
from minidat.training import top_k
from minidat.training.evaluation import evaluate
from minidat.training.feed import default_readers
from minidat.training.included import included, is_included
from minidat.training.parallel import Workers, thread_count
from minidat.training.settings import Settings
from minidat.training.splits import load_split
from minidat.training.tasks import task_of
from minidat.training.tasks.classification import Classification

BATCH = 64  # images of 224 pixels that are decoded and tested at a time
MICRO = 4  # of these, what a CPU thread takes at a time
OF_WEIGHTS = ("model", "head_rows", "data", "protocol", "batch", "key")
"""Flags that only weights without a run need."""


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
    flag(
        "--weights",
        type=Path,
        metavar="FILE",
        help="weights with the released names to test instead, a file of PyTorch or safetensors; or included weights, "
        f"{', '.join(included())}, on the data that they were trained for",
    )
    add_model(command)
    add_head_rows(command)
    add_key(command)
    flag("--data", choices=("imagenet",), help="what to test --weights on (default: imagenet)")
    flag("--data-dir", help="folder with the data (default: the run's); of ImageNet the one that holds val/")
    add_protocol(command)
    flag("--batch", type=int, help=f"images that --weights are tested on at a time (default: {BATCH})")
    flag(
        "--skip-damaged",
        action="store_true",
        default=None,
        help="go on without images that cannot be read, and name them at the end",
    )
    flag(
        "--test-size",
        type=count_or_all,
        metavar="N",
        help="test on so many images, or on all (default: as many as the run was tested on; all for --weights)",
    )
    flag(
        "--out",
        type=Path,
        metavar="DIR",
        help="folder for the pictures, the confusion matrix and the mistakes (default: the run's; none for --weights)",
    )
    add_device(command)
    add_threads(command)
    add_loops(command, "the run's; auto for --weights")
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Test what was named."""
    if (arguments.run_folder is None) == (arguments.weights is None):
        raise ValueError("eval: name either a RUN, or --weights FILE and --data-dir DIR")
    if arguments.weights is not None and is_included(arguments.weights):
        arguments.run_folder, arguments.weights = arguments.weights, None  # they know their data
    check_folder(arguments.out)
    return _run(arguments) if arguments.weights is None else _weights(arguments)


def _run(arguments: argparse.Namespace) -> int:
    surplus = [f"--{name.replace('_', '-')}" for name in OF_WEIGHTS if getattr(arguments, name) is not None]
    if surplus:
        raise ValueError(f"eval RUN knows its model and its data; leave out {', '.join(surplus)}")
    trained = load_run(arguments.run_folder)
    settings = trained.state.settings
    use_loops(arguments, settings.loops, say)
    size = settings.test_size if arguments.test_size is None else _size(arguments.test_size)
    settings = replace(settings, skip_damaged=settings.skip_damaged or bool(arguments.skip_damaged))
    if settings.head is not None:
        if arguments.out is not None:
            raise ValueError(
                f"--out is for pictures of classification, and {arguments.run_folder} has a head; leave it out"
            )
        print(dense.evaluate_run(trained, arguments, size, Progress()) + _other_images(settings, size))
        return 0
    place = replace(settings, data_dir=arguments.data_dir or settings.data_dir, test_size=size)
    decoders = Decoders(default_readers(arguments.device))
    dataset = load_split(place, "test", classes=trained.state.classes, decoders=decoders)
    task, report = task_of(settings), ByClass(trained.state.classes)
    if isinstance(task, Classification):
        task.report = report
    trained.model.to(device=arguments.device)
    progress = Progress()
    with (
        decoders,
        Workers.on(arguments.device, arguments.threads, settings.micro) as workers,
        cublas.precision(settings.precision),
    ):
        result = evaluate(trained.model, dataset, workers, arguments.device, progress, task)
    progress.clear()
    loss = result.loss / result.count
    if not math.isfinite(loss):
        raise ValueError(
            f"{trained.path}: the network's outputs are not finite (loss {loss}), so they mean nothing; its weights are damaged"
        )
    included_weights = is_included(arguments.run_folder)  # their folder is the package's
    named = arguments.run_folder if included_weights else trained.path
    print(
        f"{printable(str(named))}: {settings.model} on {settings.data}, step {trained.state.step:,}\n"
        f"test accuracy {_share(result.correct, result.count)}, loss {loss:.4f}{_other_images(settings, size)}"
    )
    for image in getattr(dataset, "damaged", ()):
        print(f"left out: {printable(image)}")
    if isinstance(task, Classification):
        print_report(report, arguments.out or (Path() if included_weights else trained.path.parent))
    return 0


def _size(given: int | str | None) -> int | None:
    """--test-size as the data sets take it: None for all images."""
    return given if isinstance(given, int) else None


def _other_images(settings: Settings, size: int | None) -> str:
    """A line where the test images are not those of the run, so that the accuracies may differ."""
    if size == settings.test_size:
        return ""
    own = "all test images" if settings.test_size is None else f"the first {plural(settings.test_size, 'test image')}"
    return f"\nThe run itself was tested on {own}: its results may differ."


def _weights(arguments: argparse.Namespace) -> int:
    path, device, batch = arguments.weights, arguments.device, BATCH if arguments.batch is None else arguments.batch
    if is_run(path):
        raise ValueError(f"--weights {path} is a run of `minidat train`; test it with `minidat eval {path}`")
    if arguments.data_dir is None:
        raise ValueError("--weights needs --data-dir: the ImageNet folder that holds val/nXXXXXXXX/*.JPEG")
    if batch < 1:
        raise ValueError(f"batch is {batch}; it must be at least 1")
    model = official.from_file(path, arguments.model, rows=head_rows(arguments.head_rows), key=arguments.key)
    transform = imagenet.transform_for(model.config, arguments.protocol or "released")
    use_loops(arguments, loops.DEFAULT, say)
    size, skip = _size(arguments.test_size), bool(arguments.skip_damaged)
    folder = ImageFolder(arguments.data_dir, transform=transform, size=size, skip_damaged=skip)
    model.to(device=device)
    cores = thread_count("cpu", arguments.threads)
    progress, report = Progress(), ByClass(_names(folder))
    with Workers(1, batch) if device == "gpu" else Workers(cores, MICRO) as workers:
        for so_far in top_k.evaluate(model, folder, workers, device, batch=batch, threads=cores, report=report):
            progress(so_far.count, len(folder), f"top-1 {100 * so_far.top1 / so_far.count:.2f} %")
    progress.clear()
    print(
        f"{printable(str(path))} on {printable(str(folder.folder))}, {model.config.image} pixels, protocol {transform.protocol}\n"
        f"top-1 {_share(so_far.top1, so_far.count)}, top-5 {_share(so_far.top5, so_far.count)}"
    )
    for image in folder.damaged:
        print(f"left out: {printable(image)}")
    print_report(report, arguments.out)
    return 0


def _names(folder: ImageFolder) -> tuple[str, ...]:
    """ImageNet's names for a thousand class folders, else the folders' own."""
    return imagenet.class_names() if len(folder.classes) == 1000 else folder.classes


def _share(correct: int, count: int) -> str:
    return f"{100 * correct / count:.2f} % ({correct:,} of {count:,})"


class Progress:
    """How far a test is: the images so far, their accuracy where it is known, speed and the time left."""

    def __init__(self) -> None:
        self.terminal = Terminal()
        self.begun = self.terminal.printed = time.perf_counter()  # no line before the first ten seconds are over

    def __call__(self, done: int, total: int, accuracy: str = "") -> None:
        pace = (time.perf_counter() - self.begun) / done  # seconds an image
        parts = [(0, f"{done:,}/{total:,} images"), (1, accuracy), (3, f"{1 / max(pace, 1e-9):,.1f} images/s")]
        parts.append((2, f"{duration(pace * (total - done))} left"))
        self.terminal.progress([part for part in parts if part[1]])

    def clear(self) -> None:
        self.terminal.clear()
