"""`minidat predict`: what is in an image, and where the network's deformable points went."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from minidat import ops
from minidat.autograd import Tensor, no_grad
from minidat.autograd.backend import asnumpy, to_device
from minidat.cli.flags import add_device, add_head_rows, add_model, add_protocol, head_rows, new_command
from minidat.cli.weights import is_run, load_run
from minidat.data.augment import normalise
from minidat.data.imagenet import class_names, transform_for
from minidat.data.images import MEAN, STD, Transform, read
from minidat.models import Pyramid
from minidat.released import official

PICTURE_STAGES = 2  # the last ones with deformable blocks


def add(commands: Any) -> None:
    """The command's flags."""
    command = new_command(
        commands,
        "predict",
        "classify images and draw the deformable points",
        "Classify images of any size. Prints the most probable classes, and draws the image as the network saw it with the "
        "points that its last deformable blocks read.",
    )
    flag = command.add_argument
    flag("images", nargs="+", type=Path, metavar="IMAGE", help="JPEG, PNG or another file that Pillow reads")
    flag(
        "--weights",
        type=Path,
        required=True,
        metavar="FILE",
        help="released weights (.pth or .safetensors), or the folder of a run of `minidat train`",
    )
    add_model(command)
    add_head_rows(command)
    flag("--top", type=int, default=5, help="how many classes to print")
    flag("--out", type=Path, help="the picture, a PNG (default: IMAGE's name with -points.png, in this folder)")
    add_protocol(command)
    flag("--classes", type=Path, metavar="FILE", help="names of the classes, one a line, in the order of the labels")
    add_device(command)
    command.set_defaults(run=run)


@dataclass(frozen=True)
class _Classifier:
    """A network with all that is between an image file and names."""

    model: Pyramid
    transform: Transform
    mean: tuple[float, ...]
    std: tuple[float, ...]
    names: Sequence[str]


def run(arguments: argparse.Namespace) -> int:
    """One block of lines and one picture for each image."""
    if arguments.top < 1:
        raise ValueError(f"top is {arguments.top}; it must be at least 1")
    pictures = _pictures(arguments.images, arguments.out)
    classifier = _classifier(arguments)
    images = [classifier.transform(read(path, upright=True)) for path in arguments.images]  # (S, S, 3) each
    classifier.model.to(device=arguments.device)
    for path, pixels, picture in zip(arguments.images, images, pictures, strict=True):
        probabilities, records = _classify(classifier, pixels, arguments.device)
        best = np.argsort(-probabilities, kind="stable")[: arguments.top]
        named = [(classifier.names[i], float(probabilities[i])) for i in best]
        print(f"{path}\n{_table(named)}")
        print(f"  {_draw(pixels, records, named, picture)}", flush=True)
    return 0


def _pictures(images: Sequence[Path], out: Path | None) -> list[Path]:
    """Where each image's picture goes: never over an image, nor over another picture."""
    if out is not None and len(images) > 1:
        raise ValueError(f"--out {out} is one picture, and there are {len(images)} images; leave it out")
    pictures = [Path(f"{path.stem}-points.png") for path in images] if out is None else [out]
    taken = {path.resolve() for path in images}
    for picture in pictures:
        if picture.suffix.lower() != ".png":
            raise ValueError(f"--out {picture}: the picture is a PNG; give it a name that ends in .png")
        if not picture.parent.is_dir():
            raise ValueError(f"--out {picture}: the folder {picture.parent} does not exist")
        if picture.resolve() in taken:
            raise ValueError(
                f"picture {picture} would overwrite an image or another picture; predict one image at a time, with --out"
            )
        taken.add(picture.resolve())
    return pictures


def _classifier(arguments: argparse.Namespace) -> _Classifier:
    """The network and its ways, of a run or of released weights."""
    path, protocol = arguments.weights, arguments.protocol
    if is_run(path):
        for flag, value in (("--model", arguments.model), ("--head-rows", arguments.head_rows)):
            if value is not None:
                raise ValueError(f"--weights {path} is a run and knows its model; leave out {flag}")
        trained = load_run(path)
        model, (mean, std), names = trained.model, trained.colours, tuple(trained.meta["classes"])
        transform = Transform(model.config.image, protocol or "whole")
    else:
        rows = head_rows(arguments.head_rows)
        model, mean, std, names = official.from_file(path, arguments.model, rows=rows), MEAN, STD, None
        transform = transform_for(model.config, protocol or "released")
    return _Classifier(model, transform, mean, std, _names(model.config.classes, arguments.classes, names))


def _names(count: int, file: Path | None, known: Sequence[str] | None) -> Sequence[str]:
    """The user's names, those that the run knows, ImageNet's for a thousand classes, or numbers."""
    if file is None:
        return known or (class_names() if count == 1000 else [f"class {i}" for i in range(count)])
    try:
        names = [line.strip() for line in file.read_text("utf-8").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise ValueError(f"--classes {file}: is not a text file in UTF-8") from error
    if len(names) != count:
        raise ValueError(f"--classes {file}: has {len(names)} names, the model {count} classes")
    return names


def _classify(classifier: _Classifier, pixels: np.ndarray, device: str) -> tuple[np.ndarray, dict]:
    """Probabilities (K,), and the record of the forward pass."""
    record: dict = {}
    x = to_device(normalise(pixels[None], classifier.mean, classifier.std), device)  # (1, S, S, 3)
    with no_grad():
        logits = classifier.model(Tensor(x), record=record)
        return asnumpy(ops.softmax(logits).data)[0], record


def _table(named: Sequence[tuple[str, float]]) -> str:
    width = max(len(name) for name, _ in named)
    return "\n".join(f"  {name:{width}}  {100 * share:6.2f} %" for name, share in named)


def _draw(pixels: np.ndarray, records: dict, named: Sequence[tuple[str, float]], picture: Path) -> str:
    """Draw the picture; a line on where it is."""
    last = dict(sorted(records))  # of each stage its last deformable block
    shown = {key: records[key] for key in list(last.items())[-PICTURE_STAGES:]}
    if not shown:
        return "no picture: the network has no deformable block"
    from minidat.analysis.predictions import prediction_figure  # matplotlib takes a moment to import

    prediction_figure(pixels, shown, picture, named=named)
    return f"points in {picture}"
