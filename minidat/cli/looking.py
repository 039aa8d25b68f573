"""`minidat figure keys` and `minidat figure points`: what a trained network read in a photograph."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from minidat.autograd import Tensor, no_grad
from minidat.autograd.backend import asnumpy, to_device
from minidat.cli.flags import add_device, add_key, add_model, new_command
from minidat.cli.photograph import Letterbox, read_photograph
from minidat.cli.pictures import has_points
from minidat.cli.terminal import printable
from minidat.cli.weights import is_run, load_run
from minidat.data.augment import normalise
from minidat.data.imagenet import class_names
from minidat.data.images import MEAN, STD
from minidat.metrics.top_k import check_finite
from minidat.models import Pyramid
from minidat.released import official
from minidat.training.included import FIRST, included


def add(pictures: Any) -> None:
    """A command for each picture."""
    for name, draw, summary in (
        ("keys", _keys, "the most important keys of a photograph: circles where a trained network read"),
        ("points", _points, "where a trained network's deformable points went on a photograph"),
    ):
        picture = new_command(pictures, name, summary, f"{summary[0].upper()}{summary[1:]}.")
        flag = picture.add_argument
        flag("--image", type=Path, required=True, metavar="FILE", help="the photograph")
        flag(
            "--weights",
            type=Path,
            default=Path(FIRST),
            metavar="FILE|RUN",
            help="weights with the released names, the folder of a run, or included weights: " + ", ".join(included()),
        )
        add_model(picture)
        add_key(picture)
        if draw is _keys:
            flag(
                "--query",
                metavar="ROW,COL",
                help="for this pixel of the photograph alone (default: for the whole answer)",
            )
            flag("--keep", type=int, help="keys of a stage that are drawn as circles (default: a third, at most 30)")
        flag("--out", type=Path, default=Path(f"{name}.png"), help="the picture, a PNG, in this folder")
        add_device(picture)
        picture.set_defaults(run=run, draw=draw)


@dataclass(frozen=True)
class _Subject:
    """A network and a photograph: pixels (S, S, 3) uint8 as the network sees it, x (1, S, S, 3) as it takes it."""

    model: Pyramid
    names: list[str]
    photograph: Image.Image
    pixels: np.ndarray
    x: Any


def run(arguments: argparse.Namespace) -> int:
    """Draw the picture and say where it is."""
    out: Path = arguments.out
    if out.suffix.lower() != ".png":
        raise ValueError(f"--out {out}: the picture is a PNG; give it a name that ends in .png")
    if not out.parent.is_dir():
        raise ValueError(f"--out {out}: the folder {out.parent} does not exist")
    if out.resolve() == arguments.image.resolve():
        raise ValueError(f"--out {out}: the picture would overwrite the image; give it another name")
    arguments.draw(arguments, _subject(arguments))
    print(printable(str(out)))
    return 0


def _subject(arguments: argparse.Namespace) -> _Subject:
    path = arguments.weights
    if is_run(path):
        for flag, value in (("--model", arguments.model), ("--key", arguments.key)):
            if value is not None:
                raise ValueError(f"--weights {path} is a run and knows its model; leave out {flag}")
        trained = load_run(path)
        if trained.state.settings.head is not None:
            raise ValueError(f"--weights {path} has a head; `minidat predict` draws what it found")
        model, (mean, std), known = trained.model, trained.colours, list(trained.state.classes)
    else:
        model, mean, std, known = official.from_file(path, arguments.model, key=arguments.key), MEAN, STD, None
    if not has_points(model):
        raise ValueError(f"--weights {path}: the network has no deformable block, so there is nothing to draw")
    count = model.config.classes
    names = known or (class_names() if count == 1000 else [f"class {i}" for i in range(count)])
    photograph = read_photograph(arguments.image)
    pixels = Letterbox(model.config.image, mean)(photograph)
    model.to(device=arguments.device)
    x = to_device(normalise(pixels[None], mean, std), arguments.device)
    return _Subject(model, [printable(str(name)) for name in names], photograph, pixels, x)


def _keys(arguments: argparse.Namespace, subject: _Subject) -> None:
    from minidat.analysis.keys import important_keys, look
    from minidat.analysis.keys_figure import keys_figure  # matplotlib takes a moment to import

    if arguments.keep is not None and arguments.keep < 1:
        raise ValueError(f"--keep is {arguments.keep}; it must be at least 1")
    size = subject.pixels.shape[:2]
    query = None if arguments.query is None else _place(arguments.query, subject.photograph.size, size[0])
    logits, seen = look(subject.model, subject.x)
    check_finite(logits[None], [arguments.image])
    scores = important_keys(subject.model, seen, size, query)
    title = subject.names[int(logits.argmax())]
    keys_figure(subject.pixels, seen, scores, arguments.out, title=title, keep=arguments.keep, query=query)


def _place(text: str, photograph: tuple[int, int], side: int) -> tuple[float, float]:
    """ "ROW,COL", in pixels of a photograph of (width, height), → (row, col) in the square that the network sees."""
    try:
        row, col = (int(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"--query {text}: it must be ROW,COL, two whole numbers, such as 120,200") from None
    width, height = photograph
    if not (0 <= row < height and 0 <= col < width):
        raise ValueError(f"--query {text}: the photograph has {height} rows and {width} columns, counted from 0")
    scale = side / max(photograph)
    rows, cols = (max(round(n * scale), 1) for n in (height, width))
    return (row + 0.5) * rows / height - 0.5 + (side - rows) // 2, (col + 0.5) * cols / width - 0.5 + (side - cols) // 2


def _points(arguments: argparse.Namespace, subject: _Subject) -> None:
    from minidat.analysis.points_figure import points_figure

    record: dict = {}
    with no_grad():
        logits = subject.model(Tensor(subject.x), record=record)
    check_finite(asnumpy(logits.data), [arguments.image])
    predicted = int(logits.data[0].argmax())
    points_figure(subject.pixels[None], record, arguments.out, classes=subject.names, predictions=[predicted])
