"""`minidat info`: a network's shapes and costs, or a run's settings."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

from minidat.cli.flags import add_changes, meant, new_command
from minidat.cli.runs import describe
from minidat.dense import HEADS
from minidat.models import MODELS, zoo
from minidat.training.included import card, included, is_included

CLASSES = {"detection": 80, "segmentation": 150}  # of COCO, of ADE20K
# flags that a run has no use for
OF_MODELS = "against", "head", "image", "classes", "detail", "convention", "changes"


def add(commands: Any) -> None:
    """The command's flags."""
    command = new_command(
        commands,
        "info",
        "shapes, parameters and multiply-adds of a network, or the settings of a run",
        "A network stage by stage: shapes, parameters and multiply-adds for one image. Or a run: its settings, and where it "
        "stands.",
    )
    flag = command.add_argument
    flag(
        "named",
        metavar="MODEL|RUN",
        help=f"{', '.join(MODELS)}; a run's folder, or one of its checkpoints; "
        f"or included weights, {', '.join(included())}",
    )
    add_changes(command)
    flag(
        "--against",
        nargs="+",
        default=[],
        metavar="OTHER",
        choices=MODELS,
        help="networks to put beside it, stage by stage",
    )
    flag(
        "--head",
        choices=HEADS,
        help="count the network as the backbone of a detector or segmenter: " + ", ".join(HEADS),
    )
    flag(
        "--image",
        type=image_size,
        metavar="SIDE|HxW",
        help="count for square images of this side, or for height×width (default: the network's own; with --head the paper's)",
    )
    flag(
        "--classes",
        type=int,
        help="number of classes (default: the network's own; with --head COCO's 80 or ADE20K's 150)",
    )
    flag("--detail", action="store_true", help="also what the multiply-adds of each kind of block are spent on")
    flag(
        "--convention",
        choices=("macs", "paper", "dense"),
        help="what counts: macs, multiply-adds alone (default); paper, as the paper's FLOPs, which also count 5 a layer norm "
        "element and 4 a sampled one; or dense, as the tables of detection and segmentation: 2 a layer norm element, biases of "
        "convolutions, 1 a ReLU",
    )
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the table of a network, or the settings of a run."""
    if is_included(arguments.named):
        _refuse_flags(arguments)
        print(card(arguments.named))
        return 0
    if arguments.named in MODELS:
        print(_table(arguments))
        return 0
    if not Path(arguments.named).exists():
        close = meant(arguments.named, MODELS)
        raise ValueError(f"info: {arguments.named} is no model and no run; {close or 'models: ' + ', '.join(MODELS)}")
    _refuse_flags(arguments)
    print(describe(Path(arguments.named)))
    return 0


def _refuse_flags(arguments: argparse.Namespace) -> None:
    surplus = [f"--{'set' if name == 'changes' else name}" for name in OF_MODELS if getattr(arguments, name)]
    if surplus:
        raise ValueError(f"info RUN tells the run's settings; leave out {', '.join(surplus)}")


def _table(arguments: argparse.Namespace) -> str:
    from minidat.analysis.skeleton import skeleton
    from minidat.analysis.tables import compare, table

    if arguments.head and arguments.against:
        raise ValueError("--head is of one network; leave out --against, or --head")
    if arguments.detail and arguments.against:
        raise ValueError("--detail is of one network; leave out --against, or --detail")
    if arguments.classes is not None and arguments.classes < 1:
        raise ValueError(f"--classes is {arguments.classes}; it must be at least 1")
    convention = arguments.convention or "macs"
    names = dict.fromkeys([arguments.named, *arguments.against])  # each once, in this order
    changes = {arguments.named: arguments.changes or ()}  # the others stay as they are
    models = {
        name: skeleton(zoo.config(name, classes=arguments.classes, changes=changes.get(name, ()))) for name in names
    }
    if arguments.head:
        return _dense_table(arguments, convention)
    if arguments.against:
        return compare(models, convention, image=arguments.image)
    return table(models[arguments.named], convention, image=arguments.image, detail=arguments.detail)


def _dense_table(arguments: argparse.Namespace, convention: str) -> str:
    from minidat.analysis.dense_cost import IMAGE
    from minidat.analysis.skeleton import dense_skeleton
    from minidat.analysis.tables import dense_table

    kind = HEADS[arguments.head].kind
    config = zoo.config(arguments.named, changes=arguments.changes or ())
    classes = CLASSES[kind] if arguments.classes is None else arguments.classes
    model = dense_skeleton(config, arguments.head, classes)
    image = IMAGE[kind] if arguments.image is None else arguments.image
    size = (image, image) if isinstance(image, int) else image
    return dense_table(model, arguments.named, arguments.head, convention, image=size, detail=arguments.detail)


def image_size(text: str) -> int | tuple[int, int]:
    """ "224", or "800x1280" as (height, width). Raises ArgumentTypeError for what is neither."""
    sides = re.fullmatch(r"(\d{1,5})(?:[x×](\d{1,5}))?", text)
    if not sides:
        raise argparse.ArgumentTypeError(f"{text!r} must be a side, as 224, or height x width, as 800x1280")
    return int(sides[1]) if sides[2] is None else (int(sides[1]), int(sides[2]))
