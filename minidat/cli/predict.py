"""`minidat predict`: what is in an image, and where the network's deformable points went."""

from __future__ import annotations

import argparse
import itertools
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from minidat import ops
from minidat.autograd import Tensor, no_grad
from minidat.autograd.backend import asnumpy, to_device
from minidat.cli import dense
from minidat.cli.flags import add_device, add_head_rows, add_key, add_model, head_rows, new_command
from minidat.cli.photograph import Letterbox, read_photograph
from minidat.cli.pictures import last_blocks
from minidat.cli.terminal import printable, say
from minidat.cli.weights import TrainedRun, is_run, load_run
from minidat.data.augment import normalise
from minidat.data.dataset import DataError
from minidat.data.imagenet import class_names, transform_for
from minidat.data.images import FORMATS, MEAN, PROTOCOLS, STD, SUFFIXES
from minidat.dense import HEADS
from minidat.fast import loops
from minidat.metrics.top_k import check_finite
from minidat.models import Pyramid
from minidat.released import official
from minidat.training.included import FIRST, included, is_included

ENDING = "-points.png"  # of the pictures' names
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


@dataclass(frozen=True)
class _Classifier:
    """What `dense.Viewer` is for a network with a head, of a classifier. names: of its classes, of which `top` are told."""

    model: Pyramid
    transform: Callable[[Image.Image], np.ndarray]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    names: Sequence[str]
    device: str
    top: int

    def read(self, path: Path) -> np.ndarray:
        """uint8 (S, S, 3). Raises DataError where the image cannot be read."""
        return self.transform(read_photograph(path))

    def tell(self, path: Path, pixels: np.ndarray, picture: Path) -> Iterator[str]:
        """Blocks of lines: the classes, and where the picture is. Raises ValueError for outputs that are not finite."""
        record: dict = {}
        x = to_device(normalise(pixels[None], self.mean, self.std), self.device)  # (1, S, S, 3)
        with no_grad():
            logits = self.model(Tensor(x), record=record)  # (1, K)
            check_finite(asnumpy(logits.data), [path])
            probabilities = asnumpy(ops.softmax(logits).data)[0]  # (K,)
        best = np.argsort(-probabilities, kind="stable")[: self.top]
        named = [(self.names[i], float(probabilities[i])) for i in best]
        yield f"{printable(str(path))}\n{_table(named)}"
        yield f"  {_draw(pixels, record, named, picture)}"


def run(arguments: argparse.Namespace) -> int:
    """A block of lines and a picture for each image; a line on stderr for each that cannot be read."""
    if arguments.top is not None and arguments.top < 1:
        raise ValueError(f"top is {arguments.top}; it must be at least 1")
    if arguments.score is not None and not 0 <= arguments.score <= 1:
        raise ValueError(f"score is {arguments.score}; it must be from 0 to 1")
    images = _images(arguments.images)
    pictures = _pictures(images, arguments.out)
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


def _viewer(arguments: argparse.Namespace) -> _Classifier | dense.Viewer:
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


def _images(named: Sequence[Path]) -> list[Path]:
    """The image files that were named, and those in the folders that were named, each once."""
    found: dict[Path, Path] = {}
    for path in named:
        files = sorted(filter(_is_photograph, path.iterdir())) if path.is_dir() else [path]
        if not files:
            raise ValueError(f"{path}: the folder holds no image ({', '.join(SUFFIXES)})")
        for file in files:
            found.setdefault(file.resolve(), file)
    return list(found.values())


def _is_photograph(path: Path) -> bool:
    """Whether a file in a folder is an image to classify: not a hidden one, nor a picture that this command made."""
    name = path.name.lower()
    return name.endswith(SUFFIXES) and not name.startswith(".") and not name.endswith(ENDING)


def _pictures(images: Sequence[Path], out: Path | None) -> list[Path]:
    """Where each image's picture goes: never over an image, nor over another picture."""
    folder = Path() if out is None else out
    if not folder.is_dir():
        return [_picture(images, folder)]
    taken, pictures = {path.resolve() for path in images}, []
    for path in images:
        endings = itertools.chain([ENDING], (f"-{i}{ENDING}" for i in itertools.count(2)))
        names = (path.stem + ending for ending in endings)
        pictures.append(next(folder / name for name in names if (folder / name).resolve() not in taken))
        taken.add(pictures[-1].resolve())
    return pictures


def _picture(images: Sequence[Path], out: Path) -> Path:
    """The one picture that --out names."""
    if len(images) > 1:
        raise ValueError(f"--out {out} is one picture, and there are {len(images)} images; name a folder that exists")
    if out.suffix.lower() != ".png":
        raise ValueError(f"--out {out}: the picture is a PNG; give it a name that ends in .png")
    if not out.parent.is_dir():
        raise ValueError(f"--out {out}: the folder {out.parent} does not exist")
    if out.resolve() == images[0].resolve():
        raise ValueError(f"--out {out}: the picture would overwrite the image; give it another name")
    return out


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
    if arguments.device == "cpu" and not is_included(
        path
    ):  # included weights are rounded, and loops take time to compile
        loops.use(trained.state.settings.loops, say)
    return trained


def _classifier(arguments: argparse.Namespace, trained: TrainedRun | None) -> _Classifier:
    """The network of a run or of released weights, with its way to take images."""
    path, protocol = arguments.weights or Path(FIRST), arguments.protocol or LETTERBOX
    if trained is not None:
        model, (mean, std), names = trained.model, trained.colours, trained.state.classes
    else:
        rows = head_rows(arguments.head_rows)
        model, mean, std, names = (
            official.from_file(path, arguments.model, rows=rows, key=arguments.key),
            MEAN,
            STD,
            None,
        )
    side = model.config.image
    transform = Letterbox(side, mean) if protocol == LETTERBOX else transform_for(model.config, protocol)
    named = _names(model.config.classes, arguments.classes, names)
    model.to(device=arguments.device)
    return _Classifier(model, transform, mean, std, named, arguments.device, arguments.top or TOP)


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


def _table(named: Sequence[tuple[str, float]]) -> str:
    width = max(len(name) for name, _ in named)
    return "\n".join(f"  {name:{width}}  {100 * share:6.2f} %" for name, share in named)


def _draw(pixels: np.ndarray, records: dict, named: Sequence[tuple[str, float]], picture: Path) -> str:
    """Draw the picture; a line on where it is."""
    shown = last_blocks(records)
    if not shown:
        return "no picture: the network has no deformable block"
    from minidat.analysis.predictions import prediction_figure  # matplotlib takes a moment to import

    prediction_figure(pixels, shown, picture, named=named)
    return f"points in {printable(str(picture))}"
