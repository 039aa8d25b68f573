"""Data sets by name: CIFAR-10 and CIFAR-100 from their files, drawn `shapes`, and folders of pictures."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from minidat.data.cifar import read_cifar
from minidat.data.dataset import DataError, Dataset, Part
from minidat.data.decoders import Decoders
from minidat.data.folder import read_folder
from minidat.data.imagenet import read_imagenet
from minidat.data.pictures import Pictures
from minidat.data.reading import Reader
from minidat.data.sample_sets import SAMPLES, load_samples
from minidat.data.shapes import Shapes
from minidat.files import expanded

__all__ = [
    "DATASETS",
    "OF_FILES",
    "SAMPLES",
    "SPLITS",
    "DataError",
    "Dataset",
    "load",
    "load_pictures",
    "load_samples",
]

OF_FILES = ("folder", "imagenet")  # of image files, which are read when they are due
DATASETS = ("shapes", "cifar10", "cifar100", *OF_FILES)
SPLITS = ("train", "val", "test")
DATA_DIR = "data"  # where files are looked for when no folder is named, under the working directory


def load(
    name: str,
    split: str,
    *,
    data_dir: str | Path | None = None,
    seed: int = 0,
    size: int | None = None,
    held_out: int = 0,
    download: bool = False,
) -> Dataset:
    """The data set called `name`: "shapes", "cifar10" or "cifar100". Those of image files have `load_pictures`.

    split: "train", "val" or "test". size: keep this many images, the first ones (None: all; 20,000 and 2,000 for
    shapes). held_out: how many of these training images, the last ones, are for validation: "train" is without them, and "val"
    is these. Give both the same size and the same number, such as 5,000 of CIFAR's 50,000. seed: which shapes are drawn; files
    do not depend on it. data_dir: the folder that holds the archive or its unpacked folder, or either of them itself; None is
    ./data. download: fetch the archive where nothing is found.

    CIFAR is read from the binary or the Python version, the archive straight from its .tar.gz or .tar. Sizes and
    labels are verified, checksums are not, so that a set of one's own in the same form is welcome.
    CIFAR-100 has its fine labels. Raises ValueError for an unknown name, split, size or number held out, and DataError for
    files that are missing or damaged.
    """
    known = [one for one in DATASETS if one not in OF_FILES]
    if name not in known:
        raise ValueError(f"data set {name!r} is unknown, expected one of {', '.join(known)}")
    if split not in SPLITS:
        raise ValueError(f"{name}: split is {split!r}, expected one of {', '.join(SPLITS)}")
    held_out = operator.index(held_out)
    if split == "test":
        return _whole(name, "test", data_dir, seed, size, download)
    whole = _whole(name, "train", data_dir, seed, size, download)
    least = 1 if split == "val" else 0
    if not least <= held_out < len(whole):
        raise ValueError(
            f"{name}: held_out is {held_out}, expected {least} to {len(whole) - 1} of the {len(whole)} training images"
        )
    if not held_out:
        return whole
    left = len(whole) - held_out
    return Part(whole, 0, left) if split == "train" else Part(whole, left, len(whole))


def _whole(name: str, split: str, data_dir: str | Path | None, seed: int, size: int | None, download: bool) -> Dataset:
    """All images of "train", with those for validation, or of "test"."""
    if name == "shapes":
        return Shapes(split, seed=seed, size=size)
    place = expanded(DATA_DIR if data_dir is None else data_dir).absolute()
    if "\0" in str(place):
        raise DataError(f"{name}: data_dir {str(place)!r} has a zero byte, which no folder's name can have")
    return read_cifar(name, split, place, size=size, download=download)


def load_pictures(
    name: str,
    split: str,
    *,
    reader: Reader,
    data_dir: str | Path | None,
    classes: Sequence[str] | None = None,
    size: int | None = None,
    decoders: Decoders | None = None,
    skip_damaged: bool = False,
) -> Pictures:
    """The data set `name` of `OF_FILES`: "folder", see `folder.read_folder`, or "imagenet", see `imagenet.read_imagenet`.

    split: "train" or "test". reader: what files become. data_dir: the folder; for ImageNet, None is ./data. Others: see
    `Pictures`. Raises ValueError for another name or split.
    """
    if name not in OF_FILES:
        raise ValueError(f"data set {name!r} is unknown, expected one of {', '.join(OF_FILES)}")
    if split not in ("train", "test"):
        raise ValueError(f"{name}: split is {split!r}, expected train or test")
    options: dict[str, Any] = {"classes": classes, "size": size, "reader": reader, "decoders": decoders}
    options["skip_damaged"] = skip_damaged
    if name == "imagenet":
        return read_imagenet(split, expanded(DATA_DIR if data_dir is None else data_dir), **options)
    return read_folder(split, None if data_dir is None else expanded(data_dir), **options)
