"""`minidat predict`: what is in an image, and where the network's deformable points went."""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from minidat.cli import classifier, dense
from minidat.cli.flags import add_device, add_head_rows, add_key, add_model, head_rows, new_command
from minidat.cli.image_files import images_of, pictures_of
from minidat.cli.photograph import Letterbox
from minidat.cli.terminal import printable, say
from minidat.cli.weights import TrainedRun, is_run, load_run
from minidat.data.dataset import DataError
from minidat.data.imagenet import class_names, transform_for
from minidat.data.images import FORMATS, MEAN, PROTOCOLS, STD
from minidat.dense import HEADS
from minidat.fast import loops
from minidat.released import official
from minidat.training.included import FIRST, included, is_included

LETTERBOX = "letterbox"
TOP, SCORE = 5, 0.5
FLAGS = {"top": "classification", "protocol": "classification", "score": "detection"}  # and what they are for


def add(commands: Any) -> None:
    """The command's flags."""
    command = new_command(
        commands,
        "predict",
        "what is in images, and where the deformable points went",
        "Classify images of any size, or, with a run that has a head, find their objects or segment them. Prints what was found, "
        "and draws it with the points that the network's last deformable blocks read. An image that cannot be read does not stop "
        "the others.",
    )
    flag = command.add_argument
    flag(
        "images", nargs="+", type=Path, metavar="IMAGE", help=f"image files ({', '.join(FORMATS)}), or folders of them"
    )
    flag(
        "--weights",
        type=Path,
        metavar="FILE|RUN",
        help="weights with the released names (a file of PyTorch or safetensors), the folder of a run of `minidat train`, or "
        f"included weights: {', '.join(included())} (default: {FIRST})",
    )
    add_model(command)
    add_head_rows(command)
    add_key(command)
    flag("--top", type=int, help=f"of a classifier: how many classes to print (default: {TOP})")
    flag("--score", type=float, help=f"of a detector: the least score of an object that is shown (default: {SCORE})")
    flag(
        "--out",
        type=Path,
        help="the picture, a PNG; or a folder for the pictures (default: IMAGE's name with -points.png, in this folder)",
    )
    flag(
        "--protocol",
        choices=(LETTERBOX, *PROTOCOLS),
        help="of a classifier, how images become squares: letterbox shows the whole image at its own aspect ratio; released "
        "resizes both sides and crops, as DAT's code does; short-side keeps the aspect ratio and crops; whole resizes both "
        f"sides (default: {LETTERBOX})",
    )
    flag("--classes", type=Path, metavar="FILE", help="names of the classes, one a line, in the order of the labels")
    add_device(command)
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """A block of lines and a picture for each image; a line on stderr for each that cannot be read."""
    if arguments.top is not None and arguments.top < 1:
        raise ValueError(f"top is {arguments.top}; it must be at least 1")
    if arguments.score is not None and not 0 <= arguments.score <= 1:
        raise ValueError(f"score is {arguments.score}; it must be from 0 to 1")
    images = images_of(arguments.images)
    pictures = pictures_of(images, arguments.out)
    viewer, failed = _viewer(arguments), 0
    for path, picture in zip(images, pictures, strict=True):
        try:
            pixels = viewer.read(path)
        except DataError as error:
            failed += 1
            print(f"minidat: {printable(str(error))}", file=sys.stderr, flush=True)
            continue
        for text in viewer.tell(path, pixels, picture):
            print(text, flush=True)
    return 1 if failed else 0


def _viewer(arguments: argparse.Namespace) -> classifier.Viewer | dense.Viewer:
    """The network that --weights names."""
    trained = _run_of(arguments)
    head = None if trained is None else trained.state.settings.head
    kind = "classification" if head is None else HEADS[head].kind
    for name, wanted in FLAGS.items():
        if getattr(arguments, name) is not None and kind != wanted:
            raise ValueError(f"--{name} is for {wanted}, and {arguments.weights or FIRST} is for {kind}; leave it out")
    if trained is None or head is None:
        return _classifier(arguments, trained)
    classes = trained.state.classes
    names = _names(len(classes), arguments.classes, classes)
    return dense.Viewer.of(trained, names, arguments.device, SCORE if arguments.score is None else arguments.score)


def _run_of(arguments: argparse.Namespace) -> TrainedRun | None:
    """The run that --weights names, or the included one; None where it names a file of weights."""
    path = arguments.weights or Path(FIRST)
    if not is_run(path):
        return None
    for flag, value in (("--model", arguments.model), ("--head-rows", arguments.head_rows), ("--key", arguments.key)):
        if value is not None:
            raise ValueError(f"--weights {path} is a run and knows its model; leave out {flag}")
    trained = load_run(path)
    if arguments.weights is None:
        names = textwrap.fill(", ".join(trained.state.classes), 78, initial_indent="  ", subsequent_indent="  ")
        print(f"no --weights: {FIRST}, a small network that comes with minidat, knows only\n{names}")
    if arguments.device == "cpu" and not is_included(path):  # those are rounded, and compiling takes longer than asking
        loops.use(trained.state.settings.loops, say)
    return trained


def _classifier(arguments: argparse.Namespace, trained: TrainedRun | None) -> classifier.Viewer:
    """The network of a run or of released weights, with its way to take images."""
    path, protocol = arguments.weights or Path(FIRST), arguments.protocol or LETTERBOX
    if trained is not None:
        model, (mean, std), names = trained.model, trained.colours, trained.state.classes
    else:
        rows = head_rows(arguments.head_rows)
        model = official.from_file(path, arguments.model, rows=rows, key=arguments.key)
        mean, std, names = MEAN, STD, None
    side = model.config.image
    transform = Letterbox(side, mean) if protocol == LETTERBOX else transform_for(model.config, protocol)
    named = _names(model.config.classes, arguments.classes, names)
    model.to(device=arguments.device)
    return classifier.Viewer(model, transform, mean, std, named, arguments.device, arguments.top or TOP)


def _names(count: int, file: Path | None, known: Sequence[str] | None) -> Sequence[str]:
    """The user's names, those that the run knows, ImageNet's for a thousand classes, or numbers."""
    if file is None:
        names = known or (class_names() if count == 1000 else [f"class {i}" for i in range(count)])
        return [printable(str(name)) for name in names]
    try:
        names = [printable(line.strip()) for line in file.read_text("utf-8-sig").split("\n") if line.strip()]
    except UnicodeDecodeError as error:
        raise ValueError(f"--classes {file}: is not a text file in UTF-8") from error
    if len(names) != count:
        raise ValueError(f"--classes {file}: has {len(names)} names, the model {count} classes")
    return names
