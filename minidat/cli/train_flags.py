"""The flags of `minidat train`, and what a user said with them."""

from __future__ import annotations

import argparse
import json
from dataclasses import fields
from pathlib import Path
from typing import Any

from minidat.cli.flags import add_changes, add_device, add_key, add_loops, add_threads
from minidat.data import DATASETS, SAMPLES
from minidat.data.augment import RECIPES
from minidat.dense import HEADS
from minidat.fast import loops
from minidat.fast.cuda.cublas import PRECISIONS
from minidat.models import MODELS
from minidat.training.included import included
from minidat.training.settings import DEFAULTS, Settings

NAMED = {"model": "MODEL", "changes": "--set"}  # settings that are not named by their flag


def add_flags(command: argparse.ArgumentParser) -> None:
    """The command's flags."""
    default = Settings()
    flag = command.add_argument
    names = ", ".join(MODELS)
    flag(
        "model",
        nargs="?",
        metavar="MODEL",
        choices=MODELS,
        help=f"{names} ({_default('model')})",
    )
    add_changes(command)
    flag(
        "--head",
        choices=HEADS,
        help="for detection or segmentation: the head on the network's pyramid, with defaults of its own, which settings.json "
        "tells (default: none, for classification)",
    )
    flag(
        "--set-head",
        dest="head_options",
        action="extend",
        nargs="+",
        metavar="NAME=VALUE",
        help="change the head: channels=128, norm=batch; an option that it does not have is told with those that it has",
    )
    flag(
        "--data",
        choices=dict.fromkeys([*DATASETS, *SAMPLES]),
        help=f"data set; shapes is drawn on the fly, without files, with --head as scenes of several; folder is your own "
        f"pictures (default: {default.data})",
    )
    flag(
        "--data-dir",
        help="folder with the data: for folder and imagenet DIR/train/CLASS/*.jpg and DIR/val/CLASS/*.jpg, or DIR/CLASS/*.jpg, "
        "of which a fifth is tested on; for CIFAR the archive or its unpacked folder; for coco the folder of annotations/ and "
        "train2017/; for ade20k that of images/ and annotations/ (default: data)",
    )
    flag(
        "--workers",
        type=int,
        metavar="N",
        help="processes that read image files ahead; the results are the same (default: one, or with a GPU one a core, up to 8)",
    )
    flag(
        "--skip-damaged",
        action="store_true",
        default=None,
        help="go on without image files that cannot be read, and name them",
    )
    flag("--download", action="store_true", help="download the archive into --data-dir, unless it is there")
    flag("--out", type=Path, help="folder for log, curves and checkpoints (default: a new one under runs/)")
    flag(
        "--resume",
        type=Path,
        metavar="RUN",
        help="continue a run with its own settings: its folder (a folder of runs lists them)",
    )
    flag(
        "--weights",
        metavar="FILE|RUN",
        help="start from these weights: the folder of a run, or a file with the released names (.pth, .safetensors), or "
        f"included weights, {', '.join(included())}; MODEL is then theirs, and the head a fresh one where the classes are others",
    )
    add_key(command)
    flag(
        "--freeze",
        metavar="N|PARTS",
        help="do not train the first N stages and the layers before them (0: the stem alone), or the parts of these names, such "
        "as stem,stages.0",
    )
    flag(
        "--layer-decay",
        type=float,
        metavar="FACTOR",
        help="learning rate of each block as a share of that of the next one, so that old layers move less; the head has the "
        f"whole rate (default: {default.layer_decay:g}; 0.75 is common)",
    )
    flag("--epochs", type=int, help=f"passes over the data ({_default('epochs')})")
    flag("--batch", type=int, help=f"images a step ({_default('batch')})")
    flag(
        "--accumulate",
        type=int,
        metavar="N",
        help=f"cut each batch into N parts that pass one after the other, where it needs too much memory "
        f"(default: {default.accumulate})",
    )
    flag("--lr", type=float, help=f"highest learning rate ({_default('lr')})")
    flag("--minimum-lr", type=float, help=f"learning rate at the end of the cosine (default: {default.minimum_lr})")
    flag("--warmup-lr", type=float, help=f"learning rate of the first step (default: {default.warmup_lr:g})")
    flag("--warmup", type=float, help=f"epochs of linear warm-up ({_default('warmup')})")
    flag("--weight-decay", type=float, help=f"AdamW's weight decay (default: {default.weight_decay})")
    flag("--clip", type=float, help=f"largest norm of the gradient, 0 for no clipping (default: {default.clip})")
    flag("--smoothing", type=float, help=f"label smoothing ({_default('smoothing')})")
    flag("--drop-path", type=float, help="drop path rate of the last block (default: the network's own)")
    flag(
        "--recipe",
        choices=RECIPES,
        help=f"augmentation ({_default('recipe')}); the recipe imagenet is the released code's, and "
        "sets rates, warm-up, clipping and smoothing as it does, in proportion to the batch",
    )
    flag(
        "--ema",
        type=float,
        metavar="DECAY",
        help="test and keep a moving average of the weights, such as 0.9999 (default: none)",
    )
    flag("--seed", type=int, help=f"of weights, data order and noise (default: {default.seed})")
    flag("--train-size", type=int, help="train on so many images (default: all)")
    flag("--test-size", type=int, help="test on so many images (default: all)")
    flag(
        "--validation",
        type=float,
        metavar="SHARE",
        help=f"share of the training images held out, to choose the best epoch, which else the test images choose "
        f"({_default('validation')})",
    )
    flag("--micro", type=int, help=f"images a thread takes at a time (default: {default.micro})")
    flag(
        "--precision",
        choices=PRECISIONS,
        help=f"of the factors of matrix products on a GPU; weights and sums stay fp32 (default: {default.precision})",
    )
    add_device(command)
    flag(
        "--no-graph",
        action="store_true",
        help="on a GPU: launch every kernel by itself, not as one CUDA graph; slower, with the same results",
    )
    add_threads(command)
    add_loops(command, "auto")


def _default(setting: str) -> str:
    """A setting's default, and that of the data sets that have another, without a head."""
    usual, others = getattr(Settings, setting), {}
    for name, values in DEFAULTS.items():
        if (value := values.get(setting, usual)) != usual:
            others.setdefault(value, []).append(name)
    return "; ".join([f"default: {usual}", *(f"{value} for {', '.join(names)}" for value, names in others.items())])


def flag_of(setting: str) -> str:
    """How the command line names a setting."""
    return NAMED.get(setting) or "--" + setting.replace("_", "-")


def settings_given(arguments: argparse.Namespace, head_options: dict[str, Any]) -> dict[str, Any]:
    """The settings that the user named; of --set-head with the head's other options."""
    named = {field.name: getattr(arguments, field.name, None) for field in fields(Settings)}
    named["loops"] = None if arguments.loops == loops.AUTO else arguments.loops
    named["changes"] = arguments.changes and tuple(arguments.changes)
    named["head_options"] = arguments.head_options and head_options | dict(map(_head_option, arguments.head_options))
    return {name: value for name, value in named.items() if value is not None}


def _head_option(change: str) -> tuple[str, Any]:
    """NAME=VALUE of --set-head; the value is JSON, or else text. Raises ValueError for another form."""
    name, equals, value = change.partition("=")
    if not equals or not value:
        raise ValueError(f"--set-head {change}: write NAME=VALUE, such as channels=128")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def place_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """Where and how to compute, which is not a setting of the run."""
    return {
        "device": arguments.device,
        "threads": arguments.threads,
        "graph": not arguments.no_graph,
        "readers": arguments.workers,
    }
