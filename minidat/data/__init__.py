"""Data sets by name: CIFAR-10 and CIFAR-100 from their files, and drawn `shapes`."""

from __future__ import annotations

from pathlib import Path

from minidat.data.cifar import read
from minidat.data.dataset import DataError, Dataset
from minidat.data.shapes import Shapes

__all__ = ["DATASETS", "SPLITS", "DataError", "Dataset", "load"]

DATASETS = ("shapes", "cifar10", "cifar100")
SPLITS = ("train", "test")
DATA_DIR = "data"  # where files are looked for when no folder is named, under the working directory


def load(
    name: str,
    split: str,
    *,
    data_dir: str | Path | None = None,
    seed: int = 0,
    size: int | None = None,
    download: bool = False,
) -> Dataset:
    """The data set called `name`: "shapes", "cifar10" or "cifar100".

    split: "train" or "test". size: keep this many images, the first ones (None: all; 20,000 and 2,000 for
    shapes). seed: which shapes are drawn; files do not depend on it. data_dir: the folder that holds the
    archive or its unpacked folder, or either of them itself; None is ./data. download: fetch the archive
    where nothing is found.

    CIFAR is read from the binary or the Python version, the archive straight from its .tar.gz. Sizes and
    labels are verified, checksums are not, so that a set of one's own in the same layout is welcome.
    CIFAR-100 has its fine labels. Raises ValueError for an unknown name, split or size, and DataError for
    files that are missing or damaged.
    """
    if name not in DATASETS:
        raise ValueError(f"data set {name!r} is unknown, expected one of {', '.join(DATASETS)}")
    if split not in SPLITS:
        raise ValueError(f"{name}: split is {split!r}, expected one of {', '.join(SPLITS)}")
    if name == "shapes":
        return Shapes(split, seed=seed, size=size)
    place = Path(DATA_DIR if data_dir is None else data_dir).expanduser().absolute()
    return read(name, split, place, size=size, download=download)
